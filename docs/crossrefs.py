"""mkdocs hook: docstrings written the transformers way, shown the mkdocstrings way."""

import re
from typing import Any

SHORT = re.compile(r"\[<code>(~?[A-Za-z_][\w.]*)</code>\](?!\[)")
TYPE = re.compile(r"<code>([^<]*`[^<]*)</code>")
PACKAGE = "clvq_hf"
# Public names that are imported at first use are documented in their rooms.
ELSEWHERE = {"CLVQTrainer": "training", "CLVQTrainingArguments": "training", "ActivationCache": "data"}


def on_page_content(html: str, **kwargs: Any) -> str:
    """[`CLVQConfig`] → a link; (`int`, *optional*) → int, optional."""
    html = SHORT.sub(_link, html)
    return TYPE.sub(lambda found: f"<code>{re.sub('[`*]', '', found[1])}</code>", html)


def _link(found: re.Match) -> str:
    name = found[1].removeprefix("~")
    text = name.removeprefix(f"{PACKAGE}.")
    module = ELSEWHERE.get(text.split(".")[0])
    target = f"{PACKAGE}.{module}.{text}" if module else f"{PACKAGE}.{text}"
    return f'<autoref identifier="{target}" optional><code>{text}</code></autoref>'
