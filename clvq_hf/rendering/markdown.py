"""Text from data as Markdown that displays it and has no other effect."""

import re

# Within a line; lists and headings are only recognized at its start.
_SPECIAL = re.compile(r"([\\`*_\[\]|])")
# Not every renderer honours a backslash before these, and sites turn some of them into links.
_ENTITIES = {"<": "&lt;", ">": "&gt;", "~": "&#126;", "$": "&#36;", "@": "&#64;", "://": "&#58;//"}
_BARE_ADDRESS = re.compile(r"(www)\.", re.IGNORECASE)


class Markdown(str):
    """A string that is already Markdown."""


def escape_markdown(text: object) -> Markdown:
    r"""Escape everything that Markdown or HTML would read as markup; line breaks become spaces.

    Args:
        text (`object`): Converted by `str`; [`Markdown`][clvq_hf.rendering.Markdown] is returned unchanged.

    Returns:
        [`Markdown`][clvq_hf.rendering.Markdown]: A single line.

    Example:
        ```python
        >>> escape_markdown("<b>|a_b</b>")
        '&lt;b&gt;\\|a\\_b&lt;/b&gt;'

        ```
    """
    if isinstance(text, Markdown):
        return text
    escaped = _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("&", "&amp;")
    for character, entity in _ENTITIES.items():
        escaped = escaped.replace(character, entity)
    return Markdown(_BARE_ADDRESS.sub(r"\1&#46;", escaped))


__all__ = ["Markdown", "escape_markdown"]
