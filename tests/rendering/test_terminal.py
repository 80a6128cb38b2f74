"""Data cannot control the terminal that it is printed to."""

import ast
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.table import Table
from typer.testing import CliRunner

from clvq_hf.cli import app
from clvq_hf.rendering import ReportTable, print_tables
from clvq_hf.rendering.terminal import open_console, printable, say

PACKAGE = Path(__file__).parents[2] / "clvq_hf"
# Title, clipboard, colour, a cursor that goes up, an overwritten line, a C1 sequence, a bell, reversed text.
EVIL = "a\x1b]0;title\x07b\x1b]52;c;aGk=\x1b\\c\x1b[31md\x1b[2Ae\rf\x9b31mg\x00h\x7fi\u202ej"
FORBIDDEN = set(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x202E]))


def is_clean(printed):
    return not FORBIDDEN & set(printed)


def test_what_is_dropped():
    assert printable(EVIL) == "a]0;titleb]52;c;aGk=\\c[31md[2Aef31mghij"
    assert printable("äß\t\n👩🏽‍💻 שלום مرحبا é") == "äß\t\n👩🏽‍💻 שלום مرحبا é"


@pytest.mark.parametrize("terminal", [False, True])
def test_wherever_it_is_in_what_rich_prints(terminal):
    out = io.StringIO()
    console = open_console(file=out, force_terminal=terminal, color_system=None, width=300, legacy_windows=False)
    table = Table(EVIL, title=EVIL)
    table.add_row(escape(EVIL))
    console.print(EVIL, table, escape(EVIL), markup=False)
    print_tables([ReportTable(EVIL, [EVIL], [[EVIL]], EVIL)], console)
    console.log(EVIL)
    console.rule(EVIL)
    assert out.getvalue().count("titleb") >= 7 and is_clean(out.getvalue())


def test_colours_of_our_own_remain():
    out = io.StringIO()
    console = open_console(file=out, force_terminal=True, color_system="standard", legacy_windows=False)
    console.print("[red]a\x1b[32m[/]", highlight=False)
    assert out.getvalue() == "\x1b[31ma[32m\x1b[0m\n"


@given(st.text())
def test_any_text(text):
    assert is_clean(printable(text))


def test_a_line(capsys):
    say(EVIL, err=True)
    assert is_clean(capsys.readouterr().err)


def test_an_error_of_a_command(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": EVIL}))
    shown = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert shown.exit_code == 1 and "title" in shown.output and is_clean(shown.output)


CODE = """
import logging, sys, threading
from clvq_hf.rendering.terminal import clean_libraries
clean_libraries()
from transformers.utils import logging as hub_logging
hub_logging.get_logger("transformers.models").warning(f"a config says %s", sys.argv[1])
try:
    raise KeyError(sys.argv[1])
except KeyError:
    logging.getLogger("other").exception("with its traceback")
def fail():
    raise OSError(sys.argv[1])
thread = threading.Thread(target=fail)
thread.start()
thread.join()
raise RuntimeError(sys.argv[1])
"""


def test_logs_of_libraries_and_tracebacks():
    evil = EVIL.replace("\x00", "")
    ran = subprocess.run([sys.executable, "-c", CODE, evil], capture_output=True, text=True)
    assert ran.returncode == 1 and "a config says a]0;title" in ran.stderr and "RuntimeError: a]0;" in ran.stderr
    assert "with its traceback" in ran.stderr and "KeyError: " in ran.stderr and "OSError: a]0;" in ran.stderr
    assert is_clean(ran.stderr)


def test_records_with_arguments_keep_them():
    from clvq_hf.rendering.terminal import _CleanRecord

    assert _CleanRecord("n", logging.INFO, "f", 1, "%s of %d", ("a\x1b", 2), None).getMessage() == "a of 2"


def test_nothing_prints_past_it():
    """`print`, `typer.echo` and consoles of rich are used in one file; there are exceptions without data."""
    allowed = {("cli/info.py", "print"), ("cli/__init__.py", "typer.echo")}
    found = set()
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and name != "rendering/terminal.py":
                called = ast.unparse(node.func)
                if called in ("print", "typer.echo", "typer.secho", "Console", "sys.stdout.write", "sys.stderr.write"):
                    found.add((name, called))
    assert found == allowed
