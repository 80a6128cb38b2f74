"""The HTML of the app: everything from data is escaped, every token is a button that says what it is."""

import re
from html.parser import HTMLParser

import pytest
from helpers.app_helpers import byte_tokenizer

from clvq_hf.app import Bar, Continuation, Control, Effect, Explorer, Reading, Token
from clvq_hf.app.rendering import card_html, effect_html, header_html, reading_html
from clvq_hf.tables.html import NUM_TITLE_WORDS

EVIL = """<script>alert(1)</script> "quoted" 'single' & <b>"""


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text without styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.text, self._in_style = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag):
        self._in_style = False

    def handle_data(self, data):
        self.text += "" if self._in_style else data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def reading_of(text: str, *tokens: Token, **fields) -> Reading:
    return Reading(text, list(tokens), **{"limit": None, "probabilities": [], **fields})


class TestReading:
    def test_every_token_is_a_button_with_its_concept(self, minilm):
        read = minilm.read("a warm film")
        page = Parsed(reading_html(minilm, read, read.tokens[1].code))
        buttons = page.all("button")
        assert [button["data-code"] for button in buttons] == [str(token.code) for token in read.tokens]
        assert all(button["type"] == "button" for button in buttons)
        for token, button in zip(read.tokens, buttons, strict=True):
            assert button["title"].startswith(f"concept {token.code}")
            assert button["title"] in button["aria-label"]
            assert (button["aria-pressed"] == "true") == (token.code == read.tokens[1].code)
        assert [name for name in minilm.table.label_names if name not in page.text] == []
        [salient] = [button for button in buttons if "salient" in button["class"]]
        assert salient["data-code"] == str(read.tokens[read.salient].code)

    def test_below_each_token_is_another_word_of_its_concept(self, minilm):
        read = minilm.read("a warm film")
        page = reading_html(minilm, read)
        below = re.findall(r'<span class="code">(.*?)</span>', page)
        for token, shown, title in zip(read.tokens, below, re.findall(r'title="(.*?)"', page), strict=True):
            words = [word for word, _ in minilm.table.top_words(token.code, 5)]
            others = [word for word in words if word != token.name]
            assert shown == (others or words or [str(token.code)])[0]
            assert all(word in title for word in words[:NUM_TITLE_WORDS])

    def test_an_uncertain_salient_token_is_called_so(self, minilm):
        token = Token(0, 1, "x", 1, False)
        certain, uncertain = (
            Parsed(reading_html(minilm, reading_of("x", token, salient=0, salient_is_certain=value))).text
            for value in (True, False)
        )
        assert "x supports the prediction most." in certain
        assert "x supports the prediction most, but this is uncertain" in uncertain

    def test_colour_is_the_label_that_most_tokens_have_by_purity(self, minilm):
        for code in minilm.table.active_codes.tolist():
            concept = minilm.table.concept(code)
            page = Parsed(reading_html(minilm, reading_of("x", Token(0, 1, "x", code, False))))
            style = page.all("button")[0]["style"]
            if concept.num_texts < 5:
                assert style == ""
            else:
                label = minilm.table.label_names.index(concept.label)
                assert style == f"--colour: var(--label-{label}); --strength: {round(200 * concept.purity - 100)}%"

    def test_without_a_table_every_concept_has_a_colour_of_its_own(self, llama):
        page = Parsed(reading_html(llama, reading_of("xy", Token(0, 1, "x", 1, False), Token(1, 2, "y", 2, False))))
        first, second = (button["style"] for button in page.all("button"))
        assert first.startswith("--colour: hsl(") and first != second
        assert [button["title"] for button in page.all("button")] == ["concept 1", "concept 2"]

    @pytest.mark.parametrize("text", [EVIL, "a  b\n\n c ", "don't — stop", "x"])
    def test_the_text_is_whole(self, minilm, text):
        read = minilm.read(text)
        page = reading_html(minilm, read)
        assert "<script>" not in page and "<b>" not in page
        shown = re.search(r'<p class="tokens".*?</p>', page, re.DOTALL)[0]
        without = Parsed(re.sub(r'<span class="code">.*?</span>', "", shown)).text
        assert without.removeprefix("[CLS]").removesuffix("[SEP]").rstrip() == text.rstrip()

    @pytest.mark.slow
    def test_white_space_is_outside_of_the_buttons_and_visible_where_it_is_a_token(
        self, fit, make_model, causal_host, texts
    ):
        tokenizer = byte_tokenizer()
        explorer = Explorer(fit(make_model(), causal_host, tokenizer, texts), causal_host, tokenizer)
        page = reading_html(explorer, explorer.read("a \né."))
        names = re.findall(r'aria-label="([^"]*): concept', page)
        assert names == ["a", "␣", "⏎", "é", "·", "."]
        between = re.sub(
            r"<button.*?</button>", "|", re.search(r"concepts\">(.*?)</p>", page, re.DOTALL)[1], flags=re.DOTALL
        )
        assert between == "|| |\n|||"

    def test_what_was_cut_is_said(self, minilm):
        page = reading_html(minilm, reading_of("one two", Token(0, 3, "one", 1, False), limit=512))
        assert "first 512 tokens" in page and "two" not in page

    def test_labels_that_share_a_colour(self, minilm, monkeypatch):
        read = reading_of("x", Token(0, 1, "x", 1, False))
        assert "some labels share one" not in reading_html(minilm, read)
        monkeypatch.setattr("clvq_hf.app.rendering.NUM_COLOURS", 1)
        assert "There are 2 labels and 1 colours: some labels share one." in reading_html(minilm, read)

    def test_names_of_classes_are_escaped(self, minilm):
        page = reading_html(minilm, reading_of("x", Token(0, 1, "x", 1, False), probabilities=[(EVIL, 0.25)]))
        assert "<script>" not in page
        assert EVIL in Parsed(page).text and "25.0 %" in page


class TestCard:
    def test_what_the_table_knows(self, minilm):
        code = int(minilm.table.active_codes[3])
        page = Parsed(card_html(minilm, code))
        concept = minilm.table.concept(code)
        assert f"Concept {code}" in page.text
        assert concept.top_words[0][0] in page.text
        assert f"{concept.num_tokens} tokens in {concept.num_texts} texts" in page.text

    def test_without_a_table_it_says_how_to_get_one(self, llama):
        text = Parsed(card_html(llama, 3)).text
        assert "Concept 3" in text and "clvq-hf concepts build" in text and "--table" in text

    def test_no_such_concept(self, llama):
        with pytest.raises(ValueError, match="from 0 to 11"):
            card_html(llama, 12)


class TestEffect:
    def effect(self, **fields) -> Effect:
        plain = {
            "reading": reading_of("xy", Token(0, 1, "x", 1, False), Token(1, 2, "y", 2, False)),
            "num_tokens": 1,
            "bars": [Bar("negative", 0.2, 0.7), Bar(EVIL, 0.8, 0.3)],
            "prediction": (EVIL, "negative"),
            "margin": (1.386, -0.847),
            "continuations": None,
        }
        return Effect(**{**plain, **fields})

    def test_before_and_after(self, minilm):
        page = effect_html(minilm, self.effect(), "Concept 1 removed.")
        assert "<script>" not in page
        text = " ".join(Parsed(page).text.split())
        assert "Concept 1 removed. Changed at 1 of 2 tokens." in text
        assert f"The prediction changes from {EVIL} to negative." in text
        assert "1.39 → −0.85 (−2.23)" in text
        assert "20.0 % 70.0 %" in text and "80.0 % 30.0 %" in text
        assert Parsed(page).all("div")[0]["role"] == "status"

    def test_the_removal_of_another_concept_stands_beside_it(self, minilm):
        code = int(minilm.table.active_codes[3])
        bars = [Bar("negative", 0.2, 0.7, 0.3), Bar("positive", 0.8, 0.3, 0.7)]
        effect = self.effect(
            bars=bars, prediction=("positive", "negative"), control=Control(code, 2, "positive", 0.847)
        )
        text = " ".join(Parsed(effect_html(minilm, effect, "Removed.", removes=True)).text.split())
        words = ", ".join(word for word, _ in minilm.table.top_words(code, 5))
        assert f"without another concept of the text, “{words}” (concept {code}) (2 tokens)" in text
        assert "the prediction stays positive." in text and "Lead: 1.39 → 0.85 (−0.54)" in text
        assert "20.0 % 70.0 % 30.0 %" in text
        alone = effect_html(minilm, self.effect(), "Removed.", removes=True)
        assert "no other concept to compare" in alone

    def test_no_change_has_no_sign(self, minilm):
        text = Parsed(effect_html(minilm, self.effect(margin=(0.254, 0.252)), "Removed.")).text
        assert "0.25 → 0.25 (0.00)" in text

    def test_a_concept_that_does_not_occur(self, minilm):
        page = effect_html(minilm, self.effect(num_tokens=0, prediction=("negative", "negative")), "Removed.")
        assert "does not occur in this text" in page
        assert "The prediction stays <strong>negative</strong>" in page

    def test_generated_text(self, llama):
        pair = (Continuation("one ", "<i>", " end"), Continuation("one ", "three", ""))
        page = effect_html(llama, self.effect(continuations=pair, prediction=(" a", "\n")), "Removed.")
        assert "one <mark>&lt;i&gt;</mark> end" in page and "one <mark>three</mark>" in page
        assert "The next token changes from <strong>␣a</strong> to <strong>⏎</strong>" in page
        same = effect_html(llama, self.effect(continuations=(pair[0], pair[0])), "Removed.")
        assert "No token differs" in same

    def test_a_host_that_predicts_nothing(self, minilm):
        page = effect_html(minilm, self.effect(bars=[], prediction=None, margin=None), "Removed.")
        assert "nothing to compare" in page and "<table" not in page


def test_the_header_names_no_folders(minilm, tmp_path):
    config = minilm.model.config
    before = config.host_name_or_path, config.name_or_path
    try:
        config.host_name_or_path, config.name_or_path = str(tmp_path / "my-host"), "org/<concepts>"
        text = Parsed(header_html(minilm)).text
        assert "Concepts of my-host" in text and str(tmp_path) not in text
        assert "60 concepts" in text and "<concepts>" in text
    finally:
        config.host_name_or_path, config.name_or_path = before
