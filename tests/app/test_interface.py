"""A real Chromium on the real app: read, click, remove, steer, generate. Nothing but 127.0.0.1 is asked."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

import pytest
from helpers.app_helpers import free_port, wait_for
from typer.testing import CliRunner

from clvq_hf.app import Explorer, build_app, launch_app
from clvq_hf.app.interface import MAX_WAITING
from clvq_hf.cli import app as command_line

gradio = pytest.importorskip("gradio")

TEXT = "a warm and funny film, with a brilliant cast"


@contextmanager
def served(explorer: Explorer) -> Iterator[str]:
    """The app in this process; its address."""
    port = free_port()
    _, address, share = launch_app(explorer, server_port=port, prevent_thread_lock=True, quiet=True)
    assert share is None
    try:
        yield address
    finally:
        gradio.close_all(verbose=False)


@pytest.fixture(scope="module")
def address(minilm) -> Iterator[str]:
    with served(minilm) as address:
        yield address


class App:
    """A page of the app, as a person uses it."""

    def __init__(self, browser, address: str, width: int = 1000, **context) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **context)
        self.page.set_default_timeout(300_000)
        self.requested, self.errors = [], []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)

    def read(self, text: str) -> None:
        self.page.get_by_label("Text", exact=True).fill(text)
        self.page.get_by_role("button", name="Show concepts").click()
        self.page.wait_for_function("document.querySelector('#reading .tokens')")

    def token(self, text: str):
        return self.page.locator("#reading").get_by_role("button", name=re.compile(rf"^{text}: concept"))

    def card(self, code: int) -> str:
        card = self.page.locator("#card")
        card.get_by_role("heading", name=re.compile(rf"^Concept {code}\b")).wait_for()
        return card.inner_text()

    def apply(self, says: str) -> str:
        """Press the button; what the answer says, which must hold these words."""
        self.page.get_by_role("button", name="Apply").click()
        self.page.locator("#effect", has_text=says).wait_for()
        return self.page.locator("#effect").inner_text()

    def bars(self) -> list[tuple[float, float]]:
        rows = self.page.locator("#effect tbody tr").all()
        numbers = [row.locator("td.number").all_inner_texts() for row in rows]
        return [(float(before.split()[0]), float(after.split()[0])) for before, after, *_ in numbers]


@pytest.fixture
def app(browser, address) -> Iterator[App]:
    app = App(browser, address)
    yield app
    app.page.close()
    assert app.errors == []
    elsewhere = [url for url in app.requested if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []


def colour_of(token) -> str:
    return token.evaluate("element => getComputedStyle(element).backgroundColor")


def test_from_a_text_to_a_changed_prediction(app, minilm):
    app.read(TEXT)
    read = minilm.read(TEXT)
    tokens = app.page.locator("#reading button.token")
    assert tokens.count() == len(read.tokens)
    assert len({colour_of(token) for token in tokens.all()}) > 1
    shown = app.page.locator("#reading tbody td.number").all_inner_texts()
    assert shown == [f"{100 * share:.1f} %" for _, share in read.probabilities]

    code = next(token.code for token in read.tokens if token.name == "funny")
    app.token("funny").click()
    card = app.card(code)
    assert minilm.table.concept(code).top_words[0][0] in card
    assert app.token("funny").get_attribute("aria-pressed") == "true"
    assert (
        app.token("warm").get_attribute("aria-pressed")
        == str(next(token.code for token in read.tokens if token.name == "warm") == code).lower()
    )

    effect = minilm.ablate(TEXT, code)
    app.apply(f"(concept {code}), where the concept occurs.")
    removed = app.bars()
    assert removed == [(round(100 * bar.before, 1), round(100 * bar.after, 1)) for bar in effect.bars]
    assert removed[0][0] != removed[0][1]

    app.page.get_by_label("at every token").check()
    app.apply(f"(concept {code}), at every token.")
    assert app.bars() != removed
    assert f"(concept {effect.control.code})" in app.page.locator("#effect .other").inner_text()

    app.page.get_by_label("Push the text towards it").check()
    app.apply("Pushed towards")
    steered = minilm.steer(TEXT, code, 0.5)
    assert app.bars() == [(round(100 * bar.before, 1), round(100 * bar.after, 1)) for bar in steered.bars]
    assert "Lead of" in app.page.locator("#effect").inner_text()


def test_an_example_is_read_at_a_click(app, minilm):
    [first, *_] = minilm.examples
    app.page.locator("#examples button").first.click()
    app.page.wait_for_function("document.querySelector('#reading .tokens')")
    read = minilm.read(first)
    assert app.page.locator("#reading button.token").count() == len(read.tokens)
    assert app.page.get_by_label("Text", exact=True).input_value() == first
    salient = app.page.locator("#reading button.token.salient")
    assert salient.count() == 1 and str(read.tokens[read.salient].code) == salient.get_attribute("data-code")


def test_a_concept_by_its_number(app):
    app.read(TEXT)
    app.page.get_by_label("Concept", exact=True).fill("7")
    app.page.keyboard.press("Enter")
    app.card(7)
    app.page.get_by_label("Replace it by an average token").check()
    app.page.get_by_label("at the last token").check()
    text = app.apply("Replaced by an average token")
    assert "(concept 7), at the last token." in text


def test_by_keyboard_alone(app, minilm):
    app.page.get_by_label("Text", exact=True).focus()
    app.page.keyboard.type("warm film")
    app.page.keyboard.press("Shift+Enter")
    app.token("warm").wait_for()
    app.token("warm").focus()
    app.page.keyboard.press("Tab")
    assert app.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("film: concept")
    app.page.keyboard.press("Enter")
    app.card(next(token.code for token in minilm.read("warm film").tokens if token.name == "film"))
    # The marks have changed, and the focus is where it was.
    assert app.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("film: concept")


def test_texts_are_shown_and_never_run(app):
    text = "<img src=x onerror=alert(1)> ${alert(1)} {{value}} </style><script>alert(1)</script>"
    app.read(text)
    app.page.locator("#reading button.token").nth(20).wait_for()
    assert app.page.locator("#reading img, #reading script").count() == 0
    shown = app.page.locator("#reading .tokens").evaluate(
        "element => { const copy = element.cloneNode(true);"
        "copy.querySelectorAll('.code, .special').forEach(code => code.remove()); return copy.textContent }"
    )
    assert shown == text


def test_errors_say_what_to_do(app):
    for text, code, message in (
        ("  ", "3", "Type one first"),
        ("film", "", "click a token"),
        ("film", "600", "from 0 to 59"),
    ):
        app.page.get_by_label("Text", exact=True).fill(text)
        app.page.get_by_label("Concept", exact=True).fill(code)
        app.page.get_by_role("button", name="Apply").click()
        app.page.get_by_test_id("toast-body").filter(has_text=message).first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_in_both_themes(browser, address, theme):
    app = App(browser, f"{address}?__theme={theme}", width=360)
    app.read(TEXT)
    app.token("warm").click()
    app.page.locator("#card h3").wait_for()
    app.apply("(concept")
    assert app.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert app.page.locator("#effect table").evaluate("table => table.getBoundingClientRect().right") <= 360 - 16
    # Text and ground of a token are far apart in lightness, whatever the theme.
    lightness = app.page.locator("#card p").first.evaluate(
        "element => { const canvas = document.createElement('canvas').getContext('2d');"
        "return ['color', 'backgroundColor'].map(name => { const owner = name === 'color' ? element :"
        " element.closest('.clvq'); canvas.fillStyle = getComputedStyle(owner)[name]; canvas.fillRect(0, 0, 1, 1);"
        " return canvas.getImageData(0, 0, 1, 1).data[0]; }) }"
    )
    assert abs(lightness[0] - lightness[1]) > 80 and (lightness[0] > lightness[1]) == (theme == "dark")
    app.page.close()


def test_two_people_at_a_time(browser, address, minilm):
    pages = [App(browser, address), App(browser, address)]
    codes = [minilm.read(TEXT).tokens[place].code for place in (2, 4)]
    for app, code in zip(pages, codes, strict=True):
        app.read(TEXT)
        app.page.get_by_label("Concept", exact=True).fill(str(code))
        app.page.keyboard.press("Enter")
        app.card(code)
    slow = minilm.host.register_forward_pre_hook(lambda *_: sleep(0.05))
    for app in pages:
        app.page.get_by_role("button", name="Apply").click(no_wait_after=True)
    for app, code in zip(pages, codes, strict=True):
        app.page.locator("#effect", has_text=f"(concept {code})").wait_for()
    slow.remove()
    for app, code in zip(pages, codes, strict=True):
        expected = [(round(100 * bar.before, 1), round(100 * bar.after, 1)) for bar in minilm.ablate(TEXT, code).bars]
        assert app.bars() == expected
        app.page.close()


def test_generated_text_of_a_causal_host(browser, llama):
    with served(llama) as address:
        app = App(browser, address)
        app.read(TEXT)
        code = llama.read(TEXT).tokens[3].code
        app.page.locator(f"#reading button.token[data-code='{code}']").first.click()
        assert "no concept table" in app.card(code)
        app.page.get_by_label("at every token").check()
        app.apply(f"Removed: concept {code}, at every token.")
        before, after = llama.ablate(TEXT, code, "all").continuations
        shown = app.page.locator("#effect dd")
        assert [text.evaluate("element => element.textContent") for text in shown.all()] == [before.text, after.text]
        assert app.page.locator("#effect dd.after mark").evaluate("element => element.textContent") == after.different
        app.page.get_by_label("Push the text towards it").check()
        app.apply("Pushed towards")
        _, pushed = llama.steer(TEXT, code, 0.5).continuations
        assert shown.last.evaluate("element => element.textContent") == pushed.text != before.text
        app.page.close()
        assert app.errors == []


@pytest.mark.slow
def test_a_missing_gradio_is_named(minilm, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "clvq-hf[app]"')):
        launch_app(minilm)


def post(address: str, path: str, body: bytes, kind: str = "application/json") -> int:
    request = urllib.request.Request(f"{address}gradio_api/{path}", body, {"content-type": kind})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


class TestRequests:
    @pytest.fixture(scope="class")
    def address(self, minilm) -> Iterator[str]:
        """Of a server of their own: tests above have closed all others."""
        with served(minilm) as address:
            yield address

    @pytest.mark.parametrize("path", ["queue/join", "call/read", "upload", "run/predict"])
    def test_large_requests_are_refused(self, address, path):
        boundary = b'--b\r\ncontent-disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
        body = b'{"data": ["' + b"x" * 2_000_000 + b'", null]}'
        form = boundary + b"x" * 2_000_000 + b"\r\n--b--\r\n"
        is_upload = path == "upload"
        sent = (form, "multipart/form-data; boundary=b") if is_upload else (body, "application/json")
        assert post(address, path, *sent) == 413

    def test_requests_of_usual_size_are_not(self, address):
        text = "é" * 16_000
        assert post(address, "call/read", json.dumps({"data": [text, None]}).encode()) == 200

    def test_no_files_are_served(self, address, tmp_path):
        (tmp_path / "secret").write_text("x")
        for file in ("/etc/passwd", tmp_path / "secret", "pyproject.toml", "../../../../etc/passwd"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{address}gradio_api/file={file}")
            assert caught.value.code in (403, 404)


def test_the_queue_is_bounded(minilm):
    app = build_app(minilm)
    assert app._queue.max_size == MAX_WAITING
    assert {function.concurrency_limit for function in app.fns.values()} <= {1, "default"}
    assert app._queue.default_concurrency_limit == 1


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(
            command_line, ["app", "no/such-model", "--port", str(port)], env={"COLUMNS": "200"}
        )
    assert result.exit_code == 1 and f"Port {port} cannot be used" in result.output


class Proxy(threading.Thread):
    """What a process would ask of the world goes through here, and is refused; `asked` tells."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[bytes] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096).split(b"\r\n")[0])


@pytest.mark.slow
def test_the_command(browser, minilm, tmp_path):
    minilm.host.save_pretrained(tmp_path / "host")
    minilm.tokenizer.save_pretrained(tmp_path / "host")
    minilm.model.save_pretrained(tmp_path / "model")
    minilm.table.save_to_disk(tmp_path / "table")
    port, proxy = free_port(), Proxy()
    through = f"http://127.0.0.1:{proxy.listener.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= {"http_proxy": through, "https_proxy": through}
    command = [sys.executable, "-c", "from clvq_hf.cli import app; app(prog_name='clvq-hf')", "app", "model"]
    command += ["--host", "host", "--table", "table", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        app = App(browser, f"http://127.0.0.1:{port}/")
        app.read(TEXT)
        app.token("brilliant").click()
        app.card(next(token.code for token in minilm.read(TEXT).tokens if token.name == "brilliant"))
        app.apply("Removed")
        app.page.close()
    finally:
        process.terminate()
        output = process.communicate(timeout=300)[0].decode()
        proxy.listener.close()
    assert f"http://127.0.0.1:{port}" in output and "gradio.live" not in output
    assert proxy.asked == []
