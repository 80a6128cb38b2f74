"""What `clvq-hf app` does; `cli.py` holds its options."""

import socket
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..app.interface import import_gradio, launch_app
from ..app.session import Explorer
from ..app.space import export_space


def run_app(model: str, host: str | None, table: Path | None, max_length: int, port: int | None, share: bool) -> None:
    """Load everything, and serve the app until it is stopped."""
    # What can go wrong goes wrong before anything is loaded.
    import_gradio()
    if port is not None:
        _check_port(port)
    explorer = Explorer.from_pretrained(model, host, table, max_length)
    launch_app(explorer, server_port=port, share=share)


def _check_port(port: int) -> None:
    with socket.socket() as listener:
        # As servers do: a port that was left a moment ago is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"Port {port} cannot be had ({error.strerror}). Choose another --port.") from error


def run_export(model: str, host: str | None, table: Path | None, output_dir: Path) -> None:
    """Write the files of a Space, and say how they get there."""
    if table is not None:
        raise ValueError(
            "A Space shows the concept table that lies with the model on the Hub: push it there with `clvq-hf push "
            f"… {model} --table {table}`, and leave --table out."
        )
    has_table = export_space(output_dir, model, host)
    console = Console()
    if not has_table:
        console.print(f"{escape(model)} has no concept table: the Space shows concepts without words and sentences.")
    console.print(f"Written to [bold]{escape(str(output_dir))}/[/]. Look at the files, then upload them:")
    space = f"{model}-app"
    for command in (
        f"hf repos create {space} --type space --space-sdk gradio",
        f"hf upload {space} {output_dir} . --type space",
    ):
        console.print(escape(command), soft_wrap=True, highlight=False)


__all__ = ["run_app", "run_export"]
