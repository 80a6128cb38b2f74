"""`AutoConfig` and `AutoModel` know our types right after `import clvq_hf`, which loads neither them nor our models."""

import importlib.util
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


class _ConfigInWaiting:
    """Stands for a config class in the mapping of transformers until somebody uses it."""

    def __init__(self, model_type: str) -> None:
        self._model_type = model_type
        self.__name__ = TYPES[model_type]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._class()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._class(), name)

    def _class(self) -> Any:
        importlib.import_module("clvq_hf.models")  # which registers the class in its place
        return sys.modules[_AUTO].CONFIG_MAPPING[self._model_type]


class _Finder(MetaPathFinder):
    """Adds our types as soon as transformers has loaded its own."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module: Any) -> None:
                load(module)
                _add_types(module)

            spec.loader.exec_module = load_and_add
        return spec


def _add_types(module: Any) -> None:
    for model_type in TYPES:
        if model_type not in module.CONFIG_MAPPING:
            module.CONFIG_MAPPING.register(model_type, _ConfigInWaiting(model_type))


def register_types() -> None:
    """Make the types known now, or once transformers loads its own."""
    if _AUTO in sys.modules:
        _add_types(sys.modules[_AUTO])
    else:
        sys.meta_path.insert(0, _Finder())


__all__ = ["TYPES", "register_types"]
