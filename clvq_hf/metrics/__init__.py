"""Metrics of concepts, each a self-contained module of Hugging Face `evaluate`.

Each is a class of this package, `LabelPurity().compute(...)`, and a folder that `evaluate.load` takes without this
package: `evaluate.load(path("label_purity"))`. Its `numerics.py` holds the mathematics as functions.
"""

import importlib
from pathlib import Path
from typing import Any

# Imported at first use: evaluate takes seconds.
_CLASSES = {
    "AblationDrop": "ablation_drop",
    "LabelPurity": "label_purity",
    "RoutingDivergence": "routing_divergence",
    "CodebookOverlap": "codebook_overlap",
    "CodebookSimilarity": "codebook_similarity",
    "CodebookUsage": "codebook_usage",
    "Stability": "stability",
}

names = tuple(_CLASSES.values())


def path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`.

    Args:
        name (`str`): One of `names`, such as `"label_purity"`.

    Returns:
        `str`: The folder.

    Raises:
        ValueError: If there is no such metric.

    Example:
        ```python
        >>> path("label_purity").endswith("label_purity")
        True

        ```
    """
    if name not in names:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(names)}.")
    return str(Path(__file__).parent / name)


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        module = _CLASSES[name]
        return getattr(importlib.import_module(f".{module}.{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_CLASSES])


__all__ = [
    "AblationDrop",
    "CodebookOverlap",
    "CodebookSimilarity",
    "CodebookUsage",
    "LabelPurity",
    "RoutingDivergence",
    "Stability",
    "names",
    "path",
]
