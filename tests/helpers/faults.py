"""Commands that die: killed at the n-th change of a file, in the middle of a write, or at some moment of their time.

A server that has imported everything is forked for each command, so that a kill costs what the command costs.
"""

import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
# A limit on the size of files ends a process by this signal, a timer of CPU time by that one.
CUT, TIMED = -signal.SIGXFSZ, -signal.SIGPROF

# Audit events of Python that change a file or a folder; the first argument is a path.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}


@dataclass(frozen=True)
class Fault:
    """What befalls a process; nothing, unless something is set.

    Attributes:
        change (`int`, *optional*): Number of the change in the command's folder before which it happens, from 0.
        signal (`int`): What the process gets then.
        file_size (`int`, *optional*): Bytes after which a write to a file ends the process in its middle.
        full (`bool`): Whether such a write fails instead, as on a full disk.
        seconds (`float`, *optional*): CPU time after which it is killed.
    """

    change: int | None = None
    signal: int = signal.SIGKILL
    file_size: int | None = None
    full: bool = False
    seconds: float | None = None


class CommandServer:
    """Forks commands of `clvq-hf` from a process that has imported them.

    Args:
        home (`Path`): Where outputs and counts of commands go.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["helpers.faults_preloaded"])
        self._number = 0

    def run(self, arguments: list[Any], folder: Path, fault: Fault | None = None) -> "Ended":
        """Run a command, or a function `module:name` with its arguments, in `folder`."""
        self._number += 1
        counts = self.home / f"{self._number}.json"
        # A pipe, since a limit on the size of files would cut what the command prints.
        reader, writer = self._context.Pipe(duplex=False)
        command = [str(each) for each in arguments]
        process = self._context.Process(
            target=_run, args=(command, str(folder), fault or Fault(), writer, str(counts))
        )
        process.start()
        writer.close()
        with open(reader.fileno(), "rb", closefd=False) as stream:
            output = stream.read().decode(errors="replace")  # to its end, which is that of the process
        process.join(300)
        assert process.exitcode is not None, f"{arguments} does not end."
        found = json.loads(counts.read_text()) if counts.exists() else {}
        return Ended(process.exitcode, output, **found)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code (`int`): Exit code; negative if a signal ended it.
        output (`str`): What it printed.
        changes (`list[str]`): Its changes of files, if it ended by itself.
        seconds (`float`): CPU time, if it ended by itself.
        memory (`int`): Peak of its resident memory in bytes, if it ended by itself.
    """

    code: int
    output: str
    changes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0


def _run(arguments: list[str], folder: str, fault: Fault, output: Connection, counts: str) -> None:
    """In the forked process: point the streams at a pipe, set up the fault, run the command."""
    os.chdir(folder)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    changes: list[str] = []
    watched = Path(folder).resolve()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = details
            if not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = details[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        path = Path(os.fsdecode(path)).absolute()
        if not path.is_relative_to(watched):
            return
        changes.append(f"{event} {path}")
        if fault.change == len(changes) - 1:
            os.kill(os.getpid(), fault.signal)

    sys.addaudithook(watch)
    if fault.file_size is not None:
        if not fault.full:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_size, fault.file_size))
    if fault.seconds is not None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, fault.seconds)
    started, code = time.process_time(), 0
    try:
        if ":" in arguments[0]:
            module, _, name = arguments[0].partition(":")
            getattr(importlib.import_module(module), name)(*arguments[1:])
        else:
            from clvq_hf.cli import app

            app(arguments, prog_name="clvq-hf")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    seconds = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if fault.file_size is None:
        found = {"changes": changes, "seconds": seconds, "memory": memory}
        Path(counts).write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(code)
