"""HTML pages that open from disk: one file, no network, everything from data escaped."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# What could end a script element, or begin a comment in it, is written as an escape of JSON.
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_page(template: str, **content: Any) -> str:
    """Render a template of `rendering/templates`, with every value escaped.

    Args:
        template (`str`): Its path there. Templates have the filters `script_json` for data in a script element
            and `visible` for white space, and `asset("base.css")` for the text of a style sheet or script of ours.
        content: What the template shows.

    Returns:
        `str`: A page of one file.
    """
    return _environment().get_template(template).render(**content)


def read_asset(name: str) -> str:
    """The text of a style sheet or script of `rendering/templates`."""
    return _environment().loader.get_source(_environment(), name)[0]


def script_json(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))


@cache
def _environment() -> Environment:
    loader = PackageLoader("clvq_hf.rendering", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["script_json"] = script_json
    environment.filters["visible"] = visible
    environment.globals["asset"] = lambda name: Markup(read_asset(name))
    return environment


_SIGNS = {"\n": "⏎", "\t": "⇥"}


def visible(text: str) -> str:
    """A token's text with white space as signs, `·` if there is nothing: a part of a character, or no text at all."""
    return re.sub(r"\s", lambda space: _SIGNS.get(space[0], "␣"), text) or "·"


@cache
def fragment_style() -> Markup:
    """The style of a fragment: base.css's variables, in the fragment alone, and the rules for tokens."""
    variables = read_asset("base.css").partition(":root {")[2].partition("}")[0]
    own = [line for line in variables.splitlines() if line.strip().startswith("--")]
    scoped = ".clvq.fragment {\n" + "\n".join(own) + "\n}\n"
    return Markup(scoped + read_asset("report/tokens.css") + read_asset("report/fragment.css"))


def render_summary(title: str, facts: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """A table or model in short, as notebooks show it.

    Args:
        title (`str`): What is shown.
        facts (`Sequence[tuple[str, str]]`): Names and values.
        rows (`Sequence[Mapping]`): Concepts, each with `concept`, `name_note` and `shade`.

    Returns:
        `str`: A `<div>` with its style, all text escaped.
    """
    return render_page("report/repr.html", style=fragment_style(), title=title, facts=facts, rows=rows)


__all__ = ["fragment_style", "read_asset", "render_page", "render_summary", "script_json", "visible"]
