"""`clvq-hf` in this process: what it prints, and how it fails."""

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from clvq_hf.cli import app


def invoke(*arguments: Any, **options: Any) -> Result:
    """Run a command on a wide terminal."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}, **options)


def succeed(*arguments: Any) -> str:
    """The output of a command that must succeed, in one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return " ".join(result.output.split())


def refuse(*arguments: Any) -> str:
    """The output of a command that must fail with a readable error, in one line."""
    result = invoke(*arguments)
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return " ".join(result.output.split())
