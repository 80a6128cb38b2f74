"""Labels of texts in the ids and names of a host's classes: mapped by name where there are names, or refused."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import PreTrainedModel
from transformers.utils import logging

from ..hosts.readout import class_names, label_number

logger = logging.get_logger(__name__)

# A column with more classes is an identifier or a score.
MAX_CLASSES = 1000
_KINDS = ("int", "uint", "bool", "float", "string", "large_string", "null")

_WITHOUT_LABELS = "To go without labels, leave the column out of the file or the dataset."

# Labels as they are in a column → ids, and the names of all classes.
_Classes = tuple[Mapping[Any, int], list[str]]


def host_labels(
    dataset: Dataset, host: PreTrainedModel | None, label_column: str = "label", *, complete: bool = False
) -> Dataset:
    """Labels in the ids and names of the host's classes. Every label that meets a host passes here.

    Labels with names are matched with the host's by name, whatever the order; case, white space, `_` and `-` do not
    count. Labels that are only numbers (`1`, `"1"`, `"LABEL_1"`, `True`) are the host's ids, and get its names. A host
    whose classes have no names (`LABEL_0`, …) takes a `ClassLabel` of as many classes by its ids, and the names are the
    dataset's.

    Args:
        dataset (`datasets.Dataset`): The texts. Labels are a `ClassLabel`, strings, whole numbers or booleans. `None`,
            NaN and empty strings are no label; so is -1 beside at least two classes, but not in the place of one, with
            a warning.
        host (`PreTrainedModel`, *optional*): The model that predicts them. Without a host, or a head that chooses a
            class, labels keep their own names, and strings are numbered by the alphabet; spellings that differ in case
            or white space are one class.
        label_column (`str`): Column of the labels; there may be none.
        complete (`bool`): Whether every text must have a label.

    Returns:
        `datasets.Dataset`: With a `ClassLabel` in `label_column`, `None` where there is no label; without a format.

    Raises:
        ValueError: If a label is none of the host's classes, or could be several; the message lists both.
    """
    return map_labels(dataset, None if host is None else class_names(host), label_column, complete=complete)


def label_names(dataset: Dataset) -> list[str]:
    """Return the names of the classes in `dataset["label"]`, in the order of their ids in a new head.

    Raises:
        ValueError: If there are no labels, or they are numbers with gaps.
    """
    own = host_labels(dataset, None)
    if "label" not in own.column_names:
        raise ValueError(f"The dataset has no column 'label'; it has {own.column_names}.")
    names = own.features["label"].names
    used = {number for number in own.unique("label") if number is not None}
    if not isinstance(dataset.features["label"], ClassLabel) and len(used) < len(names):
        raise ValueError(
            f"The labels are {_listed(names[number] for number in sorted(used))}, with gaps. Number them 0, 1, …, or "
            "write names."
        )
    return names


def map_labels(
    dataset: Dataset,
    names: Sequence[str] | None,
    label_column: str = "label",
    *,
    complete: bool = False,
    owner: str = "the host's classes",
) -> Dataset:
    """See [`host_labels`]; `names` are those of the classes in the order of their ids, `owner` says whose they are."""
    if label_column not in dataset.column_names:
        if complete:
            raise ValueError(f"The dataset has no column {label_column!r} of labels; it has {dataset.column_names}.")
        return dataset
    # numpy and torch have no None.
    dataset = dataset.with_format(None)
    feature = dataset.features[label_column]
    column = _read(dataset, label_column)
    found = sorted({label for label in column if label is not None})
    try:
        labels = _without_minus_one(found, feature, names)
        ids, new_names = _own(labels, feature) if names is None else _of(names, labels, feature, owner)
    except ValueError as error:
        listed = _listed(_name(label, feature) for label in found)
        raise ValueError(
            f"The labels in the column {label_column!r} are {listed}; {error} {_WITHOUT_LABELS}"
        ) from None
    if complete and (missing := sum(label not in ids for label in column)):
        raise ValueError(
            f"{missing} of {len(column)} texts have no label in the column {label_column!r}, and all need one. Leave "
            "these texts out."
        )
    if len(labels) < len(found):
        logger.warning(f"-1 counts as no label in the column {label_column!r}, beside {_listed(new_names)}.")
    new = ClassLabel(names=new_names)
    if feature == new and len(labels) == len(found) and all(label == ids[label] for label in labels):
        return dataset
    new_column = [ids.get(label) for label in column]
    # Not removed first: without any other column there would be no rows.
    renamed = dataset.rename_column(label_column, f"{label_column} as it was")
    return renamed.add_column(label_column, new_column, feature=new).select_columns(dataset.column_names)


def _read(dataset: Dataset, label_column: str) -> list[Any]:
    """The labels, `None` where there is none."""
    feature = dataset.features[label_column]
    kind = getattr(feature, "dtype", None) or "list"
    remedy = f"Choose another column with label_column=…. {_WITHOUT_LABELS}"
    if not kind.startswith(_KINDS):
        raise ValueError(f"The labels in the column {label_column!r} are of the type {kind}, not classes. {remedy}")
    column = dataset[label_column][:]
    if "string" in kind:  # an empty cell of a CSV
        column = [None if label is None or not label.strip() else label for label in column]
    if kind.startswith("float"):  # of integers with gaps, which are NaN
        column = [None if label is None or label != label else label for label in column]
        if others := sorted({label for label in column if label is not None and label % 1 != 0}):
            listed = _listed(others, 3)
            raise ValueError(
                f"The labels in the column {label_column!r} are numbers like {listed}, not classes. {remedy}"
            )
    return column


def _without_minus_one(labels: list[Any], feature: Any, names: Sequence[str] | None) -> list[Any]:
    """The labels without -1, if it can only mean that there is none."""
    others = [label for label in labels if label != -1]
    is_class = len(others) == 1 or len(labels) == len(names or [])
    if others != labels and others and is_class and not isinstance(feature, ClassLabel):
        raise ValueError(
            "is -1 a class, or no label? Number the classes 0, 1, …, and write null (None) where there is no label."
        )
    return others


def _name(label: Any, feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return feature.names[label] if label >= 0 else str(label)
    return f"{label:.0f}" if isinstance(label, float) else str(label)


def _number(label: Any, feature: Any) -> int | None:
    """The id that a label says; `None` if it is a name."""
    has_name = isinstance(label, str) or isinstance(feature, ClassLabel)
    return label_number(_name(label, feature)) if has_name else int(label)


def _own(labels: list[Any], feature: Any) -> _Classes:
    """The labels' own ids and names."""
    if isinstance(feature, ClassLabel):
        return {label: label for label in labels}, feature.names
    if feature.dtype == "bool":
        return {False: 0, True: 1}, ["False", "True"]
    numbers = {label: number for label in labels if (number := _number(label, feature)) is not None}
    if len(numbers) == len(labels):
        names = [str(number) for number in range(min(max(numbers.values(), default=-1), MAX_CLASSES) + 1)]
    else:
        names, numbers = _merged(labels)
    if len(names) > MAX_CLASSES or min(numbers.values(), default=0) < 0:
        raise ValueError(f"classes have names, or numbers from 0 to {MAX_CLASSES - 1}.")
    return numbers, names


def _merged(labels: list[str]) -> tuple[list[str], dict[str, int]]:
    """Names of classes, and the class of each label: spellings that differ in case or white space are one."""
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(_normal(label), []).append(label)
    if len(spellings) < len(labels):
        several = (" = ".join(map(repr, same)) for same in spellings.values() if len(same) > 1)
        logger.warning(f"Spellings of one class: {_listed(several)}.")
    # Not the one in capitals, if there is another.
    named = {min(same, key=lambda label: (label.isupper(), label)).strip(): same for same in spellings.values()}
    names = sorted(named)
    return names, {label: number for number, name in enumerate(names) for label in named[name]}


def _of(classes: Sequence[str], labels: list[Any], feature: Any, owner: str) -> _Classes:
    """The labels' ids among the named `classes`."""
    names = list(classes)
    is_named = any(label_number(name) != number for number, name in enumerate(names))
    own_names = feature.names if isinstance(feature, ClassLabel) else []
    if not is_named and any(label_number(name) is None for name in own_names):
        if len(own_names) == len(names):
            return {label: label for label in labels}, own_names
        raise ValueError(f"{owner} are {len(names)} without names, and the dataset has {len(own_names)}.")
    # Names that differ in nothing but case are told apart by it.
    normal = _normal if len({_normal(name) for name in names}) == len(names) else str.strip
    known = {normal(name): number for number, name in enumerate(names)}
    by_name = {label: known[name] for label in labels if (name := normal(_name(label, feature))) in known}
    numbers = {label: number for label in labels if (number := _number(label, feature)) is not None}
    by_number = {label: number for label, number in numbers.items() if 0 <= number < len(names)}
    if len(by_name) == len(labels):
        # Classes called 1 to 5 have the ids 0 to 4, and integers could be either.
        is_integer = not own_names and feature.dtype.startswith(("int", "uint", "float"))
        if is_integer and len(by_number) == len(labels) and by_number != by_name:
            raise ValueError(
                f"these could be names or ids of {owner}, {_listed(names)}. Write strings if they are names."
            )
        return by_name, names
    if len(by_number) == len(labels):
        as_names = [known.get(str(number)) for number in by_number.values()]
        if is_named and not own_names and None not in as_names and as_names != [*by_number.values()]:
            raise ValueError(
                f"these are ids of {owner}, {_listed(names)}, which are other numbers. Write their names."
            )
        return by_number, names
    if is_named or numbers:
        numbered = _listed(f"{number} ({name})" if is_named else number for number, name in enumerate(names))
        raise ValueError(f"{owner} are {numbered}. Give both the same names or numbers.")
    raise ValueError(
        f"{owner} have no names: {_listed(names)}. Name them in this order: --label negative --label positive, "
        "load_texts(…, label_names=[…]), or label_names of the dataset in a grid."
    )


def _normal(name: str) -> str:
    """A name without case, white space and hyphens; `LABEL_1` is 1."""
    if (number := label_number(name)) is not None:
        return str(number)
    words = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(words.replace("_", " ").replace("-", " ").split()) or words.strip()


def _listed(values: Iterable[Any], most: int = 10) -> str:
    words = [str(value) for value in values]
    return ", ".join(words[:most]) + (f", … ({len(words)})" if len(words) > most else "")


__all__ = ["host_labels", "label_names", "map_labels"]
