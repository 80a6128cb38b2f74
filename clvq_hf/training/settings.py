"""Settings of a run by name, as `clvq-hf train` reads them from `--set` and from YAML files."""

import contextlib
import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..models.configuration_clvq import CLVQConfig
from ..models.configuration_concepts import ConceptConfig
from ..reading import read_yaml
from ..typed import check_value, field_types
from .training_args import CLVQTrainingArguments

# What only the machine that trains can tell: grids and their reports are read on others, too.
_OF_THE_MACHINE = {"bf16", "bf16_full_eval", "fp16", "fp16_full_eval", "tf32", "torch_compile"}

# What the command sets itself: from the host, the texts, or its own options.
_NOT_SET_HERE = {
    *("is_causal", "output_dir", "text_column", "label_column", "dataset_name"),
}
_AT_LEAST_SOME = {
    *("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
}


def config_fields(config_class: type[ConceptConfig] = CLVQConfig) -> dict[str, Any]:
    """Type of each field of a method's config that a run may set, by name."""
    shared = set(field_types(ConceptConfig)) - {"codebook_size", "stack"}
    not_here = shared | _NOT_SET_HERE
    return {name: kind for name, kind in field_types(config_class).items() if name not in not_here}


def training_fields() -> dict[str, Any]:
    """Type of each field of [`CLVQTrainingArguments`][clvq_hf.CLVQTrainingArguments] that a run may set, by name."""
    kinds = typing.get_type_hints(CLVQTrainingArguments)
    names = {field.name for field in dataclasses.fields(CLVQTrainingArguments) if field.init}
    return {name: kinds[name] for name in sorted(names - _NOT_SET_HERE)}


def fit_fields(model_class: Any) -> dict[str, Any]:
    """Type of each argument of a method's `fit`, besides the cache, by name."""
    parameters = inspect.signature(model_class.fit).parameters
    # What is no type cannot be checked: nothing at all, and names that only checkers of types know.
    return {
        name: Any if isinstance(each.annotation, str) or each.annotation is each.empty else each.annotation
        for name, each in parameters.items()
        if name not in ("self", "cache")
    }


def read_settings(assignments: Iterable[str], file: Path | None = None) -> dict[str, Any]:
    """Read settings from a YAML file and from assignments (`"learning_rate=1e-3"`), which take precedence.

    Raises:
        ValueError: If an assignment has no `=`, or the file is no mapping.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        content = read_yaml(file.read_text(encoding="utf-8", errors="replace"), file) or {}
        if not isinstance(content, dict):
            raise ValueError(f"{file} must contain lines like 'learning_rate: 1e-3', and contains {content!r:.80}.")
        settings = {str(name).replace("-", "_"): value for name, value in content.items()}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"{assignment!r} is no setting: write --set NAME=VALUE, such as --set learning_rate=1e-3."
            )
        try:
            value = read_yaml(text, assignment)
        except ValueError:
            value = text
        settings[name.strip().replace("-", "_")] = value
    return settings


def check_settings(
    settings: Mapping[str, Any],
    known: Mapping[str, Any],
    what: str = "the fields of CLVQConfig and CLVQTrainingArguments",
) -> dict[str, Any]:
    """Settings in the types of their fields.

    Args:
        settings (`Mapping[str, Any]`): Values by name, as YAML reads them.
        known (`Mapping[str, Any]`): Types by name.
        what (`str`): What settings are, for the message.

    Raises:
        ValueError: If there is no such field (the message names similar ones), or a value is of another type.
    """
    for name in settings:
        if name not in known:
            similar = difflib.get_close_matches(name, known, 3)
            hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
            raise ValueError(f"There is no setting {name!r}.{hint} Settings are {what}.")
    return {name: _convert(name, value, known[name]) for name, value in settings.items()}


def check_arguments(kind: type[TrainingArguments], given: Mapping[str, Any], what: str) -> None:
    """Check values for `TrainingArguments`, which checks little of them itself before a run fails.

    Args:
        kind (`type`): The class of the arguments.
        given (`Mapping[str, Any]`): Values by name, all of which are fields.
        what (`str`): Where they are from, for the message.

    Raises:
        ValueError: If a value is of another type, negative, zero where there must be something, or refused by `kind`.
    """
    kinds = typing.get_type_hints(kind)
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    for name, value in given.items():
        check_value(value, kinds[name], f"{name} of {what}")
        if type(value) not in (int, float):
            continue
        default = defaults[name]
        may_be_negative = type(default) in (int, float) and default < 0  # which means "unset"
        if (value < 0 and not may_be_negative) or (value == 0 and name in _AT_LEAST_SOME):
            raise ValueError(f"{name} of {what} is too small; got {value}.")
    of_any_machine = {name: value for name, value in given.items() if name not in _OF_THE_MACHINE}
    try:
        kind("unused", **{"report_to": "none", "use_cpu": True, **of_any_machine})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what[:1].upper()}{what[1:]}: {error}") from error


def _convert(name: str, value: Any, kind: Any) -> Any:
    """A value as its field takes it, where YAML reads another type than was meant."""
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    kinds = [typing.get_origin(each) or each for each in (typing.get_args(kind) if is_union else (kind,))]
    if type(value) in kinds:
        return check_value(value, kind, name)
    if type(None) in kinds and isinstance(value, str) and value.casefold() == "none":
        return None
    # YAML takes 1e-3 for a string, because it has no point.
    if float in kinds and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return check_value(float(value), float, name)
    if str in kinds and isinstance(value, bool):  # as in save_strategy=no
        return "yes" if value else "no"
    if str in kinds and isinstance(value, str | int | float):
        return str(value)
    return check_value(value, kind, name)


__all__ = ["check_arguments", "check_settings", "config_fields", "fit_fields", "read_settings", "training_fields"]
