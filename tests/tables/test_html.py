"""Fragments for notebooks and the app: whole texts, escaped, with a style that stays inside."""

import re
from html.parser import HTMLParser

import pytest
from helpers.made_tables import made_table

from clvq_hf.report import concept_html, text_html
from clvq_hf.tables.names import ConceptName

HOSTILE_NAME = "</style><script>alert(1)</script>"


class Reader(HTMLParser):
    """Elements of a page, and its text without what only screen readers say."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.skipped = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "img":
            hidden = (
                tag == "style"
                or dict(attrs).get("class") == "visually-hidden"
                or bool(self.skipped and self.skipped[-1])
            )
            self.skipped.append(hidden)

    def handle_endtag(self, tag):
        self.skipped.pop()

    def handle_data(self, data):
        if not (self.skipped and self.skipped[-1]):
            self.text += data


def classes(reader, name):
    return [attributes for _, attributes in reader.elements if name in attributes.get("class", "").split()]


@pytest.mark.parametrize("text_id", [3, 4, 5])
def test_a_text_is_whole_and_every_token_has_its_concept(table, text_id):
    page = Reader(text_html(table, text_id))
    text = table.texts[table.text_row(text_id)]["text"]
    assert text in page.text
    tokens = classes(page, "token")
    expected = table.text(text_id)["code"].tolist()
    assert [int(re.match(r"concept (\d+)", token["title"])[1]) for token in tokens] == expected
    assert len([token for token in tokens if "salient" in token["class"]]) == 1


def test_nothing_of_a_text_becomes_markup(table):
    for page in (text_html(table, 3), concept_html(table, 5), table._repr_html_()):
        assert {tag for tag, _ in Reader(page).elements} <= {
            *("div", "style", "p", "span", "strong", "ul", "ol", "li", "h3", "mark"),
            *("table", "tr", "th", "td"),
        }
        assert page.count("</style>") == 1


def test_a_name_made_by_a_model_is_escaped_and_said_to_be_one(table):
    named = type(table)(
        table.tokens, table.texts, table.metadata, {1: ConceptName(HOSTILE_NAME, "judge", 1, "d", 0.75)}
    )
    page = Reader(concept_html(named, 1))
    assert HOSTILE_NAME in page.text and "named by a model" in page.text and "75%" in page.text
    short = Reader(named._repr_html_()).text
    assert HOSTILE_NAME in short and "named by a model" in short and "75%" in short
    assert any(
        f"{HOSTILE_NAME}” (named by a model)" in token["title"]
        for token in classes(Reader(text_html(named, 3)), "token")
    )


def test_what_a_person_decided_is_escaped_and_shown(table):
    named = type(table)(table.tokens, table.texts, table.metadata, {1: ConceptName("praise", "judge", 1)})
    named.merge([1, 2], HOSTILE_NAME[:100], author="Ann <b>")
    named.group([1], "<i>opinion</i>", author="Ann")
    page = Reader(concept_html(named, 2))
    assert "Concept 1 + 2: " in page.text and HOSTILE_NAME[:100] in page.text and "praise" not in page.text
    assert "named by Ann <b>, " in page.text and "group: <i>opinion</i>" in page.text
    short = Reader(named._repr_html_()).text
    assert "1 + 2: " in short and "named by Ann <b>" in short
    titles = [token["title"] for token in classes(Reader(text_html(named, 3)), "token")]
    assert any(title.startswith(f"concept 1 + 2 “{HOSTILE_NAME[:100]}”:") for title in titles)


def test_a_concept(table):
    page = Reader(concept_html(table, 1))
    assert "21 tokens in 20 texts" in page.text
    assert "good: 21 (100 %)" in page.text and "bad: 0 (0 %)" in page.text
    assert len([tag for tag, _ in page.elements if tag == "mark"]) >= 5
    assert "too few texts" in Reader(concept_html(table, 5)).text


def test_without_labels_and_predictions():
    table = made_table(["a warm film"], [-1], {"warm": 1}, upper_layer=2, stack=None, model_type="clvq", salience="x")
    assert "predicted" not in text_html(table, 0)
    assert "concept 1" in text_html(table, 0)
    assert "bar" not in [attributes.get("class") for _, attributes in Reader(concept_html(table, 1)).elements]
    assert "warm" in table._repr_html_()


def test_errors(table):
    with pytest.raises(ValueError, match="no text 99"):
        text_html(table, 99)
    with pytest.raises(ValueError, match="Codes run from 0 to 23"):
        concept_html(table, 24)


def test_the_style_changes_nothing_outside(table):
    style = re.search(r"<style>(.*?)</style>", text_html(table, 3), re.DOTALL)[1]
    selectors = re.findall(r"([^{}]+)\{", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
    assert len(selectors) > 15
    for selector in selectors:
        for part in re.split(r",(?![^(]*\))", selector):
            assert ".clvq" in part, f"{part.strip()} is not inside of the fragment"


def test_notebooks_show_tables_and_models(table, model):
    page = Reader(model._repr_html_())
    assert "K-means" in page.text and "1 → 3" in page.text and "24 of 8 dimensions" in page.text
    text = Reader(table._repr_html_()).text
    assert "40 of made up (test)" in text and "95.0%" in text, "two of forty predictions are wrong"
