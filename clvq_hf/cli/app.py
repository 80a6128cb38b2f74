"""`clvq-hf app`: the live app, or the files of a Space that runs it."""

from pathlib import Path
from typing import Annotated

import typer

from .options import GgufFile, Host, Model, print_written


def run_app(
    model: Model,
    host: Host = None,
    gguf_file: GgufFile = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Concept table with words and sentences. Default: the one saved or pushed with the model."),
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Maximum tokens per text; longer texts are cut.")] = 512,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port on 127.0.0.1. Default: the first free one from 7860."),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also create a public link, valid for 7 days, through a Gradio server.")
    ] = False,
    export_space: Annotated[
        Path | None,
        typer.Option(help="Do not run the app; write the files of a Space that runs it to this folder."),
    ] = None,
) -> None:
    """Type a text, see the concepts of its tokens, and see how the prediction changes when one is removed.

    Click a token to see its concept: words, labels, sentences. Remove the concept or steer the host towards it, and
    compare the predictions and, for a causal language model, the generated text. Stop with Ctrl-C.

    Examples:

    - `clvq-hf app org/clvq-gpt2-jigsaw`
    - `clvq-hf app out --host hosts/minilm-ag-news --table results/concept_table --port 8000`
    - `clvq-hf app org/clvq-gpt2-jigsaw --export-space space`
    """
    from ..app import Explorer, launch_app
    from ..app.interface import import_gradio

    if export_space is not None:
        _export(model, host, table, export_space)
        return
    # What can go wrong quickly comes before anything is loaded.
    import_gradio()
    if port is not None:
        _check_port(port)
    explorer = Explorer.from_pretrained(model, host, table, max_length, gguf_file)
    launch_app(explorer, server_port=port, share=share)


def _check_port(port: int) -> None:
    import socket

    with socket.socket() as listener:
        # As servers do: a port that was released a moment ago is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"Port {port} cannot be used ({error.strerror}). Choose another --port.") from error


def _export(model: str, host: str | None, table: Path | None, folder: Path) -> None:
    from ..app import export_space
    from ..rendering.terminal import say

    if table is not None:
        raise ValueError(
            "A Space shows the concept table that is on the Hub with the model: push it with `clvq-hf push "
            f"… {model} --table {table}`, and omit --table here."
        )
    if not export_space(folder, model, host):
        say(f"{model} has no concept table: the Space shows concepts without words and sentences.")
    print_written(folder, ". Check the files, then upload them:")
    space = f"{model}-app"
    say(f"hf repos create {space} --type space --space-sdk gradio")
    say(f"hf upload {space} {folder} . --type space")
