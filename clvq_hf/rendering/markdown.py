"""Text from data as Markdown that shows it, and does nothing else."""

import re

# Inside a line; what begins a list or a heading does so at its start alone.
_SPECIAL = re.compile(r"([\\`*_\[\]|])")
# What not every renderer lets a backslash stop, and what sites turn into links.
_ENTITIES = {"<": "&lt;", ">": "&gt;", "~": "&#126;", "$": "&#36;", "@": "&#64;", "://": "&#58;//"}
_BARE_ADDRESS = re.compile(r"(www)\.", re.IGNORECASE)


class Markdown(str):
    """A string that is Markdown already."""


def escape_markdown(text: object) -> Markdown:
    """Escape everything that Markdown or HTML would read as markup; line breaks become spaces.

    Args:
        text (`object`): Its `str`; [`Markdown`][clvq_hf.rendering.markdown.Markdown] is returned as it is.

    Returns:
        [`Markdown`][clvq_hf.rendering.markdown.Markdown]: Of one line.

    Example:
        ```python
        >>> escape_markdown("<b>|a_b</b>")
        '&lt;b&gt;\\\\|a\\\\_b&lt;/b&gt;'

        ```
    """
    if isinstance(text, Markdown):
        return text
    escaped = _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("&", "&amp;")
    for character, entity in _ENTITIES.items():
        escaped = escaped.replace(character, entity)
    return Markdown(_BARE_ADDRESS.sub(r"\1&#46;", escaped))


__all__ = ["Markdown", "escape_markdown"]
