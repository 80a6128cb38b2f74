"""Files of texts, read as what they hold: no text is taken for a missing value, a quotation mark or a number."""

import codecs
import csv
import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datasets import Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from .transforms import map_rows

logger = logging.get_logger(__name__)

LOCAL_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
# Usual names of the column in datasets, in order of preference.
LABEL_COLUMNS = ("label", "labels", "sentiment", "toxic", "toxicity", "class", "target")
# The longer marks come first: the one of UTF-32 begins with the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# How values of these types are written.
_TYPES = {
    "int64": re.compile(r"[+-]?[0-9]+"),
    "float64": re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
    "bool": re.compile("true|false", re.IGNORECASE),
}
_LONGEST_FIELD = 2**31 - 1


def read_file(file: Path, label_column: str | None = None, usual_labels: Sequence[str] = LABEL_COLUMNS) -> Dataset:
    """Read all rows of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file.

    Fields of `.csv` and `.tsv` are strings. Only labels, which no such file marks as numbers, become integers, floats
    or booleans if all of them are written so.

    Args:
        file (`Path`): The file.
        label_column (`str`, *optional*): Column of the labels. Default: the first of the usual names that exists.
        usual_labels (`Sequence[str]`): The usual names.

    Raises:
        ValueError: If a row cannot be read without loss; the message names the line.
    """
    suffix = file.suffix.lower()
    if suffix not in LOCAL_FORMATS:
        raise ValueError(f"{file}: the format {file.suffix!r} is not one of {sorted(LOCAL_FORMATS)}.")
    if file.stat().st_size == 0:
        raise ValueError(f"{file} is empty.")
    encoding = None if suffix == ".parquet" else _encoding(file)
    if encoding is not None and LOCAL_FORMATS[suffix] == "csv":
        return _read_separated(file, encoding, label_column, usual_labels)
    if encoding is not None and not encoding.startswith("utf-8"):
        raise ValueError(f"{file} is stored as {encoding}, and JSON is UTF-8. {_remedy(file, encoding)}")
    # Brackets in a path would be read as a pattern.
    data_files = {"train": glob.escape(str(file))}
    options = {"encoding": encoding} if encoding == "utf-8-sig" else {}
    try:
        dataset = load_dataset(LOCAL_FORMATS[suffix], data_files=data_files, split="train", **options)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error.__cause__ or error}") from error
    if suffix == ".jsonl" and encoding is not None and len(dataset) != (lines := _num_lines(file, encoding)):
        raise ValueError(f"{file} has {lines} lines, and {len(dataset)} rows were read: write one object per line.")
    return dataset


def find_column(dataset: Dataset, name: str | None, usual_names: Iterable[str], argument: str) -> str | None:
    """`name`, or the first of the usual names that is a column, in whatever case; `None` if there is none.

    Raises:
        ValueError: If there is no column `name`; the message names the argument that chooses it.
    """
    if name is not None and name not in dataset.column_names:
        raise ValueError(f"There is no column {name!r}; set {argument}=… to one of {dataset.column_names}.")
    columns = {column.casefold(): column for column in reversed(dataset.column_names)}
    usual = [each.casefold() for each in usual_names]
    return name or next((columns[each] for each in usual if each in columns), None)


def _encoding(file: Path) -> str:
    with file.open("rb") as content:
        start = content.read(4)
        for mark, encoding in _MARKS:
            if start.startswith(mark):
                return encoding
        content.seek(0)
        for number, line in enumerate(content, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file} is not stored as UTF-8: the byte 0x{line[error.start]:02X} in line {number} is no letter "
                    f"there. {_remedy(file, 'WINDOWS-1252')}"
                ) from None
    return "utf-8"


def _num_lines(file: Path, encoding: str) -> int:
    with file.open(encoding=encoding) as lines:
        return sum(not _is_blank([line]) for line in lines)


def _is_blank(row: list[str]) -> bool:
    return len(row) < 2 and not "".join(row).strip(" \n")


def _remedy(file: Path, encoding: str) -> str:
    return (
        f"Convert it from the encoding that it was written in, for example: iconv -f {encoding.upper()} -t UTF-8 "
        f"{file.name} > utf8-{file.name}"
    )


def _read_separated(file: Path, encoding: str, label_column: str | None, usual_labels: Sequence[str]) -> Dataset:
    has_quotes = file.suffix.lower() == ".csv"
    delimiter = "\t"
    with file.open(encoding=encoding, newline="") as lines:
        first = next((line for line in lines if not _is_blank([line])), "")
    if has_quotes:
        delimiter = max(",;\t|", key=lambda each: len(next(csv.reader([first], delimiter=each))))
    rows = _rows(file, encoding, delimiter, has_quotes)
    header = next((_names(row) for _, row in rows), None)
    if not header or len(set(header)) < len(header):
        raise ValueError(f"{file}: the first line must name the columns, each once, and it is {first.strip()!r}.")
    if next(rows, None) is None:
        raise ValueError(f"{file} holds the names of columns and no rows.")
    status = file.stat()
    settings = {
        "file": file.resolve(),
        "encoding": encoding,
        "delimiter": delimiter,
        "has_quotes": has_quotes,
        # Size and time tell a file that has changed from the one that is in the cache.
        "version": (status.st_size, status.st_mtime_ns),
    }
    features = Features(dict.fromkeys(header, Value("string")))
    try:
        dataset = Dataset.from_generator(_examples, features=features, gen_kwargs=settings)
    except DatasetGenerationError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    if len(dataset) != (num_lines := _num_lines(file, encoding) - 1):
        logger.warning(
            f"{file}: {len(dataset)} rows were read from {num_lines} lines; the others are within quotes. If each "
            "line should be a row, a quotation mark is missing or too many."
        )
    label_column = find_column(dataset, label_column, usual_labels, "label_column")
    return dataset if label_column is None else _with_typed_labels(dataset, label_column)


def _rows(file: Path, encoding: str, delimiter: str, has_quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file that are not blank, with the number of the line that each ends in."""
    csv.field_size_limit(_LONGEST_FIELD)
    quoting = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    with file.open(encoding=encoding, newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if not _is_blank(row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(
                f"{file}, line {reader.line_num}: {error}. A text with a quotation mark must be in quotes, and the "
                'mark doubled: "a ""good"" film".'
            ) from None


def _examples(
    file: Path, encoding: str, delimiter: str, has_quotes: bool, version: tuple[int, int]
) -> Iterator[dict[str, str]]:
    rows = _rows(file, encoding, delimiter, has_quotes)
    header = _names(next(rows)[1])
    for line, row in rows:
        if len(row) != len(header):
            remedy = "has to be in quotes" if has_quotes else "has to be stored in a .csv or .jsonl file"
            raise ValueError(
                f"{file}, line {line}: {len(row)} fields, and the first line names {len(header)} columns. A text that "
                f"contains {delimiter!r} {remedy}."
            )
        yield dict(zip(header, row, strict=True))


def _names(header: list[str]) -> list[str]:
    # Spaces beside a delimiter would hide the column of labels.
    return [name.strip() for name in header]


def _with_typed_labels(dataset: Dataset, column: str) -> Dataset:
    values = [value.strip() for value in dataset.unique(column) if value]
    kind = next(
        (kind for kind, form in _TYPES.items() if values and all(form.fullmatch(value) for value in values)), None
    )
    if kind is None:
        return dataset
    parse = {"int64": int, "float64": float, "bool": _is_true}[kind]

    def typed(texts: list[str]) -> dict[str, list[object]]:
        return {column: [parse(text.strip()) if text else None for text in texts]}

    features = Features({**dataset.features, column: Value(kind)})
    return map_rows(dataset, typed, (column, kind), input_columns=column, batched=True, features=features)


def _is_true(text: str) -> bool:
    return text.lower() == "true"


__all__ = ["LABEL_COLUMNS", "LOCAL_FORMATS", "find_column", "read_file"]
