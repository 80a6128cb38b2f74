"""Pages: no text can become markup or end a script, and a file is there whole or not at all."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import ChoiceLoader, DictLoader, UndefinedError

from clvq_hf.rendering import pages
from clvq_hf.rendering.pages import read_asset, render_page, script_json

HOSTILE = ["</script>", "</SCRIPT >", "<!--", "<![CDATA[", "]]>", "&lt;", "\u2028\u2029", "<script>alert(1)</script>"]


@pytest.fixture
def template(monkeypatch):
    """Renders a template that is given as text."""

    ours = pages._environment()

    def render(source, **content):
        environment = ours.overlay(loader=ChoiceLoader([DictLoader({"x": source}), ours.loader]))
        monkeypatch.setattr(pages, "_environment", lambda: environment)
        return render_page("x", **content)

    return render


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_stays_what_it_is(text):
    written = script_json({"text": text, text: [text]})
    assert json.loads(written) == {"text": text, text: [text]}
    assert not set("<>&\u2028\u2029") & set(written)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_any_json_comes_back(value):
    assert json.loads(script_json(value)) == value
    assert "<" not in script_json(value)


def test_what_json_does_not_know_is_an_error():
    with pytest.raises(ValueError):
        script_json({"score": float("nan")})


@pytest.mark.parametrize("text", HOSTILE)
def test_values_are_escaped(template, text):
    page = template("<p title='{{ text }}'>{{ text }}</p>{{ data | script_json }}", text=text, data=[text])
    assert page.count("<") == 2 and page.count(">") == 2


def test_a_value_that_is_missing_is_an_error(template):
    with pytest.raises(UndefinedError):
        template("{{ missing }}")


def test_assets_are_put_in_as_they_are(template):
    assert template("<style>{{ asset('base.css') }}</style>") == f"<style>{read_asset('base.css')}</style>"
    assert '"Segoe UI"' in read_asset("base.css")
