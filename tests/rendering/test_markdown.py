"""Escaped text is shown as it is, and nothing in it becomes markup."""

import re

import markdown
import pytest
from helpers.hostile_texts import ATTACKS

from clvq_hf.rendering import escape_markdown


@pytest.mark.parametrize("attack", ATTACKS)
def test_escaped_markdown_shows_the_text(attack):
    html = markdown.markdown(f"before {escape_markdown(attack)} after", extensions=["tables", "fenced_code"])
    assert not re.search(r"<(?!/?p>)", html), html
    shown = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">")
    for entity, character in (
        ("&#126;", "~"),
        ("&#36;", "$"),
        ("&#64;", "@"),
        ("&#58;", ":"),
        ("&#46;", "."),
        ("&amp;", "&"),
    ):
        shown = shown.replace(entity, character)
    assert shown == f"before {' '.join(attack.split())} after"
    assert "://" not in html and "www." not in html
