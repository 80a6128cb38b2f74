"""Running a grid: which tasks are left, in how many processes, and what becomes of those that fail."""

import logging
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console

from ..data.labels import host_labels, label_names
from ..files import locked, remove_folder, write_whole
from ..models.registry import import_methods
from ..rendering.terminal import clean_libraries, open_console
from .cell import cell_folder, lacks_stability, open_cell, run_cell
from .grid import Cell, Grid
from .prepared_hosts import host_folder, open_host, prepare_host
from .progress import ProgressView
from .sources import Sources

HostKey = tuple[str, str, str]
Task = Cell | HostKey
# The reason in one line, and the whole story.
Failure = tuple[str, str]
_DIED = ("its process died; was there too little memory?", "")


def run_grid(
    grid: Grid,
    output_dir: str | Path,
    *,
    processes: int = 1,
    wait_for_lock: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, str]:
    """Run every cell of a grid that is not finished yet.

    A host is made ready once for each dataset; then its cells run. Each writes into a folder of its own, which is moved
    to its place when it is complete: a run may be killed at any time and started again. Cells share nothing that
    changes.
    In a script, call it under `if __name__ == "__main__":`, for processes are spawned.

    Args:
        grid ([`Grid`][clvq_hf.comparison.Grid]): What to compare.
        output_dir (`str` or `Path`): Holds `hosts/`, `cells/` and `failures/`.
        processes (`int`): How many cells run at once; cores are shared out among them.
        wait_for_lock (`bool`): Whether to wait if another run is at work there.
        overwrite (`bool`): Whether hosts and cells that are there, but of other settings, hosts, models or texts than
            the grid names now, are made anew.
        console (`rich.console.Console`, *optional*): Where progress goes.

    Returns:
        `dict[str, str]`: Names of the tasks that failed, and why in one line; the whole story is in `failures/`. The
        others are done.

    Raises:
        ValueError: If another run is at work in the folder, a dataset cannot be loaded, or the folder holds hosts or
            cells of other settings, hosts, models or texts (compared by content).
    """
    output_dir = Path(output_dir)
    console = open_console() if console is None else console
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    for name, spec in grid.datasets.items():
        for split in {spec.train_split, spec.eval_split}:
            try:
                texts = spec.load(split)
                host_labels(texts, None, complete=True)
                if split == spec.train_split:
                    label_names(texts)
            except Exception as error:
                raise ValueError(f"The split {split} of the dataset {name} cannot be used: {error}") from error
    with locked(output_dir, wait=wait_for_lock, remedy="or wait for it (--wait)"):
        run = _Run(grid, output_dir, processes, console, overwrite)
        for folder in ("hosts", "cells"):
            for left_over in (output_dir / folder).glob(".*.partial"):
                shutil.rmtree(left_over)
        for file in (output_dir / "failures").glob("*.txt"):
            file.unlink()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // processes)))
        with _environment(TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS=threads):
            return run()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """What processes that are started meanwhile find in their environment: libraries read it when they are imported."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Run:
    def __init__(self, grid: Grid, output_dir: Path, processes: int, console: Console, overwrite: bool) -> None:
        self.grid, self.output_dir, self.processes = grid, output_dir, processes
        # Opened one by one, so that a folder of another grid is refused before time is spent; hosts first, because
        # cells are compared with them.
        cells, sources = grid.cells(), Sources(grid)

        def is_there(what: Callable[[], object], folder: Path) -> bool:
            try:
                return what() is not None
            except ValueError:
                if not overwrite:
                    raise
                remove_folder(folder)
                return False

        def whole(cell: Cell) -> dict[str, object] | None:
            result = open_cell(grid, cell, output_dir, sources)
            return None if result is None or lacks_stability(grid, cell, result) else result

        keys = dict.fromkeys(self._host_of(cell) for cell in cells)
        missing = [
            key
            for key in keys
            if not is_there(lambda key=key: open_host(grid, *key, output_dir, sources), host_folder(output_dir, *key))
        ]
        self.cells = [
            cell for cell in cells if not is_there(lambda cell=cell: whole(cell), cell_folder(output_dir, cell))
        ]
        needed = {self._host_of(cell) for cell in self.cells}
        self.hosts = [key for key in missing if key in needed]
        self.unprepared = set(self.hosts)
        self.failures: dict[str, str] = {}
        # Tasks whose process died beside others: they are tried once more alone, with all the memory that there is.
        self.put_aside: list[Task] = []
        self.tried_again: list[Task] = []
        kinds = {_name(key): "host" for key in self.hosts} | {cell.name: cell.method for cell in self.cells}
        self.view = ProgressView(kinds, len(cells) - len(self.cells), processes, console)

    def __call__(self) -> dict[str, str]:
        context = get_context("spawn")  # not forks, which would inherit threads that they cannot have
        # Workers end when it is closed: with this run, or with this process, however that ends.
        lifeline, end = context.Pipe(duplex=False)
        setup = (int(os.environ["OMP_NUM_THREADS"]), lifeline)

        def start_worker() -> ProcessPoolExecutor:
            return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=setup)

        others = active_children()
        # A pool per worker, not one of several: a process that dies breaks its whole pool.
        idle = [start_worker() for _ in range(self.processes)]
        running: dict[Future, tuple[Task, ProcessPoolExecutor]] = {}
        try:
            with self.view:
                while True:
                    while idle and (task := self._next([task for task, _ in running.values()])) is not None:
                        worker = idle.pop()
                        try:
                            future = worker.submit(_work, self.grid, task, self.output_dir)
                        except BrokenProcessPool:  # it died while it had nothing to do
                            worker = start_worker()
                            future = worker.submit(_work, self.grid, task, self.output_dir)
                        self.view.begin(_name(task))
                        running[future] = task, worker
                    if not running:
                        return self.failures
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        task, worker = running.pop(future)
                        has_died = isinstance(future.exception(), BrokenProcessPool)
                        if has_died and running and task not in self.tried_again:
                            self.put_aside.append(task)
                            self.view.put_aside(_name(task))
                        else:
                            self._finish(task, _DIED if has_died else future.result())
                        idle.append(start_worker() if has_died else worker)
        finally:
            # Also when the user interrupts it: cells that are half done are worth nothing.
            end.close()
            lifeline.close()
            for worker in [*idle, *(worker for _, worker in running.values())]:
                worker.shutdown(wait=False, cancel_futures=True)
            # A worker in a call that keeps the interpreter's lock does not notice the end of the pipe.
            for process in set(active_children()) - set(others):
                process.terminate()

    def _host_of(self, cell: Cell) -> HostKey:
        return cell.host, cell.dataset, self.grid.methods[cell.method].host

    def _next(self, running: list[Task]) -> Task | None:
        """The next task that can start: a cell whose host and first seed are done, a host, or one to try again."""
        if self.tried_again and self.tried_again[-1] in running:
            return None
        waiting = {cell.name for cell in [*self.cells, *running, *self.put_aside] if isinstance(cell, Cell)}
        for cell in self.cells:
            first = Cell(cell.host, cell.dataset, cell.method, self.grid.seeds[0])
            if self._host_of(cell) not in self.unprepared and (first == cell or first.name not in waiting):
                self.cells.remove(cell)
                return cell
        if self.hosts:
            return self.hosts.pop(0)
        if running or not self.put_aside:
            return None
        self.tried_again.append(self.put_aside.pop(0))
        return self.tried_again[-1]

    def _finish(self, task: Task, failure: Failure | None) -> None:
        """Note how a task ended: a host that failed takes its cells along."""
        if failure is None:
            if not isinstance(task, Cell):
                self.unprepared.discard(task)
            self.view.end(_name(task))
            return
        reason, story = failure
        tasks = [task]
        if not isinstance(task, Cell):
            lost = [cell for cell in self.cells if self._host_of(cell) == task]
            self.cells = [cell for cell in self.cells if cell not in lost]
            tasks += lost
        for each in tasks:
            name = _name(each)
            why = reason if each is task else f"its host failed: {reason}"
            self.failures[name] = why
            if each is not task:
                self.view.begin(name)
            self.view.end(name, why)
            try:
                (self.output_dir / "failures").mkdir(exist_ok=True)
                write_whole(self.output_dir / "failures" / f"{name}.txt", story or why + "\n")
            except OSError:  # the disk is full: the reason is on the screen
                pass


def _name(task: Task) -> str:
    return task.name if isinstance(task, Cell) else "_".join(task)


def _begin(threads: int, lifeline: Connection) -> None:
    """Set up a process: its share of the cores, no bars, and an end when the run ends."""
    import datasets
    import transformers

    clean_libraries()
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("clvq_hf").setLevel(logging.ERROR)
    datasets.disable_progress_bars()

    def watch() -> None:
        lifeline.poll(None)  # nothing is ever sent
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(grid: Grid, task: Task, output_dir: Path) -> Failure | None:
    """Run a task; reason and whole story if it failed."""
    try:
        import_methods(grid.imports, "imports")
        if isinstance(task, Cell):
            run_cell(grid, task, output_dir)
        else:
            prepare_host(grid, *task, output_dir)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc()
    return None


__all__ = ["run_grid"]
