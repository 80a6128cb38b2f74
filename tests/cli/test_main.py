"""The command line as a whole: its version, its help, its errors, and how quickly it starts."""

import io
import logging
import subprocess
import sys
import warnings

import pytest
import typer
from helpers.command_line import invoke, refuse, succeed

from clvq_hf import __version__
from clvq_hf.cli import app

COMMANDS = ["demo", "train", "concepts build", "concepts label", "evaluate", "report", "app", "compare", "judge"]
COMMANDS += ["explain", "audit", "edit", "study build", "study score", "push", "pull", "info"]
COMMANDS += [f"concepts {name}" for name in ("rename", "merge", "group", "hide", "find")]


def test_version():
    assert succeed("--version") == f"clvq-hf {__version__}"


@pytest.mark.slow
def test_every_command_has_an_example_in_its_help():
    names = []
    for name, command in typer.main.get_command(app).commands.items():
        names += [f"{name} {each}" for each in command.commands] if hasattr(command, "commands") else [name]
    assert sorted(names) == sorted(COMMANDS)
    for name in names:
        assert f"clvq-hf {name} " in succeed(*name.split(), "--help"), name


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_neither_torch_nor_transformers(command):
    code = (
        "import sys; from clvq_hf.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True, check=True
    )
    assert (result.stdout.splitlines()[-1], result.stderr) == ("[]", "")


@pytest.mark.parametrize("error", [ValueError, OSError, ModuleNotFoundError])
def test_errors_that_users_can_fix_have_no_traceback(monkeypatch, error):
    def describe(source):
        raise error("what to do")

    monkeypatch.setattr("clvq_hf.models.checkpoints.describe", describe)
    assert refuse("info", "folder") == "Error: what to do"


def test_our_warnings_appear_once_and_in_options_and_those_of_others_not_at_all(monkeypatch):
    def describe(source):
        for _ in range(2):
            logging.getLogger("clvq_hf.models.checkpoints").warning("Choose split=… or other=….")
            warnings.warn("for programmers", DeprecationWarning, stacklevel=1)
        warnings.warn("for programmers", UserWarning, stacklevel=1)
        raise ValueError("what to do")

    monkeypatch.setattr("clvq_hf.models.checkpoints.describe", describe)
    assert refuse("info", "folder") == "Warning: Choose split=… or other=…. Error: what to do"
    monkeypatch.setattr("clvq_hf.data.text_source.load_texts", lambda *_, **__: describe(None))
    arguments = ("build", "model", "--dataset", "x", "--output-dir", "y")
    assert refuse("concepts", *arguments) == "Warning: Choose --split or other=…. Error: what to do"


def test_other_errors_are_not_hidden(monkeypatch):
    def describe(source):
        raise RuntimeError

    monkeypatch.setattr("clvq_hf.models.checkpoints.describe", describe)
    assert isinstance(invoke("info", "folder").exception, RuntimeError)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_console_cannot_show_is_replaced(monkeypatch, encoding):
    def describe(source):
        raise ValueError("łódź → 日本")

    monkeypatch.setattr("clvq_hf.models.checkpoints.describe", describe)
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    for arguments, code in ((["evaluate", "--help"], 0), (["info", "folder"], 1)):
        with pytest.raises(SystemExit) as ended:
            app(arguments)
        assert ended.value.code == code
    written = {}
    for name, stream in streams.items():
        stream.flush()
        written[name] = stream.buffer.getvalue().decode(encoding, errors="replace")
    assert "--train-split" in written["stdout"]
    # Typer takes an ASCII console for one that is set wrongly, and writes UTF-8.
    assert ("Error: ?ód? ? ??" if encoding == "cp1252" else "Error: ") in written["stderr"]
