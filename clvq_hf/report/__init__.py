"""Looking at concepts: an HTML report, its parts for other pages and notebooks, plots, word clouds.

`write_report`, `plots` and `word_clouds` need `pip install "clvq-hf[report]"`; the rest comes with the package.
"""

import importlib
from typing import Any

from ..extras import require
from ..tables.html import concept_html, text_html

# Imported at first use: matplotlib takes a second, and may be missing.
_LAZY = ("plots", "word_clouds", "write_report")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("A report", "report")
    if name == "write_report":
        return importlib.import_module(".page", __name__).write_report
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


__all__ = ["concept_html", "plots", "text_html", "word_clouds", "write_report"]
