"""What is printed to a terminal: data cannot move its cursor, colour it, set its title or fill its clipboard."""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

# Control characters but tab and newline, and those that reverse the direction of what follows.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text without control characters; of an escape sequence the rest remains, which does nothing."""
    return _UNPRINTABLE.sub("", text)


def say(text: str, **style: Any) -> None:
    """Print a line that may contain data; `style` is that of `typer.secho`."""
    typer.secho(printable(text), **style)


def open_console(**options: Any) -> Console:
    """A console of rich that prints no control characters of data, wherever they are: in tables and markup, too."""
    console = Console(**options)
    console.push_render_hook(_Clean())
    return console


class _Clean(RenderHook):
    """Renders what is printed, and cleans the text of the result; colours are no part of the text yet."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Cleaned(renderable) for renderable in renderables]


class _Cleaned:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return _clean(console.render(self._renderable, options))


def _clean(segments: Iterable[Segment]) -> Iterable[Segment]:
    for segment in segments:
        # Control segments are rich's own: bars move the cursor.
        yield segment if segment.control else Segment(printable(segment.text), segment.style)


def clean_libraries() -> None:
    """Keep control characters out of tracebacks, and of what any library logs: words of configs and of servers."""
    sys.excepthook = _print_traceback
    threading.excepthook = _print_traceback_of_thread
    logging.setLogRecordFactory(_CleanRecord)


class _CleanRecord(logging.LogRecord):
    def getMessage(self) -> str:
        if self.exc_info and self.exc_info[0] and not self.exc_text:  # which a formatter would write as it is
            self.exc_text = printable("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))
        return printable(super().getMessage())


def _print_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, where))))


def _print_traceback_of_thread(details: threading.ExceptHookArgs) -> None:
    if details.exc_value is not None and not issubclass(details.exc_type, SystemExit):
        _print_traceback(details.exc_type, details.exc_value, details.exc_traceback)


__all__ = ["clean_libraries", "open_console", "printable", "say"]
