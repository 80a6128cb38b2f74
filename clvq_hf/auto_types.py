"""`AutoConfig` and `AutoModel` know our types right after `import clvq_hf`, which loads neither them nor our models."""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

# Model types of this package, with the names of their configs.
TYPES = {
    "clvq": "CLVQConfig",
    "concept_clusters": "ClusterConfig",
    "sparse_dictionary": "SparseConfig",
    "concept_class_only": "ClassOnlyConfig",
}
_AUTO = "transformers.models.auto.configuration_auto"


def _config_class(model_type: str) -> Any:
    importlib.import_module("clvq_hf.models")  # which registers the class in the place of the one that waits
    return importlib.import_module(_AUTO).CONFIG_MAPPING[model_type]


class _ConfigInWaiting:
    """Stands for a config class in the mapping of transformers until somebody uses it. It is no class itself."""

    def __init__(self, model_type: str) -> None:
        self._model_type = model_type
        self.__name__ = TYPES[model_type]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _config_class(self._model_type)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_model_type":  # of one that is not made yet
            raise AttributeError(name)
        return getattr(_config_class(self._model_type), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _config_class, (self._model_type,)


class _Finder(MetaPathFinder):
    """Adds our types as soon as transformers has loaded its own."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != _AUTO:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module: Any) -> None:
                load(module)
                _add_types(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = load_and_add
        return spec


def _add_types(module: Any) -> None:
    for model_type in TYPES:
        if model_type not in module.CONFIG_MAPPING:
            module.CONFIG_MAPPING.register(model_type, _ConfigInWaiting(model_type))


def register_types() -> None:
    """Make the types known now, or once transformers loads its own."""
    if _AUTO in sys.modules:
        _add_types(importlib.import_module(_AUTO))  # waits for another thread that is about to load it
    else:
        sys.meta_path.insert(0, _Finder())


__all__ = ["TYPES", "register_types"]
