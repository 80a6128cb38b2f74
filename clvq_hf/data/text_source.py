"""`TextSource`: where the texts of a training run came from, so that they are found again without being named again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..hosts.readout import Readout
from .texts import PARTS, MissingSplitError, load_texts, split_texts

# Splits that hold out texts, in order of preference.
HELD_OUT_SPLITS = ("test", "validation", "dev", "val", "valid")
# Without such a split, a tenth of the training split is held out by text hash.
REST, HELD_OUT_PART = "host_train+codebook_train", "select"


@dataclass(frozen=True)
class TextSource:
    """A dataset, its columns, and which of its texts are trained on and which are held out.

    Attributes:
        dataset (`str`): Name, file or folder, see [`load_texts`][clvq_hf.data.load_texts].
        subset (`str` or `None`): Configuration of a Hub dataset.
        text_column (`str` or `None`): Column of the texts; `None` for the first of the usual names.
        label_column (`str` or `None`): Column of the labels; `None` for the first of the usual names.
        label_names (`Sequence[str]` or `None`): Names of the classes, in the order of their ids.
        split (`str`): Split of the training texts.
        part (`str` or `None`): Part of it, see [`select_part`].
        eval_split (`str` or `None`): Split of the held-out texts.
        eval_part (`str` or `None`): Part of it.
        usual_columns (`tuple[str | None, str | None]`): See [`load_texts`][clvq_hf.data.load_texts]; not recorded.
    """

    dataset: str
    subset: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    label_names: Sequence[str] | None = None
    split: str = "train"
    part: str | None = None
    eval_split: str | None = None
    eval_part: str | None = None
    usual_columns: tuple[str | None, str | None] = (None, None)

    @classmethod
    def of(cls, training: Mapping[str, Any] | None) -> "TextSource | None":
        """The source that a config's `training` records; `None` if it names no dataset, or somebody damaged it."""
        training = training if isinstance(training, dict) else {}
        recorded = {field.name for field in fields(cls)} - {"usual_columns"}
        known = {name: training[name] for name in recorded if training.get(name) is not None}
        if "split" not in known:  # the trainer was given texts, whose columns may have other names in the dataset
            known = {name: value for name, value in known.items() if not name.endswith("_column")}
        names = known.pop("label_names", None)
        if "dataset" not in known or not all(isinstance(value, str) for value in known.values()):
            return None
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return cls(**known, label_names=names if is_list else None)

    def to_dict(self) -> dict[str, Any]:
        """What [`TextSource.of`] reads."""
        return {name: value for name, value in asdict(self).items() if name != "usual_columns"}

    def load(self, split: str | None, readout: Readout | None = None, more_columns: Sequence[str] = ()) -> Dataset:
        """Load a split as a dataset with the columns `text`, if there are labels, `label`, and those of `more_columns`.

        The labels answer the question of `readout`, see [`load_texts`][clvq_hf.data.load_texts].
        """
        return load_texts(
            self.dataset,
            split,
            subset=self.subset,
            text_column=self.text_column,
            label_column=self.label_column,
            label_names=self.label_names,
            readout=readout,
            more_columns=more_columns,
            usual_columns=self.usual_columns,
        )

    def load_held_out(self, readout: Readout | None = None) -> tuple[Dataset, str, str | None]:
        """The held-out texts, with their split and part.

        They are those of `eval_split`, or else of the first usual split that the dataset has, or else a tenth of
        `split`, cut by text hash.
        """
        for split in [self.eval_split] if self.eval_split else HELD_OUT_SPLITS:
            try:
                return self.load(split, readout), split, None
            except MissingSplitError:
                if self.eval_split:
                    raise
        part = HELD_OUT_PART
        return select_part(self.load(self.split, readout), part), self.split, part


def select_part(texts: Dataset, part: str | None) -> Dataset:
    """A part of a split, cut by text hash: one of `PARTS`, several joined by `+`, or all of it with `None`.

    Raises:
        ValueError: If there is no such part.
    """
    if part is None:
        return texts
    names = part.split("+")
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"There is no part {unknown[0]!r} of a split; there are {', '.join(PARTS)}.")
    parts = split_texts(texts, PARTS)
    return concatenate_datasets([parts[name] for name in dict.fromkeys(names)])


__all__ = ["TextSource", "select_part"]
