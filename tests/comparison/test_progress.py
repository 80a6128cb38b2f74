import io
import re

import pytest
from rich.console import Console

from clvq_hf.comparison import progress
from clvq_hf.comparison.progress import ProgressView


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def output():
    return io.StringIO()


def view(output, kinds, num_done=0, processes=1):
    return ProgressView(kinds, num_done, processes, Console(file=output, width=80))


def test_what_is_left_is_told_by_kind(clock, output):
    shown = view(output, {"a": "fast", "b": "fast", "c": "slow", "d": "slow"})
    assert shown.estimate() is None
    for name, seconds in (("a", 10.0), ("c", 100.0)):
        shown.begin(name)
        clock.now += seconds
        shown.end(name)
    assert shown.estimate() == 110.0
    shown.begin("d")
    clock.now += 30
    assert shown.estimate() == 80.0
    clock.now += 300  # slower than expected: it may end at any time
    assert shown.estimate() == 10.0


def test_kinds_that_are_not_known_yet_take_as_long_as_others(clock, output):
    shown = view(output, {"a": "fast", "b": "new"})
    shown.begin("a")
    clock.now += 10
    shown.end("a")
    assert shown.estimate() == 10.0


def test_processes_share_what_is_left(clock, output):
    shown = view(output, dict.fromkeys("abcde", "fast"), processes=2)
    shown.begin("a")
    clock.now += 10
    shown.end("a")
    assert shown.estimate() == 20.0


def test_without_a_terminal_each_task_is_a_line(clock, output):
    with view(output, {"a": "fast", "b": "fast"}, num_done=3) as shown:
        for name, note in (("a", ""), ("b", "no [bold]memory[/]")):
            shown.begin(name)
            clock.now += 120
            shown.end(name, note)
    lines = output.getvalue().splitlines()
    assert lines == ["4/5 a: 120 s; 1 left, about 2 min", "5/5 b: no [bold]memory[/]; 0 left, about 0 s"]


def test_on_a_terminal_there_is_a_bar_that_tells_what_runs(clock):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=150)
    with ProgressView({"a": "fast", "b": "fast"}, 0, 1, console) as shown:
        shown.begin("a")
        clock.now += 5
        shown.end("a")
        shown.begin("b")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    assert "1/2" in text and "running: b" in text and "a: 5 s" not in text
