"""The page of the live app, in Gradio: `session.py` does the work, `rendering.py` makes the HTML."""

import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from ..extras import require
from ..hub.requests import reach_localhost_directly
from .rendering import card_html, concept_words, effect_html, header_html, reading_html
from .session import MAX_NEW_TOKENS, Explorer

if TYPE_CHECKING:
    import gradio

# Of a request: a text of the greatest length has a fifth of it. There is nothing to upload.
MAX_REQUEST_BYTES = 1_000_000
# Readers who wait for their turn; more are asked to come back later. The host does one thing at a time.
MAX_WAITING = 32

ABLATE, SWAP, STEER = "ablate", "swap", "steer"
CHANGES = {ABLATE: "Remove it", SWAP: "Replace it by an average token", STEER: "Push the text towards it"}
POSITIONS = {
    "code": "where the concept occurs",
    "all": "at every token",
    "cls": "at the first token",
    "last": "at the last token",
}

# One listener for all tokens, also for those that come later.
CLICKS = """
element.addEventListener("click", (event) => {
  const token = event.target.closest("button.token");
  if (token) trigger("click", {code: Number(token.dataset.code)});
});
"""
# Marks the tokens of the chosen concept, whether it was clicked or entered.
MARK_TOKENS = """(code) => {
  for (const token of document.querySelectorAll("#reading button.token"))
    token.setAttribute("aria-pressed", String(code !== null && Number(token.dataset.code) === code));
  return code;
}"""


def build_app(explorer: Explorer) -> "gradio.Blocks":
    """The app, to be mounted in another one; [`launch_app`][clvq_hf.app.launch_app] serves it as it is meant to look.

    Args:
        explorer ([`Explorer`][clvq_hf.app.Explorer]): What is looked at.

    Raises:
        ModuleNotFoundError: If Gradio is missing.
    """
    gr = import_gradio()
    last = explorer.model.config.codebook_size - 1
    changes = [(name, key) for key, name in CHANGES.items() if key != SWAP or explorer.swaps]

    def shown(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except ValueError as error:
                # Gradio shows the message as HTML.
                raise gr.Error(str(escape(error)), print_exception=False) from error

        return run

    @shown
    def read(text: str, code: int | None) -> str:
        return reading_html(explorer, explorer.read(text), code)

    def choose(event: gr.EventData) -> int:
        return event.code

    @shown
    def card(code: int | None) -> str:
        return "" if code is None else card_html(explorer, code)

    def adapt(change: str) -> tuple[Any, Any]:
        return gr.update(value="all" if change == STEER else "code"), gr.update(visible=change == STEER)

    @shown
    def apply(
        text: str, code: int | None, change: str, where: str, strength: float, max_new_tokens: int
    ) -> tuple[str, str]:
        if change == STEER:
            effect = explorer.steer(text, code, strength, where, max_new_tokens)
            way = "towards" if strength >= 0 else "away from"
            done = f"Pushed {way} {concept_words(explorer, code)}, by {abs(strength):g} of each token's length"
        else:
            how = "swap" if change == SWAP else "project"
            effect = explorer.ablate(text, code, where, how, max_new_tokens)
            done = (
                f"{'Replaced by an average token' if change == SWAP else 'Removed'}: {concept_words(explorer, code)}"
            )
        html = effect_html(explorer, effect, f"{done}, {POSITIONS[where]}.", removes=change == ABLATE)
        return reading_html(explorer, effect.reading, code), html

    plain = {"apply_default_css": False, "js_on_load": None}
    # Nothing is sent to anybody.
    with gr.Blocks(title="Concepts", analytics_enabled=False) as app:
        gr.HTML(header_html(explorer), **plain)
        text = gr.Textbox(label="Text", placeholder="Type a text to see its concepts", lines=3, max_lines=12)
        reader = gr.Button("Show concepts", variant="primary")
        reading = gr.HTML(elem_id="reading", render=False, **{**plain, "js_on_load": CLICKS})
        if examples := explorer.examples:
            gr.Examples(
                [[example] for example in examples],
                text,
                reading,
                lambda example: read(example, None),
                cache_examples=False,
                run_on_click=True,
                label="Examples to click",
                elem_id="examples",
            )
        reading.render()
        with gr.Row():
            with gr.Column(min_width=300):
                code = gr.Number(
                    label="Concept",
                    info=f"Click a token, or enter a number from 0 to {last}.",
                    value=None,
                    precision=0,
                )
                shown_card = gr.HTML(elem_id="card", **plain)
            with gr.Column(min_width=300):
                change = gr.Radio(changes, value=ABLATE, label="What to do with it")
                where = gr.Radio([(name, key) for key, name in POSITIONS.items()], value="code", label="Where")
                strength = gr.Slider(
                    -2,
                    2,
                    value=0.5,
                    step=0.05,
                    label="Strength",
                    info="As a share of each token's length; below 0 pushes away.",
                    visible=False,
                )
                max_new_tokens = gr.Slider(
                    1, MAX_NEW_TOKENS, value=20, step=1, label="Tokens to generate", visible=explorer.generates
                )
                changer = gr.Button("Apply", variant="primary")
                effect = gr.HTML(elem_id="effect", **plain)
        gr.on([reader.click, text.submit], read, [text, code], reading, api_name="read")
        reading.click(choose, None, code, show_progress="hidden", api_visibility="private")
        code.change(card, code, shown_card, js=MARK_TOKENS, api_name="card")
        change.change(adapt, change, [where, strength], show_progress="hidden", api_visibility="private")
        changer.click(
            apply, [text, code, change, where, strength, max_new_tokens], [reading, effect], api_name="apply"
        )
    return app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


class _LimitedRequests:
    """ASGI middleware that refuses requests of too many bytes while they arrive, before Gradio keeps them."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[..., Any]) -> None:
        from starlette.exceptions import HTTPException  # which Gradio brings

        received = 0

        async def receive_within_limit() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_REQUEST_BYTES:
                raise HTTPException(413, "This request is too large.")
            return message

        await self._app(scope, receive_within_limit, send)


def launch_app(explorer: Explorer, **kwargs: Any) -> tuple[Any, str, str]:
    """Serve the app: on 127.0.0.1, or where the environment of a Space says.

    Requests of more than 1 MB are refused, uploads with them, and so is the 33rd reader who waits.

    Args:
        explorer ([`Explorer`][clvq_hf.app.Explorer]): What is looked at.
        kwargs: For `gradio.Blocks.launch`: `server_port`, `share`, `prevent_thread_lock`, …

    Returns:
        What `launch` returns: the server, its local address, and the public one of a shared app.

    Raises:
        ModuleNotFoundError: If Gradio is missing.
        OSError: If the port is taken.
    """
    gr = import_gradio()
    # Gradio asks its own server whether it is there.
    reach_localhost_directly()
    # Gradio would keep the texts of earlier visits in the browser.
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
    # Fonts of the system: others would be fetched from elsewhere.
    theme = gr.themes.Base(
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )
    # Its own greys and blues are too pale to be read by everybody.
    theme.set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )
    from starlette.middleware import Middleware

    options = {"app_kwargs": {"middleware": [Middleware(_LimitedRequests)]}, "max_file_size": MAX_REQUEST_BYTES}
    return build_app(explorer).launch(theme=theme, **{**options, **kwargs})


def import_gradio() -> Any:
    """The library, or an error that says how to get it."""
    require("The app", "app")
    import gradio

    return gradio


__all__ = ["build_app", "launch_app"]
