"""What a comparison is doing: what runs, what is left, how long it may take."""

import time
from collections import defaultdict

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressView:
    """A bar on terminals, a line for each finished task elsewhere.

    Args:
        kinds (`dict[str, str]`): Every task that is left and its kind; tasks of one kind take about as long.
        num_done (`int`): Tasks that an earlier run has finished.
        processes (`int`): How many tasks run at once.
        console (`rich.console.Console`): Where to print.
    """

    def __init__(self, kinds: dict[str, str], num_done: int, processes: int, console: Console) -> None:
        self._left = dict(kinds)
        self._processes = processes
        self._console = console
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._started: dict[str, float] = {}
        self._total, self._done = len(kinds) + num_done, num_done
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("Comparing", total=self._total, completed=num_done, state="")

    def __enter__(self) -> "ProgressView":
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """A task has started."""
        self._started[name] = time.monotonic()
        self._show()

    def put_aside(self, name: str) -> None:
        """A task has stopped, and will begin again later."""
        self._started.pop(name)
        self._show()

    def end(self, name: str, note: str = "") -> None:
        """A task has ended; `note` says how if not well."""
        seconds = time.monotonic() - self._started.pop(name)
        kind = self._left.pop(name)
        if not note:
            self._seconds[kind].append(seconds)
        self._done += 1
        self._bar.update(self._task, completed=self._done)
        self._show()
        if note or not self._console.is_terminal:
            text = f"{self._done}/{self._total} {name}: {note or f'{seconds:.0f} s'}; {self._remaining()}"
            self._bar.console.print(escape(text), style="red" if note else None, soft_wrap=True, highlight=False)

    def estimate(self) -> float | None:
        """Seconds that are left, `None` as long as nothing has been finished."""
        known = {kind: sum(times) / len(times) for kind, times in self._seconds.items()}
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        now = time.monotonic()
        expected = 0.0
        for name, kind in self._left.items():
            spent = now - self._started[name] if name in self._started else 0.0
            expected += max(known.get(kind, usual) - spent, 0.0)
        return expected / min(self._processes, max(len(self._left), 1))

    def _remaining(self) -> str:
        seconds = self.estimate()
        if seconds is None:
            return f"{len(self._left)} left"
        about = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
        return f"{len(self._left)} left, about {about}"

    def _show(self) -> None:
        running = ", ".join(self._started) or "–"
        self._bar.update(self._task, state=escape(f"{self._remaining()}; running: {running}"))
