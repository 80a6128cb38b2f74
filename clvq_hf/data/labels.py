"""Labels of texts in the ids and names of a host's classes: mapped by name where there are names, or refused."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedModel
from transformers.utils import logging

from ..hosts.readout import Readout, class_names, label_number
from .text_files import LABEL_COLUMNS

logger = logging.get_logger(__name__)

# A column with more classes is an identifier or a score.
MAX_CLASSES = 1000
_KINDS = ("int", "uint", "bool", "float", "string", "large_string", "null")

# Usual names of columns of numbers, beside those of labels.
_NUMBER_COLUMNS = ("score", "rating", "stars", "value")

_WITHOUT_LABELS = "To go without labels, leave the column out of the file or the dataset."

# Labels as they are in a column → ids, and the names of all classes.
_Classes = tuple[Mapping[Any, int], list[str]]


def host_labels(
    dataset: Dataset,
    host: PreTrainedModel | None,
    label_column: str = "label",
    *,
    complete: bool = False,
    readout: Readout | None = None,
) -> Dataset:
    """Labels in the ids and names of the host's classes. Every label that meets a host passes here.

    Labels with names are matched with the host's by name, whatever the order; case, white space, `_` and `-` do not
    count. Labels that are only numbers (`1`, `"1"`, `"LABEL_1"`, `True`) are the host's ids, and get its names. A host
    whose classes have no names (`LABEL_0`, …) takes a `ClassLabel` of as many classes by its ids, and the names are the
    dataset's.

    What the classes are is a matter of the question that the host is asked, `readout`:

    - of a multi-label host `"not NAME"` and `"NAME"`, of the label that is asked about. A text's labels are a list of
      names or of ids, a list of zeros and ones (one per label of the host), the name of its only one, or 0 or 1 for the
      label that is asked about. A column that is called as this label comes before `"label"`.
    - of a regression `"below C"` and `"above C"`: labels are numbers.
    - of a token classification its classes, for labels of whole texts. Labels per token are not read.

    Args:
        dataset (`datasets.Dataset`): The texts. Labels are a `ClassLabel`, strings, whole numbers or booleans. `None`,
            NaN and empty strings are no label; so is -1 beside at least two classes, but not in the place of one, with
            a warning.
        host (`PreTrainedModel`, *optional*): The model that predicts them. Without a host, or a head that chooses a
            class, labels keep their own names, and strings are numbered by the alphabet; spellings that differ in case
            or white space are one class.
        label_column (`str`): Column of the labels; there may be none.
        complete (`bool`): Whether every text must have a label.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): The question. Default: the host's only one; a
            host of which a label or a centre must be chosen leaves labels their own names.

    Returns:
        `datasets.Dataset`: With a `ClassLabel` in `label_column`, `None` where there is no label; without a format.

    Raises:
        ValueError: If a label is none of the host's classes, or could be several; the message lists both.
    """
    if readout is None and host is not None:
        readout = Readout.of_or_none(host)
    if readout is None or readout.of_vocabulary:
        return map_labels(dataset, None, label_column, complete=complete)
    names = class_names(host) if readout.kind == "classification" and host is not None else list(readout.class_names)
    if readout.kind == "multi_label":
        dataset = _with_one_label(dataset, label_column, readout)
    elif readout.kind == "regression":
        dataset = _with_sides(dataset, label_column, readout)
    elif readout.kind == "token_classification":
        dataset = _without_token_labels(dataset, label_column)
    return map_labels(dataset, names, label_column, complete=complete)


def label_columns(readout: Readout | None, label_column: str | None = None) -> Sequence[str]:
    """Usual names of a column that holds the answers to a question, in order of preference.

    Raises:
        ValueError: If `label_column` is called as another label of the host than the one that is asked about.
    """
    if readout is None or readout.kind not in ("multi_label", "regression"):
        return LABEL_COLUMNS
    own = readout.outputs[readout.target or 0]
    others = {_normal(name) for name in readout.outputs} - {_normal(own)}
    if readout.kind == "multi_label" and label_column is not None and _normal(label_column) in others:
        raise ValueError(
            f"The column {label_column!r} is called as another label of the host than the one that is asked about, "
            f"{own!r}. Choose that column with label_column=…, or the label with target=…."
        )
    usual = [name for name in LABEL_COLUMNS if _normal(name) not in others]
    return (own, *usual, *(_NUMBER_COLUMNS if readout.kind == "regression" else ()))


def _with_one_label(dataset: Dataset, label_column: str, readout: Readout) -> Dataset:
    """Whether each text has the label that is asked about, as bools or as it is where it says no more than that."""
    names = dataset.column_names
    if label_column not in names or label_column == "label":
        label = _normal(readout.class_names[1])
        own = next((name for name in names if _normal(name) == label and name != label_column), None)
        if own is not None:
            values, feature = dataset.with_format(None)[own][:], dataset.features[own]
            if label_column in names:
                dataset = dataset.remove_columns(label_column)
            return dataset.add_column(label_column, values, feature=feature)
    label_columns(readout, label_column)
    if label_column not in names:
        return dataset
    feature, column = dataset.features[label_column], dataset.with_format(None)[label_column][:]
    inner = getattr(feature, "feature", None)
    known = {_normal(name): number for number, name in enumerate(readout.outputs)}
    if inner is not None:
        has = _in_lists(column, inner, known, readout, label_column)
    elif getattr(feature, "dtype", "") in ("string", "large_string") and all(
        _normal(name) in known for name in column if name is not None and name.strip()
    ):
        has = [None if not name or not name.strip() else known[_normal(name)] == readout.target for name in column]
    else:
        return dataset
    return _replaced(dataset, label_column, has, Value("bool"))


def _in_lists(
    column: list[Any], inner: Any, known: Mapping[str, int], readout: Readout, label_column: str
) -> list[bool | None]:
    """Whether the label that is asked about is in each list of labels; `None` where there is no list."""
    rows = [row for row in column if row is not None]
    found = sorted({value for row in rows for value in row if value is not None})
    kind = getattr(inner, "dtype", "")
    size = len(readout.outputs)
    remedy = (
        f"The host's labels are {_listed(f'{number} ({name})' for name, number in known.items())}. Lists hold names or "
        f"ids of these, or {size} zeros and ones. {_WITHOUT_LABELS}"
    )
    if isinstance(inner, ClassLabel) or kind in ("string", "large_string"):
        named = {value: _normal(_name(value, inner)) for value in found}
        if unknown := [_name(value, inner) for value in found if named[value] not in known]:
            raise ValueError(f"The column {label_column!r} has lists with {_listed(unknown)}. {remedy}")
        return [None if row is None else any(known[named[each]] == readout.target for each in row) for row in column]
    if not kind.startswith(("int", "uint", "bool", "float")):
        raise ValueError(f"The column {label_column!r} has lists of the type {kind}. {remedy}")
    if rows and all(len(row) == size for row in rows) and set(found) <= {0, 1} and size > 1:
        return [None if row is None else row[readout.target or 0] == 1 for row in column]
    if kind == "bool" or any(value % 1 or not 0 <= value < size for value in found):
        raise ValueError(f"The column {label_column!r} has lists with {_listed(found)}. {remedy}")
    return [None if row is None else readout.target in row for row in column]


def _with_sides(dataset: Dataset, label_column: str, readout: Readout) -> Dataset:
    """Whether each number is above the centre; labels that say so already stay as they are."""
    names = [*readout.class_names]
    if label_column not in dataset.column_names or not names:
        usual = [name for name in label_columns(readout) if name in dataset.column_names]
        if label_column != "label" or not names or not usual:
            return dataset
        column = dataset.with_format(None)[usual[0]][:]
        dataset = dataset.add_column(label_column, column, feature=dataset.features[usual[0]])
    feature = dataset.features[label_column]
    if getattr(feature, "names", None) == names:
        return dataset
    kind = getattr(feature, "dtype", "")
    if isinstance(feature, ClassLabel) or not kind.startswith(("int", "uint", "float", "null")):
        what = "classes" if isinstance(feature, ClassLabel) else kind or "lists"
        raise ValueError(
            f"The labels in the column {label_column!r} are {what}, and the host's output is a number. Choose a column "
            f"of numbers with label_column=…. {_WITHOUT_LABELS}"
        )
    column = dataset.with_format(None)[label_column][:]
    centre = readout.centre or 0.0
    sides = [None if value is None or value != value else int(value > centre) for value in column]
    return _replaced(dataset, label_column, sides, ClassLabel(names=names))


def _without_token_labels(dataset: Dataset, label_column: str) -> Dataset:
    if label_column not in dataset.column_names or not hasattr(dataset.features[label_column], "feature"):
        return dataset
    logger.warning_once(f"The column {label_column!r} has labels of tokens, which are not read: texts have none.")
    return dataset.remove_columns(label_column)


def _replaced(dataset: Dataset, name: str, values: list[Any], feature: Any) -> Dataset:
    """The dataset with other values in a column, in its place."""
    # Not removed first: without any other column there would be no rows.
    renamed = dataset.with_format(None).rename_column(name, f"{name} as it was")
    return renamed.add_column(name, values, feature=feature).select_columns(dataset.column_names)


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
    return _replaced(dataset, label_column, [ids.get(label) for label in column], new)


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


__all__ = ["host_labels", "label_columns", "label_names", "map_labels"]
