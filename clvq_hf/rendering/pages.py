"""Self-contained HTML pages that open from disk, without a network, with everything from data escaped."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# Characters that could end a script element, or start a comment in it, become JSON escapes.
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_LOADER = PackageLoader("clvq_hf.rendering", "templates")
_SPACE_SIGNS = {"\n": "⏎", "\t": "⇥"}


def render_page(template: str, **content: Any) -> str:
    """Render a template with every value escaped.

    Args:
        template (`str`): Path in `rendering/templates`. Templates can use the filters `script_json` for data in a
            script element and `visible` for white space, and `asset("base.css")` for a file of that folder.
        content: The variables of the template.

    Returns:
        `str`: The page.
    """
    return _environment().get_template(template).render(**content)


def script_hash(script: str) -> str:
    """What a Content-Security-Policy calls an inline script, so that no other one runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def read_asset(name: str) -> str:
    """The text of a style sheet or script in `rendering/templates`."""
    return _LOADER.get_source(_environment(), name)[0]


def script_json(value: Any) -> Markup:
    """JSON for a `<script type="application/json">` element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["script_json"] = script_json
    environment.filters["visible"] = visible
    environment.globals["asset"] = lambda name: Markup(read_asset(name))
    return environment


def visible(text: str) -> str:
    """A token's text with visible signs for white space; `·` if it is empty or part of a character."""
    return re.sub(r"\s", lambda space: _SPACE_SIGNS.get(space[0], "␣"), text) or "·"


@cache
def fragment_style() -> Markup:
    """The style of a fragment: the variables of base.css, limited to the fragment, and the rules for tokens."""
    variables = read_asset("base.css").partition(":root {")[2].partition("}")[0]
    lines = [line for line in variables.splitlines() if line.strip().startswith("--")]
    scoped = ".clvq.fragment {\n" + "\n".join(lines) + "\n}\n"
    return Markup(scoped + read_asset("report/tokens.css") + read_asset("report/fragment.css"))


def render_summary(title: str, facts: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """The summary of a concept table or model in a notebook.

    Args:
        title (`str`): Name of its class.
        facts (`Sequence[tuple[str, str]]`): Names and values.
        rows (`Sequence[Mapping]`): Concepts, each with `concept`, `name_note` and `shade`.

    Returns:
        `str`: A `<div>` with its style, all text escaped.
    """
    return render_page("report/repr.html", style=fragment_style(), title=title, facts=facts, rows=rows)


__all__ = ["fragment_style", "read_asset", "render_page", "render_summary", "script_hash", "script_json", "visible"]
