"""Looking at concepts: an HTML report, its parts for other pages and notebooks, plots, word clouds.

`write_report`, `plots` and `word_clouds` need `pip install "clvq-hf[report]"`; the rest comes with the package.
"""

import importlib
from typing import Any

from ..tables.html import concept_html, text_html

# Imported at first use: matplotlib takes a second, and may be missing.
_LAZY = ("plots", "word_clouds", "write_report")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name == "write_report":
            return importlib.import_module(".page", __name__).write_report
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "wordcloud"):
            raise
        message = f'A report needs {error.name}: pip install "clvq-hf[report]"'
        raise ModuleNotFoundError(message, name=error.name) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


__all__ = ["concept_html", "plots", "text_html", "word_clouds", "write_report"]
