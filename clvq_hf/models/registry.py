"""The concept methods that this process knows. Registering one makes it known everywhere."""

from typing import Any

from transformers import AutoConfig, AutoModel

_METHODS: dict[str, Any] = {}


def register_method(model_class: Any) -> Any:
    """Make a concept method known, by the `model_type` of its config.

    `AutoConfig`, `AutoModel` and [`ConceptModel.from_pretrained`][clvq_hf.ConceptModel.from_pretrained] then load it,
    and `clvq-hf compare` offers its `presets`. Registering the same class again changes nothing.

    Args:
        model_class (`type`): A subclass of [`ConceptModel`][clvq_hf.ConceptModel] with a `config_class`.

    Returns:
        `type`: The class, so that this function can be used as a decorator.

    Raises:
        ValueError: If its config has no `model_type`, or that of another method.
    """
    config_class = model_class.config_class
    model_type = getattr(config_class, "model_type", None)
    if not model_type:
        raise ValueError(f"{model_class.__name__} needs a config_class with a model_type.")
    known = _METHODS.get(model_type)
    if known is not None and _path_of(known) != _path_of(model_class):
        raise ValueError(f"The model_type {model_type!r} belongs to {known.__name__} already; choose another.")
    AutoConfig.register(model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    _METHODS[model_type] = model_class
    return model_class


def _path_of(model_class: Any) -> tuple[str, str]:
    # A cell of a notebook that runs again defines another class of the same path.
    return model_class.__module__, model_class.__qualname__


def method_class(model_type: Any) -> Any:
    """The model class that is registered for a `model_type`, or `None`."""
    return _METHODS.get(model_type) if isinstance(model_type, str) else None


def method_classes() -> list[Any]:
    """All registered model classes, in the order of their registration."""
    return list(_METHODS.values())


__all__ = ["method_class", "method_classes", "register_method"]
