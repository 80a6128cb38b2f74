"""The page in a real browser, as annotators use it; and what they download, scored."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import TIMEOUT
from typer.testing import CliRunner

from clvq_hf.cli import app
from clvq_hf.judging.people import StudyKey, StudyQuestion, build_study, group_of, read_answers


class Annotator:
    """Somebody at the page, who has a keyboard and nothing else."""

    def __init__(self, context: Any, folder: Path, number: int | None = None) -> None:
        self.page = context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on(
            "request", lambda request: request.url.startswith(("file:", "blob:")) or self.problems.append(request.url)
        )
        self.folder = folder
        self.key = StudyKey.load(folder / "key.json")
        self.open(number)

    def open(self, number: int | None = None) -> None:
        self.page.goto((self.folder / "page.html").as_uri() + (f"#annotator={number}" if number else ""))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def start(self, number: int | None = None) -> None:
        """Tab to the number, type it unless it is there, go."""
        self.press("Tab", *(str(number) if number else ()), "Enter")

    @property
    def question(self) -> StudyQuestion:
        """The one that is shown, as the key knows it."""
        return self.key.by_id[self.page.evaluate("questions[place].id")]

    @property
    def place(self) -> str:
        return self.page.locator("#place").inner_text()

    @property
    def is_asked(self) -> bool:
        return self.page.locator("#question").is_visible()

    def choose(self, label: str) -> None:
        self.press(str(self.key.label_names.index(label) + 1))

    def answer(
        self, rule: Callable[[StudyQuestion], str] = lambda question: question.answer, number: int = 1000
    ) -> list[str]:
        """Answer so many questions by rule, or all; return their names."""
        asked = []
        while self.is_asked and len(asked) < number:
            asked.append(self.question.id)
            self.choose(rule(self.question))
            self.press("Enter")
        return asked

    def download(self, folder: Path, selector: str = "#end .download") -> Path:
        self.page.locator(selector).focus()
        with self.page.expect_download() as download:
            self.press("Enter")
        file = folder / download.value.suggested_filename
        download.value.save_as(file)
        return file


@pytest.fixture
def context(browser) -> Iterator[Any]:
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def come(context, folder) -> Iterator[Callable[..., Annotator]]:
    """Opens the page as an annotator; at the end nothing may have gone wrong in it."""
    everybody: list[Annotator] = []

    def come(number: int | None = None, folder: Path = folder) -> Annotator:
        everybody.append(Annotator(context, folder, number))
        return everybody[-1]

    yield come
    assert [problem for annotator in everybody for problem in annotator.problems] == []


def test_from_start_to_end_with_the_keyboard_alone_leaving_in_the_middle(come, key, tmp_path):
    first = come()
    first.start(3)
    assert first.place == "Question 1 of 15"
    before = first.answer(number=6)
    open_question = first.question
    first.choose("good")  # not confirmed
    first.page.close()

    again = come(3)
    assert again.page.locator("#kept").inner_text() == "Number 3 has answered 6 of 15 questions in this browser."
    again.start()
    assert (again.place, again.question) == ("Question 7 of 15", open_question)
    assert again.page.locator("#choices :checked").count() == 0
    after = again.answer()
    assert sorted(before + after) == sorted(question.id for question in key.of_group(1))
    # The button has the focus: Enter downloads.
    assert again.page.evaluate("document.activeElement.textContent") == "Download the answers"
    file = again.download(tmp_path)
    assert file.name == f"answers-{key.study}-3.json"
    (found,) = read_answers([file], key)
    assert found.is_complete and all(answer.is_right for answer in found.answers)
    assert [answer.question.id for answer in found.answers] == before + after
    assert "Downloaded 15 of 15" in again.page.locator("#status").inner_text()


def test_an_unfinished_file_says_so(come, key, tmp_path):
    annotator = come(1)
    annotator.start()
    annotator.answer(number=4)
    file = annotator.download(tmp_path, "#question .download")
    assert json.loads(file.read_text())["complete"] is False
    (found,) = read_answers([file], key)
    assert len(found.answers) == 4 and not found.is_complete
    # And goes on.
    assert annotator.place == "Question 5 of 15"


def test_an_answer_can_be_changed(come, tmp_path, key):
    annotator = come(1)
    annotator.start()
    first = annotator.question
    annotator.choose("good")
    annotator.press("Enter")
    annotator.page.locator("#back").focus()
    annotator.press("Enter")
    assert annotator.question == first and annotator.page.locator("#choices :checked").input_value() == "good"
    annotator.page.locator("#choices :checked").focus()
    annotator.press("ArrowUp", "Enter")
    assert annotator.place == "Question 2 of 15"
    (found,) = read_answers([annotator.download(tmp_path, "#question .download")], key)
    assert [answer.choice for answer in found.answers] == ["bad"]


def test_nothing_happens_without_a_choice(come):
    annotator = come(1)
    annotator.start()
    annotator.press("Enter")
    annotator.press("9", "a", "Control+1")
    assert annotator.place == "Question 1 of 15" and annotator.page.locator("#choices :checked").count() == 0


def test_a_number_that_is_none(come):
    annotator = come()
    for number in ("0", "-1", "1.5", "x", ""):
        annotator.page.locator("#annotator").fill("")
        annotator.page.locator("#annotator").press_sequentially(number)
        annotator.press("Enter")
        assert annotator.page.locator("#start").is_visible(), number


def test_somebody_elses_link_in_the_same_tab(come):
    annotator = come(1)
    annotator.start()
    annotator.answer(number=2)
    with annotator.page.expect_event("load"):
        annotator.page.evaluate("location.hash = 'annotator=2'")
    assert annotator.page.locator("#annotator").input_value() == "2"
    annotator.start()
    assert annotator.place == "Question 1 of 15"


def test_two_annotators_at_one_computer_do_not_mix(come, key, tmp_path):
    first = come(1)
    first.start()
    first.answer(lambda question: "good", number=3)
    second = come(2)
    assert second.page.locator("#begin").inner_text() == "Start"
    second.start()
    assert second.place == "Question 1 of 15"
    second.answer(lambda question: "bad", number=2)
    first.open(1)
    first.page.reload()
    first.start()
    assert first.place == "Question 4 of 15"
    files = [annotator.download(tmp_path, "#question .download") for annotator in (first, second)]
    assert [[answer.choice for answer in found.answers] for found in read_answers(files, key)] == [
        ["good"] * 3,
        ["bad"] * 2,
    ]


def test_orders_are_random_by_annotator_and_stay(come, key):
    orders = []
    for number in (1, 2, 1, 9):
        annotator = come(number)
        annotator.start()
        orders.append(annotator.page.evaluate("questions.map((question) => question.id)"))
    assert orders[0] == orders[2]
    # One group (the ninth of four pairs is of the first again), three orders.
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(question.id for question in key.of_group(0)))}
    assert len({tuple(order) for order in orders}) == 3


def test_places_are_equally_likely(come):
    annotator = come(1)
    firsts = annotator.page.evaluate(
        "Array.from({length: 3000}, (_, n) => shuffled([0, 1, 2, 3, 4], `study:${n}`)).map((order) => order[0])"
    )
    assert all(abs(firsts.count(value) - 600) < 90 for value in range(5))


def test_the_group_is_the_one_that_scoring_expects(come, key):
    annotator = come(1)
    for number in range(1, 20):
        shown = annotator.page.evaluate(f"group({number}).map((question) => question.id)")
        expected = group_of(number, key.num_groups, key.raters)
        assert {key.by_id[name].group for name in shown} == {expected}


@pytest.mark.parametrize("farewell", ["in time", "too late"])
def test_time_counts_while_the_page_is_visible(come, context, key, tmp_path, farewell):
    if farewell == "too late":  # on a busy machine the reloaded page reads what is kept before these events
        drop = "(event) => event.isTrusted && event.stopImmediatePropagation()"
        for name in ("pagehide", "visibilitychange"):
            context.add_init_script(f"addEventListener('{name}', {drop}, true);")
    annotator = come(1)
    page = annotator.page
    page.clock.install(time=0)
    page.reload()
    see = "Object.defineProperty(document, 'visibilityState', {{get: () => '{}', configurable: true}});"
    page.clock.run_for(60_000)  # at the instructions
    annotator.start()
    page.clock.run_for(4_000)
    page.evaluate(see.format("hidden") + "document.dispatchEvent(new Event('visibilitychange'))")
    page.clock.run_for(600_000)
    page.evaluate(see.format("visible") + "document.dispatchEvent(new Event('visibilitychange'))")
    page.clock.run_for(2_000)
    page.reload()
    page.clock.run_for(60_000)
    annotator.start()
    page.clock.run_for(3_000)
    annotator.answer(number=1)
    page.clock.run_for(7_000)
    annotator.answer(number=1)
    (found,) = read_answers([annotator.download(tmp_path, "#question .download")], key)
    # The reload's own time is real, and short.
    assert [answer.seconds for answer in found.answers] == [pytest.approx(9, abs=1), pytest.approx(7, abs=1)]


def test_another_tab_of_the_same_annotator(come, key, tmp_path):
    first, second = come(1), come(1)
    first.start()
    second.start()
    first.answer(number=2)
    # Not wait_for_function: it polls by eval, which the page's policy forbids.
    for _ in range(1000):
        if second.page.evaluate("Object.keys(answers).length") >= 2:
            break
        second.page.wait_for_timeout(50)
    second.answer(number=1)
    (found,) = read_answers([second.download(tmp_path, "#question .download")], key)
    assert len(found.answers) == 2


def test_a_browser_that_keeps_nothing(come, context, key, tmp_path):
    context.add_init_script(
        "for (const name of ['getItem', 'setItem']) Storage.prototype[name] = () => { throw new Error('full'); };"
    )
    annotator = come(1)
    dialogs = []
    annotator.page.on("dialog", lambda dialog: (dialogs.append(dialog.type), dialog.dismiss()))
    annotator.start()
    assert annotator.page.locator("#unsaved").is_visible()
    with annotator.page.expect_event("dialog"):
        annotator.page.close(run_before_unload=True)
    assert dialogs == ["beforeunload"]  # and it stays
    annotator.answer()
    (found,) = read_answers([annotator.download(tmp_path)], key)
    assert found.is_complete


# Each in a context of its own: a page that is closed keeps its answers once more, perhaps after the next one came.
@pytest.mark.parametrize(
    "state",
    [
        "{",
        "null",
        "[]",
        '{"answers": 1, "startedAt": ""}',
        '{"answers": null, "startedAt": ""}',
        '{"answers": [], "startedAt": ""}',
        '{"answers": {"ID": 1}, "startedAt": ""}',
        '{"answers": {"ID": {"seconds": null, "choice": "good"}}, "startedAt": ""}',
        '{"answers": {"ID": {"seconds": 1, "choice": "great"}}, "startedAt": ""}',
    ],
)
def test_damaged_answers_in_the_browser_start_anew(state, come, key):
    state = state.replace("ID", key.of_group(0)[0].id)
    annotator = come()
    # In the new document itself: what another one has stored may arrive after it, if the browser is busy.
    script = f"localStorage.setItem('clvq-hf-study:{key.study}:1', {json.dumps(state)})"
    annotator.page.add_init_script(script)
    annotator.page.reload()
    annotator.start(1)
    assert annotator.page.locator("#broken").is_visible()
    assert annotator.place == "Question 1 of 15"
    if "great" in state:
        assert len(annotator.answer()) == 15


def test_texts_and_concepts_of_which_nothing_can_be_shown(come, tables, tmp_path):
    build_study({"rare-method": tables["rare-method"]}, tmp_path, num_items=6, num_checks=0, show_text=True)
    annotator = come(1, folder=tmp_path)
    annotator.start()
    assert "there is nothing to show" in annotator.page.locator("#exhibit").inner_text()
    assert "<b>actors</b> 😀" in annotator.page.locator("#text").inner_text()
    annotator.answer()
    assert annotator.page.locator("#end").is_visible()


def test_marks_and_sizes(come):
    annotator = come(1)
    annotator.start()
    seen = set()
    while annotator.is_asked:
        question = annotator.question
        shown = annotator.page.locator("#exhibit")
        if question.kind == "sentences" and not question.is_check:
            words = {"bad": {"dull", "tedious"}, "good": {"warm", "funny"}}
            expected = words[question.answer] if question.method == "plain-method" else words["bad"] | words["good"]
            assert set(shown.locator("mark").all_inner_texts()) <= expected
            assert "😀" in shown.inner_text() and shown.locator("b").count() == 0
        elif question.kind == "words":
            size = "(item) => [parseInt(item.innerText.split(', ').pop()), parseFloat(item.style.fontSize)]"
            sizes = sorted(shown.locator("li").evaluate_all(f"(items) => items.map({size})"))
            assert sizes == sorted(sizes, key=lambda pair: pair[1]), "the more often, the larger"
        seen.add(question.kind)
        annotator.answer(number=1)
    assert seen == {"words", "sentences"}


@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1600, "light")])
def test_nothing_is_cut_off_in_any_width_or_theme(browser, folder, width, theme):
    context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=theme)
    annotator = Annotator(context, folder, 1)

    def check() -> None:
        assert annotator.page.evaluate("document.documentElement.scrollWidth") <= width
        for control in annotator.page.locator("button:visible, #choices label:visible").all():
            box = control.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 32
        background = annotator.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[theme]

    check()
    annotator.start()
    while annotator.is_asked:
        check()
        annotator.answer(number=1)
    check()
    assert annotator.problems == []
    context.close()


def test_two_annotators_files_scored_from_the_command_line(come, tables, tmp_path):
    for name, table in tables.items():
        table.save_to_disk(tmp_path / name)
    runner = CliRunner()
    sources = [str(tmp_path / name) for name in ("plain-method", "mixed-method")]
    options = ["-o", str(tmp_path / "study"), "--items", "16", "--checks", "2", "--kind", "words"]
    built = runner.invoke(app, ["study", "build", *sources, *options], env={"COLUMNS": "160"})
    assert built.exit_code == 0, built.output
    shown = " ".join(built.output.split())
    assert "106 items to distinguish" in shown and "4 annotators cover" in shown

    # Both see through the one method; through the other they see nothing: one says good, the other bad.
    answers = tmp_path / "answers"
    answers.mkdir()
    for number, guess in ((1, "good"), (2, "bad")):
        annotator = come(number, folder=tmp_path / "study")
        annotator.start()
        annotator.answer(lambda question, guess=guess: guess if question.method == "mixed-method" else question.answer)
        annotator.download(answers)
    files = sorted(map(str, answers.glob("*.json")))
    arguments = ["study", "score", *files, "--key", str(tmp_path / "study" / "key.json"), "-o", str(tmp_path / "out")]
    scored = runner.invoke(app, arguments, env={"COLUMNS": "160"})
    assert scored.exit_code == 0, scored.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    plain, mixed = scores["methods"]
    assert (plain["method"], plain["num_answers"], plain["accuracy"], plain["fleiss_kappa"]) == (
        "plain-method",
        16,
        1,
        1,
    )
    # Eight items, of which each guess is right where it is the prediction.
    assert (mixed["num_answers"], mixed["accuracy"], mixed["fleiss_kappa"]) == (16, 0.5, -1)
    # By hand: all 16 pairs of ratings differ; 1 - 1 / (2·8·8 / (16·15)).
    assert mixed["krippendorff_alpha"] == pytest.approx(1 - 1 / (128 / 240))
    assert [row["checks_missed"] for row in scores["annotators"]] == [0, 0]
    assert scores["comparisons"][0]["winner"] is None, "eight texts are too few for a verdict"
    markdown = (tmp_path / "out" / "scores.md").read_text()
    assert "| plain-method | words | 16 |" in markdown and "plain-method − mixed-method" in markdown
