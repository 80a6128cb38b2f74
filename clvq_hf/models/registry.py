"""The concept methods that this process knows. Registering one makes it known everywhere."""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from .configuration_concepts import Preset

logger = logging.get_logger(__name__)

# Installed packages name their methods here: `name = module` or `name = module:Class`.
ENTRY_POINTS = "clvq_hf.methods"

_METHODS: dict[str, Any] = {}
# Modules of `--import`.
_IMPORTED: list[str] = []
_has_looked = False


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
    """The model class that is registered for a `model_type`, or `None`.

    If the type is not known yet, the methods of installed packages are registered first. No module is ever imported
    because a config names it.
    """
    if not isinstance(model_type, str):
        return None
    if model_type not in _METHODS:
        _register_installed()
    return _METHODS.get(model_type)


def method_classes() -> list[Any]:
    """All registered model classes, in the order of their registration, with those of installed packages."""
    _register_installed()
    return list(_METHODS.values())


def known_presets() -> dict[str, tuple[Any, Preset]]:
    """The named settings of all registered methods: name → model class and [`Preset`]."""
    return {
        name: (model_class, preset)
        for model_class in method_classes()
        for name, preset in model_class.config_class.presets.items()
    }


def import_methods(modules: Sequence[str], what: str) -> None:
    """Import modules that register methods, from the working directory or wherever Python finds them.

    Args:
        modules (`Sequence[str]`): Names of modules.
        what (`str`): What the user calls them, for messages.

    Raises:
        ValueError: If a module does not exist, or fails while it is imported.
    """
    if modules and (folder := str(Path.cwd())) not in sys.path:  # an installed command does not look there
        sys.path.insert(0, folder)
    for module in modules:
        if not isinstance(module, str):
            raise ValueError(f"{what} must be names of modules, got {module!r}.")
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ValueError(f"{what}: the module {module!r} cannot be imported: {error}") from error


def import_everywhere(modules: Sequence[str]) -> None:
    """Import the modules of `--import`, here and in all processes that a comparison starts; see `import_methods`."""
    import_methods(modules, "--import")
    _IMPORTED.extend(modules)


def imported_everywhere() -> tuple[str, ...]:
    """The modules that `import_everywhere` has imported."""
    return tuple(_IMPORTED)


def _register_installed() -> None:
    """Register the methods of installed packages, once. One that fails is left out with a warning."""
    global _has_looked
    if _has_looked:
        return
    _has_looked = True  # before: a package may ask for methods while it is imported
    for point in entry_points(group=ENTRY_POINTS):
        try:
            found = point.load()
            if isinstance(found, type):
                register_method(found)
        except (Exception, SystemExit) as error:
            package = "an installed package" if point.dist is None else f"the package {point.dist.name}"
            logger.warning(
                f"The method {point.name!r} of {package} ({point.value}) cannot be used: {type(error).__name__}: "
                f"{error}. All other methods work. Update the package, or uninstall it."
            )


__all__ = [
    "import_everywhere",
    "import_methods",
    "imported_everywhere",
    "known_presets",
    "method_class",
    "method_classes",
    "register_method",
]
