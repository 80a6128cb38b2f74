"""HTML pages that open from disk: one file, no network, everything from data escaped."""

import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..tables.concepts import visible

# What could end a script element, or begin a comment in it, is written as an escape of JSON.
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_page(template: str, **content: Any) -> str:
    """Render a template of `pages/templates`, with every value escaped.

    Args:
        template (`str`): Its path there. Templates have the filters `script_json` for data in a script element
            and `visible` for white space, and `asset("base.css")` for the text of a style sheet or script of ours.
        content: What the template shows.

    Returns:
        `str`: A page of one file.
    """
    return _environment().get_template(template).render(**content)


def read_asset(name: str) -> str:
    """The text of a style sheet or script of `pages/templates`."""
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


__all__ = ["read_asset", "render_page", "script_json"]
