"""The report in a real browser: by mouse and by keyboard, on a telephone and on a wide screen, in both themes."""

import re
from contextlib import contextmanager
from itertools import pairwise

import pytest
from helpers.browser import TIMEOUT
from helpers.made_tables import made_table
from playwright.sync_api import expect

from clvq_hf.metrics.verdict import verdict
from clvq_hf.report import page as page_module
from clvq_hf.report import write_report
from clvq_hf.tables.names import ConceptName

# Contrast of every text that is shown with what is behind it, by WCAG.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const pixel = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colours = [];
    for (let node = element; node; node = node.parentElement) colours.unshift(getComputedStyle(node).backgroundColor);
    return ["white", ...colours];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, style, .skip")) continue;
    const svg = element.closest("svg");
    const colour = svg ? getComputedStyle(element).fill : getComputedStyle(element).color;
    const back = behind(svg ? svg.parentElement : element);
    const [one, other] = [luminance(pixel([...back, colour])), luminance(pixel(back))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), walker.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@contextmanager
def opened(browser, file, address="", **options):
    """A page of the report, which must neither fail nor ask for anything."""
    context = browser.new_context(**options)
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{file.as_uri()}{address}")
    page.wait_for_selector("html[data-ready]")
    yield page
    assert page.evaluate("typeof hacked") == "undefined", "text of the data was run"
    assert not errors
    assert [url for url in requests if not url.startswith("file:")] == []
    context.close()


@pytest.fixture
def report(browser, report_file):
    with opened(browser, report_file) as page:
        yield page


def rows(page):
    return page.locator("#concept-list tbody tr")


class TestConcepts:
    def test_search_by_word(self, report):
        report.get_by_role("link", name="Concepts", exact=True).click()
        expect(report.get_by_role("heading", name="Concepts", exact=True)).to_be_visible()
        expect(rows(report)).to_have_count(7)
        report.get_by_label("Word, name or number").fill("LIGH")
        expect(rows(report)).to_have_count(2)
        expect(report.get_by_role("status").first).to_have_text("2 of 7 concepts")
        assert {row.locator("td").first.inner_text() for row in rows(report).all()} == {"Concept 6", "Concept 7"}
        expect(rows(report).first.locator("mark")).to_have_text("light")
        report.get_by_label("Word, name or number").fill("no such word")
        expect(rows(report)).to_have_count(0)
        report.get_by_role("button", name="Show all").first.click()
        expect(rows(report)).to_have_count(7)

    def test_search_by_number(self, report):
        report.goto(report.url.split("#")[0] + "#/concepts")
        report.get_by_label("Word, name or number").fill("3")
        expect(rows(report).filter(has=report.get_by_role("link", name="Concept 3"))).to_have_count(1)
        report.get_by_label("Word, name or number").fill("7")
        expect(rows(report).filter(has=report.get_by_role("link", name="Concept 3"))).to_have_count(0)

    def test_filters(self, report):
        report.evaluate("location.hash = '#/concepts'")
        report.locator("#concepts").get_by_label("Label").select_option("good")
        names = {row.locator("td").first.inner_text() for row in rows(report).all()}
        assert names == {"Concept 1", "Concept 5", "Concept 6"}
        report.get_by_label("Minimum texts").fill("2")
        expect(rows(report)).to_have_count(2)
        report.locator("#concepts").get_by_label("Label").select_option("any")
        report.get_by_label("Minimum purity").fill("90")
        names = {row.locator("td").first.inner_text() for row in rows(report).all()}
        assert names == {"Concept 1", "Concept 2", "Concept 6", "Concept 7"}
        report.get_by_label("Minimum tokens").fill("21")
        assert {row.locator("td").first.inner_text() for row in rows(report).all()} == {"Concept 1"}

    def test_sorting(self, report):
        report.evaluate("location.hash = '#/concepts'")

        def column(number):
            return [int(re.sub(r"\D", "", row.locator("td").nth(number).inner_text())) for row in rows(report).all()]

        assert column(4) == sorted(column(4), reverse=True), "the most frequent ones come first"
        expect(report.get_by_role("columnheader", name="Tokens")).to_have_attribute("aria-sort", "descending")
        report.get_by_role("button", name="Tokens").click()
        assert column(4) == sorted(column(4))
        expect(report.get_by_role("columnheader", name="Tokens")).to_have_attribute("aria-sort", "ascending")
        report.get_by_role("button", name="Purity").click()
        assert column(3) == sorted(column(3), reverse=True)
        report.get_by_role("button", name="Concept", exact=True).click()
        assert column(0) == sorted(column(0))
        assert report.locator("th[aria-sort]").count() == 1

    def test_a_concept(self, report):
        report.evaluate("location.hash = '#/concept/1'")
        page = report.locator("#concept")
        expect(page.get_by_role("heading", name="Concept 1: funny, warm, bright", exact=True)).to_be_visible()
        expect(page).to_contain_text("21 tokens in 20 texts.")
        expect(page).to_contain_text("good: 21 (100 %)")
        expect(page).to_contain_text("changes the margin of the prediction by −1.40 on average")
        expect(page).to_contain_text("prediction itself in 1 text.")
        assert page.locator(".near li").count() == 6, "all other concepts that occur"
        assert {word.text_content() for word in page.locator("svg.cloud text").all()} == {"warm", "funny", "bright"}
        assert page.locator(".examples mark").count() >= 6
        wrong = page.locator(".examples li", has=report.get_by_role("link", name="Text 1", exact=True))
        expect(wrong).to_contain_text("label: good · predicted: bad wrong")
        expect(page.locator(".examples .wrong")).to_have_count(1)
        expect(report).to_have_title("Concept 1: funny, warm, bright – Concepts of made up")

    def test_the_address_has_the_word_and_filters_stay(self, report):
        report.evaluate("location.hash = '#/concepts/light'")
        expect(rows(report)).to_have_count(2)
        report.get_by_label("Word, name or number").fill("")
        assert report.evaluate("location.hash") == "#/concepts"
        report.locator("#concepts").get_by_label("Label").select_option("good")
        report.get_by_label("Word, name or number").fill("warm")
        assert report.evaluate("location.hash") == "#/concepts/warm"
        rows(report).first.get_by_role("link").click()
        expect(report.locator("#concept h2")).to_be_visible()
        report.go_back()
        expect(report.get_by_label("Word, name or number")).to_have_value("warm")
        expect(report.locator("#concepts").get_by_label("Label")).to_have_value("1")
        expect(report.locator("#word-note")).to_have_text(
            "The search covers the 100 most frequent words of each concept."
        )

    def test_a_word_that_goes_elsewhere(self, report):
        report.evaluate("location.hash = '#/concept/6'")
        row = report.locator("#concept tbody tr", has_text="light")
        assert row.locator("td").all_inner_texts() == [
            "light",
            "Concept 7: light of 20 tokens",
            "Concept 6: light of 20 tokens",
        ]
        row.get_by_role("link", name="Concept 7").click()
        expect(report.get_by_role("heading", name="Concept 7: light", exact=True)).to_be_visible()
        report.locator("#concept").get_by_role("link", name="light", exact=True).first.click()
        expect(report.get_by_label("Word, name or number")).to_have_value("light")
        expect(rows(report)).to_have_count(2)

    def test_back_and_forth(self, report):
        report.evaluate("location.hash = '#/concepts'")
        rows(report).first.get_by_role("link").click()
        expect(report.locator("#concept h2")).to_be_visible()
        report.locator("#concept .examples a").first.click()
        expect(report.locator("#text h2")).to_be_visible()
        report.go_back()
        expect(report.locator("#concept h2")).to_be_visible()
        report.go_back()
        expect(rows(report).first).to_be_visible()

    def test_the_list_goes_on_from_concept_to_concept(self, report):
        report.evaluate("location.hash = '#/concepts/light'")
        rows(report).first.get_by_role("link").click()
        first = report.locator("#concept h2").inner_text()
        report.get_by_role("link", name="Next in the list").click()
        expect(report.locator("#concept h2")).not_to_have_text(first)
        assert report.get_by_role("link", name="Next in the list").count() == 0, "two concepts have this word"

    def test_a_dot_of_the_map_opens_its_concept(self, report):
        dot = report.locator("#map a").filter(has=report.locator("title", has_text="concept 2:"))
        assert "dull" in dot.locator("title").text_content()
        dot.locator("use").click()
        expect(report.get_by_role("heading", name=re.compile("^Concept 2: "))).to_be_visible()

    @pytest.mark.parametrize("address", ["#/concept/99", "#/concept/x", "#/text/99", "#/text/"])
    def test_what_is_not_there(self, browser, report_file, address):
        with opened(browser, report_file, address) as page:
            expect(page.locator("main > section:visible h2")).to_contain_text("There is no")

    @pytest.mark.parametrize("address", ["#/nonsense", "#", "#/%E0%A4%A"])
    def test_any_other_address_is_the_overview(self, browser, report_file, address):
        with opened(browser, report_file, address) as page:
            expect(page.get_by_role("heading", name="Overview")).to_be_visible()


class TestTexts:
    def test_a_text_and_what_ablating_does(self, report):
        report.evaluate("location.hash = '#/text/3'")
        page = report.locator("#text")
        expect(page).to_contain_text("label: good · predicted: good")
        expect(page.locator(".token.salient")).to_contain_text("warm")
        expect(page).to_contain_text("changes the prediction from good to bad.")
        expect(page).to_contain_text(
            "Change of the margin: −3.00. Removing another concept of this text instead: −0.30"
        )
        assert page.locator("tbody tr").nth(0).locator("td").all_inner_texts() == ["prediction", "good", "bad"]
        assert page.locator("tbody tr").nth(2).locator("td").all_inner_texts() == ["margin (logits)", "2.00", "−1.00"]

    @pytest.mark.parametrize("text_id", [3, 4, 5])
    def test_a_text_is_shown_as_it_is(self, report, table, text_id):
        report.evaluate(f"location.hash = '#/text/{text_id}'")
        page = report.locator("#text .tokens")
        page.wait_for()
        report.evaluate("document.querySelectorAll('#text .tokens .visually-hidden').forEach((said) => said.remove())")
        assert page.text_content() == table.texts[table.text_row(text_id)]["text"]
        codes = [int(token.get_attribute("data-code")) for token in page.locator(".token").all()]
        assert codes == table.text(text_id)["code"].tolist()

    def test_a_wrong_prediction_is_marked(self, report):
        report.evaluate("location.hash = '#/text/1'")
        expect(report.locator("#text .wrong")).to_have_text("wrong")
        report.evaluate("location.hash = '#/text/4'")
        expect(report.locator("#text .wrong")).to_have_count(0)

    def test_tokens_of_a_concept_light_up_together_and_open_it(self, report):
        report.evaluate("location.hash = '#/text/5'")
        praise = report.locator("#text .token[data-code='1']")
        assert praise.count() == 2 and report.locator("#text .same").count() == 0
        praise.first.hover()
        assert report.locator("#text .same").count() == 2
        assert praise.first.get_attribute("title") == "concept 1: funny, warm, bright · good 100 %"
        praise.first.click()
        expect(report.get_by_role("heading", name="Concept 1: funny, warm, bright", exact=True)).to_be_visible()

    def test_colours_say_how_pure_a_concept_is(self, report):
        report.evaluate("location.hash = '#/text/4'")
        mark = "(token) => [token.style.getPropertyValue('--colour'), token.style.getPropertyValue('--strength')]"
        assert report.locator("#text .token[data-code='2']").evaluate(mark) == ["var(--label-0)", "100%"]
        assert report.locator("#text .token[data-code='3']").evaluate(mark) == ["var(--label-0)", "3%"]
        report.evaluate("location.hash = '#/text/3'")
        assert report.locator("#text .token[data-code='5']").first.evaluate(mark) == ["", ""]

    def test_filters(self, report):
        report.evaluate("location.hash = '#/texts'")
        items = report.locator("#text-list li")
        expect(items).to_have_count(40)
        report.get_by_label("prediction is wrong").check()
        expect(items).to_have_count(2)
        report.get_by_label("prediction is wrong").uncheck()
        report.get_by_label("removal changes the prediction").check()
        expect(items).to_have_count(1)
        expect(items.first).to_contain_text("Text 3")
        report.get_by_role("button", name="Show all").last.click()
        report.get_by_label("Words of the text").fill("FUNNY")
        expect(report.locator("#text-count")).to_have_text("8 of 40 texts")
        report.locator("#texts").get_by_label("Predicted").select_option("bad")
        expect(items).to_have_count(1)
        items.first.get_by_role("link").click()
        expect(report.get_by_role("heading", name="Text 1", exact=True)).to_be_visible()

    def test_hostile_text_is_text(self, report, table):
        report.evaluate("location.hash = '#/texts'")
        hostile = table.texts[3]["text"]
        shown = report.locator("#text-list li", has=report.get_by_role("link", name="Text 3", exact=True))
        assert hostile[:60] in shown.text_content()
        report.evaluate("location.hash = '#/concept/5'")
        expect(report.locator("#concept")).to_contain_text("</style>")
        assert report.locator("main img, main script, main iframe").count() == 0


class TestKeyboard:
    def test_everything_by_keyboard(self, report):
        report.keyboard.press("Tab")
        expect(report.locator("#skip")).to_be_focused()
        report.keyboard.press("Enter")
        expect(report.locator("main")).to_be_focused()
        report.get_by_role("link", name="Concepts", exact=True).focus()
        report.keyboard.press("Enter")
        expect(report.locator("#concepts-title")).to_be_focused()
        report.keyboard.press("/")
        expect(report.get_by_label("Word, name or number")).to_be_focused()
        report.keyboard.type("warm")
        expect(rows(report)).to_have_count(1)
        for _ in range(20):
            report.keyboard.press("Tab")
            if report.evaluate("document.activeElement.closest('tbody') !== null"):
                break
        report.keyboard.press("Enter")
        expect(report.locator("#concept-title")).to_be_focused()
        for _ in range(40):
            report.keyboard.press("Tab")
            if report.evaluate("document.activeElement.getAttribute('href')?.startsWith('#/text/')"):
                break
        report.keyboard.press("Enter")
        expect(report.locator("#text-title")).to_be_focused()
        for _ in range(40):
            report.keyboard.press("Tab")
            if report.evaluate("document.activeElement.classList.contains('salient')"):
                break
        # The focus is seen on the salient token too, which has an outline anyway.
        assert report.evaluate("getComputedStyle(document.activeElement).outlineColor") == "rgb(11, 87, 164)"
        assert report.locator("#text .same").count() >= 1
        report.keyboard.press("Enter")
        expect(report.locator("#concept-title")).to_be_focused()

    def test_sorting_and_themes(self, report):
        report.evaluate("location.hash = '#/concepts'")
        report.get_by_role("button", name="Purity").focus()
        report.keyboard.press("Enter")
        expect(report.get_by_role("columnheader", name="Purity")).to_have_attribute("aria-sort", "descending")
        background = "getComputedStyle(document.body).backgroundColor"
        report.get_by_role("button", name="Theme").focus()
        seen = []
        for theme in ("light", "dark", "system"):
            report.keyboard.press("Enter")
            expect(report.get_by_role("button", name="Theme")).to_have_text(f"Theme: {theme}")
            seen.append(report.evaluate(background))
        assert seen == ["rgb(255, 255, 255)", "rgb(20, 23, 28)", "rgb(255, 255, 255)"]

    def test_a_slash_in_a_field_is_a_slash(self, report):
        report.evaluate("location.hash = '#/texts'")
        report.get_by_label("Words of the text").fill("")
        report.keyboard.type("a/b")
        expect(report.get_by_label("Words of the text")).to_have_value("a/b")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1600, "light")])
def test_every_page_fits_and_can_be_read(browser, report_file, scheme, width):
    addresses = ("#/concepts", "#/concept/1", "#/concept/6", "#/concept/5", "#/texts", "#/text/3", "#/text/5", "#/")
    with opened(browser, report_file, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        for address in addresses:
            page.evaluate("(address) => (location.hash = address)", address)
            expect(page.locator("main > section:visible h2")).to_be_focused()
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "none"
            page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
            room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert room[0] <= room[1], f"{address} is {room[0]} wide on a screen of {room[1]}"
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 10
            worst = min(contrasts)
            assert worst[0] >= 4.5, f"{address}: {worst[1]!r} has a contrast of {worst[0]:.2f}"


def test_strong_colours_of_all_labels_leave_text_readable(browser, report_file):
    for scheme in ("light", "dark"):
        with opened(browser, report_file, "#/text/3", color_scheme=scheme) as page:
            page.evaluate(
                """() => document.querySelectorAll("#text .token").forEach((token, number) => {
                  token.style.setProperty("--colour", `var(--label-${number % 8})`);
                  token.style.setProperty("--strength", "100%");
                })"""
            )
            assert page.locator("#text .token").count() >= 8
            assert min(page.evaluate(CONTRASTS))[0] >= 4.5


def test_images_have_names_and_headings_are_in_order(report):
    for address in ("#/", "#/concepts", "#/concept/1", "#/texts", "#/text/3"):
        report.evaluate(f"location.hash = '{address}'")
        assert report.locator("svg:visible:not([role=img][aria-label])").count() == 0
        levels = [
            int(heading.evaluate("(heading) => heading.tagName[1]"))
            for heading in report.locator(":is(h1, h2, h3, h4):visible").all()
        ]
        assert levels[:2] == [1, 2] and levels.count(1) == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
        for field in report.locator("input:visible, select:visible").all():
            assert field.evaluate("(field) => field.labels.length") == 1


def test_names_made_by_a_model_are_marked(browser, table, model, tmp_path):
    names = {1: ConceptName("<script>hacked=1</script>praise", "judge", 1, "detector", 0.9)}
    write_report(type(table)(table.tokens, table.texts, table.metadata, names), tmp_path / "report.html", model)
    with opened(browser, tmp_path / "report.html", "#/text/3") as page:
        title = page.locator("#text .token[data-code='1']").first.get_attribute("title")
        name = "“<script>hacked=1</script>praise” (named by a model)"
        assert title == f"concept 1 {name}: funny, warm, bright · good 100 %"
    with opened(browser, tmp_path / "report.html", "#/concepts") as page:
        page.get_by_label("Word, name or number").fill("praise")
        expect(rows(page)).to_have_count(1)
        expect(rows(page).first).to_contain_text("</script>praise named by a model")
        rows(page).first.get_by_role("link").click()
        expect(page.locator("#concept")).to_contain_text("90% of sentences are recognized from the name")


def test_what_people_decided_is_shown(browser, table, model, tmp_path):
    edited = type(table)(table.tokens, table.texts, table.metadata)
    edited.merge([1, 2], "<b>judgement</b>", author="Ann")
    edited.group([1], "opinions", author="Ann")
    write_report(edited, tmp_path / "report.html", model)
    with opened(browser, tmp_path / "report.html", "#/text/3") as page:
        title = page.locator("#text .token[data-code='1']").first.get_attribute("title")
        assert re.match(r"concept 1 \+ 2 “<b>judgement</b>” \(named by Ann, [-0-9]+\): ", title)
    with opened(browser, tmp_path / "report.html", "#/concepts") as page:
        page.get_by_label("Word, name or number").fill("opinions")
        expect(rows(page)).to_have_count(1)
        expect(rows(page).first).to_contain_text("Concept 1 + 2")
        rows(page).first.get_by_role("link").click()
        expect(page.locator("#concept")).to_contain_text("Group: opinions")


def test_without_labels(browser, tmp_path):
    about = {"upper_layer": 2, "stack": None, "model_type": "clvq", "salience": "by hand"}
    write_report(
        made_table(["a warm film", "a film"], [0, 1], {"warm": 1, "film": 2}, label_names=[], **about),
        tmp_path / "r.html",
    )
    with opened(browser, tmp_path / "r.html", "#/concepts") as page:
        expect(rows(page)).to_have_count(3)
        assert page.get_by_label("Label").count() == 0
        page.evaluate("location.hash = '#/text/0'")
        expect(page.locator("#text .token")).to_have_count(3)
        expect(page.locator("#text")).to_contain_text("predicted: 0")
        legend = "colours and lines only distinguish concepts; they have no meaningoutlined: the salient token"
        expect(page.locator("#text .legend")).to_have_text(legend)
        page.evaluate("location.hash = '#/texts'")
        expect(page.locator("#text-list")).to_contain_text("Text 1 predicted: 1")
        page.evaluate("location.hash = '#/concept/1'")
        expect(page.locator("#concept")).to_contain_text("1 token in 1 text.")


def test_white_space_is_seen(browser, tmp_path):
    about = {"upper_layer": 2, "stack": None, "model_type": "clvq", "salience": "by hand"}
    write_report(made_table(["a \n b", "a \n c"], [0, 0], {"\n": 1}, **about), tmp_path / "r.html")
    with opened(browser, tmp_path / "r.html", "#/text/0") as page:
        token = page.locator("#text .token[data-code='1']")
        assert token.evaluate("(token) => getComputedStyle(token, '::before').content") == '"⏎"'
        token.click()
        expect(page.locator("#concept .words a")).to_have_text(["⏎"])
        assert page.locator("#concept svg.cloud text").text_content() == "⏎"


def test_next_tokens_are_no_labels(browser, table, evaluation, tmp_path):
    causal = type(table)(table.tokens, table.texts, {**table.metadata, "readout": "next_token"})
    write_report(causal, tmp_path / "r.html", evaluation=evaluation)
    with opened(browser, tmp_path / "r.html", "#/text/3") as page:
        assert page.locator("#text > p").first.inner_text() == "label: good"
        expect(page.locator("#text")).to_contain_text("changes the prediction from token 1 to token 0.")
        expect(page.locator("#text")).to_contain_text("Concept removed inside the model, at the tokens that have it.")
        page.evaluate("location.hash = '#/texts'")
        assert page.get_by_label("Predicted").count() == page.get_by_label("prediction is wrong").count() == 0


@pytest.mark.parametrize("fault", ["an old browser", "a damaged file"])
def test_what_cannot_be_unpacked_is_said(browser, report_file, tmp_path, fault):
    text, file = report_file.read_text(encoding="utf-8"), tmp_path / "r.html"
    place = text.index('id="contents">') + 1000
    file.write_text(text if fault == "an old browser" else text[:place] + "AAAA" + text[place + 4 :], encoding="utf-8")
    page = browser.new_page()
    if fault == "an old browser":
        page.add_init_script("delete window.DecompressionStream")
    page.goto(file.as_uri())
    remedy = "use one from 2023 or later" if fault == "an old browser" else "write the report again"
    expect(page.get_by_role("alert")).to_contain_text(remedy)
    page.close()


def test_long_lists_come_in_parts(browser, tmp_path):
    words = [f"word{number}" for number in range(130)]
    about = {"upper_layer": 2, "stack": None, "model_type": "clvq", "salience": "by hand", "codebook_size": 131}
    codes = {word: number + 1 for number, word in enumerate(words)}
    write_report(made_table(words, [0] * 130, codes, labels=[0] * 130, **about), tmp_path / "r.html")
    with opened(browser, tmp_path / "r.html", "#/concepts") as page:
        expect(rows(page)).to_have_count(100)
        expect(page.locator("#concept-count")).to_have_text("130 of 130 concepts")
        page.get_by_role("button", name="Show more").click()
        expect(rows(page)).to_have_count(130)
        expect(rows(page).nth(100).get_by_role("link")).to_be_focused()
        expect(page.get_by_role("button", name="Show more")).to_be_hidden()
        page.evaluate("location.hash = '#/texts'")
        for number in (50, 100, 130):
            expect(page.locator("#text-list li")).to_have_count(number)
            if number < 130:
                page.get_by_role("button", name="Show more").click()


def visible_texts(page):
    """Everything that is read or shown as a tooltip, by element."""
    return page.evaluate(
        """() => [...document.querySelectorAll("main > section:not([hidden]) *, main > section:not([hidden])")].flatMap(
          (node) => [node.getAttribute("title"), node.getAttribute("aria-label"),
            ...[...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.textContent)]
        ).filter(Boolean)"""
    )


@pytest.mark.parametrize("number", [0, 3])
def test_a_number_never_stands_without_words(browser, report_file, table, model, tmp_path, number):
    """Also of concepts that have no page, for there are too many."""
    file = report_file
    if number:
        contents = page_module.report_contents
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                page_module, "report_contents", lambda *given, **named: contents(*given, **named, max_concepts=number)
            )
            write_report(table, tmp_path / "few.html", model)
        file = tmp_path / "few.html"
    with opened(browser, file) as page:
        for address in ("#/", "#/concept/3", "#/text/3", "#/text/5", "#/concept/6"):
            page.evaluate("(address) => (location.hash = address)", address)
            expect(page.locator("main > section:visible h2")).to_be_focused()
            for text in visible_texts(page):
                for found in re.finditer(r"(?i)\bconcept \d+", text):
                    rest = text[found.end() :]
                    assert re.match(r": \S", rest) or "There is no" in text, f"{address}: {text!r}"
            assert page.locator("main").inner_text().count("−0.00") == 0
        page.evaluate("location.hash = '#/concepts'")
        for row in rows(page).all():
            assert row.locator(".words-cell").inner_text().strip(), "beside it"


class TestOverview:
    def test_it_answers_in_this_order(self, report):
        headings = [heading.inner_text() for heading in report.locator("#overview > h3").all()]
        assert headings == [
            "The model",
            "How good it is",
            "Which concepts drive each class",
            "What removing concepts costs",
            "The purest concepts",
        ]
        summary = report.locator("#overview > details.terms summary")
        assert summary.inner_text().startswith("How to read this")
        below = "(node) => node.compareDocumentPosition(document.querySelector('#removals'))"
        assert summary.evaluate(below) & 2, "the removals come before"
        assert report.locator(".plots").evaluate(below) & 2

    def test_how_good(self, report):
        # 38 of 40: Wilson's interval.
        expect(report.locator("#overview")).to_contain_text(
            "The model is right on 95.0 % of 40 labelled texts (95 % interval 83.5 % to 98.6 %). Always giving the "
            "most "
            "frequent label, “bad”, would be right on 50.0 %."
        )

    def test_what_drives_each_class(self, report):
        groups = report.locator("#overview h4").all_inner_texts()[:2]
        assert groups == ["Predicted: bad (5 texts)", "Predicted: good (5 texts)"]
        cells = [
            [cell.inner_text() for cell in row.locator("td").all()]
            for row in report.locator("#overview table.drivers:not(#removals) tbody tr").all()
        ]
        assert cells == [
            ["Concept 2: clumsy, dull, tedious", "100 %", "5 texts", "−1.00", "0"],
            ["Concept 1: funny, warm, bright", "100 %", "5 texts", "−1.40", "1"],
        ]
        report.locator("#overview table.drivers a").first.click()
        expect(report.locator("#concept-title")).to_contain_text("Concept 2")

    def test_the_verdict(self, report, results):
        for sentence in verdict(results):
            expect(report.locator("#overview .verdict")).to_contain_text(sentence)
        first = [cell.inner_text() for cell in report.locator("#removals tbody tr").first.locator("td").all()]
        assert first[0] == "the salient concept" and first[1].startswith("-1.200") and first[2:] == ["10.0 %", "10"]

    def test_every_term_has_a_sentence(self, report):
        report.locator(".terms summary").click()
        terms, sentences = (report.locator(f".terms {kind}").all_inner_texts() for kind in ("dt", "dd"))
        assert len(terms) == len(sentences) > 30 and len(set(terms)) == len(terms)
        assert all(sentence.endswith(".") for sentence in sentences)
        for term in ("Purity", "Margin", "Salient token", "Class directions, class ceiling", "Word ceiling"):
            assert term in terms

    def test_without_an_evaluation(self, browser, table, tmp_path):
        write_report(table, tmp_path / "r.html")
        with opened(browser, tmp_path / "r.html") as page:
            overview = page.locator("#overview")
            expect(overview).to_contain_text("Not measured: clvq-hf evaluate measures it.")
            assert page.get_by_label("removal changes").count() == 0
            expect(overview).to_contain_text("No concept contributes in these texts."), "all salience is 0"


def test_concepts_of_a_text_are_in_the_order_of_contribution(browser, table, tmp_path):
    tokens = table.tokens.to_pandas()
    # Text 3: "a warm film" and hostile words; "light" is its last token.
    rows_of = tokens.index[tokens["text_id"] == 3]
    tokens.loc[rows_of, "salience"] = 0.0
    tokens.loc[rows_of[[1, 2, 3, 4, -1]], "salience"] = [0.5, -0.75, 0.5, 0.25, -0.001]
    scored = type(table)(table.tokens.from_pandas(tokens, features=table.tokens.features), table.texts, table.metadata)
    write_report(scored, tmp_path / "r.html")
    with opened(browser, tmp_path / "r.html", "#/text/3") as page:
        items = page.locator("#text .parts li")
        found = [
            (item.locator("a").inner_text().split(":")[0], item.locator(".score").inner_text()) for item in items.all()
        ]
        hostile = 0.5 + 0.25
        assert found == [
            ("Concept 5", f"+{hostile:.2f}"),
            ("Concept 1", "+0.50"),
            ("Concept 0", "0.00"),
            ("Concept 6", "0.00"),
            ("Concept 3", "−0.75"),
        ]
        expect(items.nth(1)).to_contain_text("salient")
        expect(items.first).to_contain_text("6 tokens")
        assert "−0.00" not in page.locator("#text").inner_text()


def test_long_names_wrap(browser, table, model, tmp_path):
    long = "a label with a name as long as those that people give to the classes of their own surveys, " * 2
    labels = [long, "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung" * 2]
    write_report(
        type(table)(table.tokens, table.texts, {**table.metadata, "label_names": labels}), tmp_path / "r.html", model
    )
    with opened(browser, tmp_path / "r.html", viewport={"width": 400, "height": 800}) as page:
        for address in ("#/concepts", "#/concept/1", "#/text/3", "#/"):
            page.evaluate("(address) => (location.hash = address)", address)
            expect(page.locator("main > section:visible h2")).to_be_focused()
            assert page.evaluate("document.documentElement.scrollWidth") == 400, address


class TestWithoutLabels:
    """Forty texts of the same table: the host's classes have names, but no text has a label."""

    @pytest.fixture(scope="class")
    def file(self, table, model, tmp_path_factory):
        texts = table.texts.to_pandas().assign(label=-1)
        unlabelled = type(table)(
            table.tokens, table.texts.from_pandas(texts, features=table.texts.features), table.metadata
        )
        file = tmp_path_factory.mktemp("unlabelled") / "r.html"
        write_report(unlabelled, file, model)
        return file

    def test_columns_and_captions(self, browser, file):
        with opened(browser, file) as page:
            overview = page.locator("#overview")
            expect(overview).to_contain_text("The texts have no labels, so how often the model is right is unknown.")
            expect(overview.get_by_role("heading", name="The most frequent concepts")).to_be_visible()
            expect(page.locator(".map figcaption")).to_contain_text("they have no meaning")
            text = page.locator("main").inner_text()
            assert "label of most" not in text and "urity" not in text
            page.evaluate("location.hash = '#/concepts'")
            assert page.locator("#concept-list th").all_inner_texts()[:2] == ["Concept", "Words"]
            assert page.locator("#concept-list th").count() == 4
            assert page.get_by_label("Minimum purity").count() == page.locator("#concepts [name=label]").count() == 0
            page.evaluate("location.hash = '#/texts'")
            assert page.locator("#texts [name=label]").count() == page.get_by_label("prediction is wrong").count() == 0
            expect(page.get_by_label("Predicted")).to_have_count(1)

    def test_colours_and_lines_tell_concepts_apart(self, browser, file):
        with opened(browser, file, "#/text/3") as page:
            looks = page.evaluate(
                """() => Object.fromEntries([...document.querySelectorAll("#text .token")].map((token) =>
                  [token.dataset.code, token.style.getPropertyValue("--colour") + token.dataset.line]))"""
            )
            assert set(looks) == {"0", "1", "3", "5", "6"} and len(set(looks.values())) == 5
            assert all(look.startswith("var(--label-") for look in looks.values()), "none is grey"
            assert min(page.evaluate(CONTRASTS))[0] >= 4.5
