"""Commands that are killed, cut off in a write, interrupted, or that find a full disk: run again, they give the same.

`CLVQ_FAULT_SEED` chooses other moments, `CLVQ_FAULT_POINTS` multiplies their number (`make soak`).
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from helpers.loopback_hub import LoopbackHub
from helpers.stub_judge import StubJudge, good_judge
from helpers.tiny_grid import GRID, make_reviews
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("resource")  # which Windows lacks
from helpers.faults import CUT, KILLED, ROOT, TIMED, CommandServer, Ended, Fault

SEED = int(os.environ.get("CLVQ_FAULT_SEED", "0"))
PAGE = os.sysconf("SC_PAGE_SIZE")
MORE = int(os.environ.get("CLVQ_FAULT_POINTS", "1"))

pytestmark = pytest.mark.slow

SMALL = ("--codebook-size", 6, "--max-length", 12, "--epochs", 2, "--set", "intermediate_size=32")
QUICK = ("--protocol", "code", "--attribution", "gradient_x_input", "--draws", 1, "--max-texts", 10)
# What differs between two undisturbed runs: checksums (datasets give random fingerprints), how long something took, and
# what transformers averages over the steps since resuming.
TIMES = re.compile(r"files|checksum|seconds|.*_runtime|.*_per_second|train_loss|requests")


@dataclass(frozen=True)
class Job:
    """What is killed.

    Attributes:
        arguments (`tuple`): Of the command, in a copy of the prepared folder.
        result (`str`): What it makes there.
        needs (`tuple[str, ...]`): Jobs whose results it reads.
        kills (`int`): At so many of its changes of files.
        cuts (`int`): In the middle of so many writes.
        times (`int`): After so many random shares of its time.
        interrupts (`int`): By Ctrl-C at so many of its changes of files.
        full (`int`): So many times by a disk that is full.
        always (`tuple[str, ...]`): Of which of these one is tried by `make test`, besides a kill.
    """

    arguments: tuple[Any, ...]
    result: str
    needs: tuple[str, ...] = ()
    kills: int = 0
    cuts: int = 0
    times: int = 0
    interrupts: int = 0
    full: int = 0
    always: tuple[str, ...] = ()


TRAIN = ("train", "host", "--dataset", "texts.jsonl", "-o", "out", *SMALL, "--resume")
BUILD = ("concepts", "build", "out", "-o", "table", "--show", 0)
EXPLAIN = ("explain", "out", "texts.jsonl", "-o", "why.jsonl")
AUDIT = ("audit", "out", "--dataset", "texts.jsonl", "--split", "train", "-o", "audit")
EDIT = ("edit", "out", "--forbid", 0, "--retest", "texts.jsonl", "-o", "edited")
JUDGE = ("judge", "a=results/concept_table", "--judge", "{judge}", "--texts", 4, "-o", "judged", "--yes")
KINDS = ("kills", "cuts", "times", "interrupts", "full")
JOBS = {
    "train": Job(TRAIN, "out", kills=6, cuts=3, times=2, interrupts=2, full=2, always=("cuts", "interrupts", "full")),
    "table": Job(BUILD, "table", ("train",), kills=4, cuts=2, times=1, interrupts=1, full=1),
    "table over another": Job(
        (*BUILD, "--max-texts", 5), "table", ("table",), kills=4, cuts=2, full=1, always=("cuts",)
    ),
    "evaluate": Job(
        ("evaluate", "out", "-o", "results", *QUICK),
        "results",
        ("train",),
        kills=8,
        cuts=3,
        times=2,
        interrupts=2,
        full=2,
        always=("cuts", "interrupts"),
    ),
    "report": Job(
        ("report", "results"), "report.html", ("evaluate",), kills=2, cuts=1, interrupts=1, full=1, always=("full",)
    ),
    "explain": Job(EXPLAIN, "why.jsonl", ("train",), kills=2, cuts=1, interrupts=1, full=1),
    "audit": Job(AUDIT, "audit", ("train",), kills=4, cuts=2, times=1, interrupts=1, full=1, always=("cuts",)),
    "edit": Job(EDIT, "edited", ("train",), kills=3, cuts=1, interrupts=1, full=1),
    "judge": Job(
        JUDGE, "judged", ("evaluate",), kills=4, cuts=1, times=1, interrupts=1, full=1, always=("interrupts",)
    ),
    "pull": Job(
        ("pull", "org/concepts", "--output-dir", "pulled"),
        "pulled",
        kills=4,
        cuts=1,
        interrupts=1,
        full=1,
        always=("full",),
    ),
    "cache": Job(
        ("helpers.fault_jobs:build_cache", "host", "texts.jsonl", "cache"),
        "cache",
        kills=5,
        cuts=2,
        times=1,
        always=("cuts",),
    ),
    "compare": Job(
        ("helpers.fault_jobs:compare", "grid.yaml", "grid"), "grid", kills=5, cuts=2, times=1, always=("cuts",)
    ),
}


class Workshop:
    """Prepared folders, results of undisturbed runs, and the server that runs commands.

    All commands run in `here`, since results may tell where they were made.
    """

    def __init__(self, home: Path, base: Path, judge: str, hub: LoopbackHub) -> None:
        self.home, self.here, self._base, self._judge, self._hub = home, home / "here", base, judge, hub
        (home / "outputs").mkdir()
        self.server = CommandServer(home / "outputs")
        self._whole: dict[str, tuple[Path, Ended]] = {}

    def whole(self, name: str) -> tuple[Path, Ended]:
        """A folder in which the job ran undisturbed, and how it ended."""
        if name not in self._whole:
            self.prepare(name)
            ended = self.run(name)
            assert ended.code == 0, ended.output
            self._whole[name] = self.here.rename(self.home / name), ended
        return self._whole[name]

    def prepare(self, name: str) -> None:
        """Put what the job reads into `here`, and nothing else."""
        if name == "pull":
            files = self.whole("train")[0] / "out"
            names = ("config.json", "model.safetensors", "reference.json")
            self._hub.store("org/concepts", {each: (files / each).read_bytes() for each in names})
        needs = JOBS[name].needs
        source = self.whole(needs[0])[0] if needs else self._base
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(source, self.here, symlinks=True)

    def run(self, name: str, fault: Fault | None = None) -> Ended:
        """Run the job in `here`."""
        arguments = [self._judge if each == "{judge}" else each for each in JOBS[name].arguments]
        return self.server.run(arguments, self.here, fault)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, saved_host, all_texts, loopback_hub) -> Iterator[Workshop]:
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(saved_host, base / "host")
    rows = all_texts.select(range(90))
    lines = [
        json.dumps({"text": text, "label": ["negative", "positive"][label]})
        for text, label in zip(rows["text"][:], rows["label"][:], strict=True)
    ]
    (base / "texts.jsonl").write_text("\n".join(lines))
    make_reviews(base / "reviews")
    (base / "grid.yaml").write_text(GRID.replace("seeds: [0, 1]", "seeds: [0]").replace("$REVIEWS", "reviews"))
    with StubJudge(good_judge) as judge:
        yield Workshop(tmp_path_factory.mktemp("faults"), base, judge.url, loopback_hub)


def content(folder: Path, name: str) -> dict[str, Any]:
    """What is in the result of a job, file by file, but for times and random fingerprints."""
    result = folder / JOBS[name].result
    files = [result] if result.is_file() else sorted(file for file in result.rglob("*") if file.is_file())
    found = {}
    for file in files:
        place = file.relative_to(folder).as_posix()
        # Fingerprints and times are in these; the report of a comparison repeats what its cells say, and their times.
        if file.name in ("state.json", "dataset_info.json", ".lock", "report.md") or file.stem == "time":
            continue
        if ".cache" in file.parts:  # of the Hub's client
            continue
        if file.suffix == ".arrow":
            found[place] = load_from_disk(file.parent).to_dict()
        elif file.suffix == ".json":
            found[place] = without_times(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            # Of a judge's answers the order depends on threads, and a line may be cut.
            lines = {json.dumps(without_times(row), sort_keys=True) for row in whole_lines(file)}
            found[place] = sorted(lines)
        elif file.suffix == ".safetensors":  # whose header names its fields in any order
            tensors = {name: str(tensor.tolist()) for name, tensor in load_file(file).items()}  # NaN differs from NaN
            with safe_open(file, "pt") as opened:
                found[place] = tensors, opened.metadata()
        elif file.suffix not in (".pt", ".bin", ".pth"):
            found[place] = hashlib.sha256(file.read_bytes()).hexdigest()
        else:
            found[place] = None
    return found


def whole_lines(file: Path) -> Iterator[Any]:
    for line in file.read_text().split("\n"):
        with suppress(ValueError):
            yield json.loads(line)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if not TIMES.fullmatch(name)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def points() -> Iterator[Any]:
    """Every point; one in the middle of a run for each job and kind is not left to `make soak`."""
    for name, job in JOBS.items():
        for kind in KINDS:
            number = getattr(job, kind) * MORE
            for point in range(number):
                marks = [pytest.mark.soak] if point != number // 2 or kind not in ("kills", *job.always) else []
                yield pytest.param(name, kind, point, id=f"{name}-{kind}-{point}".replace(" ", "-"), marks=marks)


def test_the_docs_say_how_many_moments_are_tried():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [[name, *(getattr(job, kind) for kind in KINDS)] for name, job in JOBS.items()]
    rows.append(["push", 0, 0, 4, 0, 0])
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    for row in rows:
        assert f"| {' | '.join(map(str, row))} |" in page
    kills, interrupts, full = sum(rows[-1][1:4]), *rows[-1][4:]
    assert f"{kills} times by a kill, {interrupts} times by Ctrl-C, {full} times by a full disk" in page


def draw(workshop: Workshop, name: str, kind: str, point: int) -> Fault:
    """A moment of this kind, another one for every point."""
    folder, ended = workshop.whole(name)
    chance = random.Random(f"{SEED} {name} {kind} {point}")
    share = (point + chance.random()) / (getattr(JOBS[name], kind) * MORE)  # spread over the whole run
    if kind in ("kills", "interrupts"):
        number = signal.SIGINT if kind == "interrupts" else signal.SIGKILL
        return Fault(change=int(share * len(ended.changes)), signal=number)
    if kind == "times":
        return Fault(seconds=0.05 + share * 0.9 * ended.seconds)
    result = folder / JOBS[name].result
    sizes = [file.stat().st_size for file in ([result] if result.is_file() else result.rglob("*")) if file.is_file()]
    largest = max(sizes)
    return Fault(
        file_size=1 + int(chance.choice([size for size in sizes if size > 1]) * share) % (largest - 1),
        full=kind == "full",
    )


@pytest.mark.parametrize(("name", "kind", "point"), list(points()))
def test_what_was_broken_off_goes_on(workshop, name, kind, point):
    whole, _ = workshop.whole(name)
    fault = draw(workshop, name, kind, point)
    workshop.prepare(name)
    broken = workshop.run(name, fault)
    if kind in ("interrupts", "full"):
        assert broken.code > 0 and "Traceback" not in broken.output, (fault, broken)
        assert kind == "interrupts" or "Error: " in broken.output, (fault, broken)
    else:
        assert broken.code in (KILLED, CUT, TIMED), (fault, broken)
    again = workshop.run(name)
    assert again.code == 0, (fault, again.output)
    assert content(workshop.here, name) == content(whole, name), fault
    assert {file.name for file in workshop.here.iterdir()} == {file.name for file in whole.iterdir()}, "left-overs"


def used(folder: Path) -> int:
    """Bytes that a file, or the files of a folder, need in pages."""
    files = [folder] if folder.is_file() else folder.rglob("*")
    return sum(-(-file.stat().st_size // PAGE) * PAGE for file in files if file.is_file())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("train", "evaluate") else pytest.mark.soak) for name in JOBS]
)
def test_a_file_system_that_is_full(workshop, name):
    """A real one, which whatever writes notices in its own way: Python, Arrow, safetensors, tokenizers, torch."""
    whole, _ = workshop.whole(name)
    workshop.prepare(name)
    material = workshop.here.rename(workshop.home / "material")
    needed = used(whole / JOBS[name].result)
    share = random.Random(f"{SEED} {name}").uniform(0.2, 0.8)
    workshop.here.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={used(material) + int(share * needed)}", "tmpfs", workshop.here]
    try:
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("file systems are mounted by root alone")
        try:
            shutil.copytree(material, workshop.here, symlinks=True, dirs_exist_ok=True)
            broken = workshop.run(name)
            assert broken.code > 0 and re.search("No space (is )?left", broken.output), broken
            is_command = ":" not in JOBS[name].arguments[0]  # else a function, which raises
            assert not (is_command and "Traceback" in broken.output), broken
            subprocess.run(["mount", "-o", "remount,size=1g", workshop.here], check=True)
            again = workshop.run(name)
            assert again.code == 0, again.output
            assert content(workshop.here, name) == content(whole, name)
            assert {file.name for file in workshop.here.iterdir()} == {file.name for file in whole.iterdir()}
        finally:
            subprocess.run(["umount", workshop.here], check=True)
    finally:
        shutil.rmtree(material)


@pytest.mark.parametrize("point", [0, *(pytest.param(point, marks=pytest.mark.soak) for point in range(1, 4 * MORE))])
def test_a_push_that_was_killed_goes_on(workshop, hub, point):
    """By its CPU time: it changes nothing here."""
    workshop.prepare("table")
    arguments = ["push", "out", "org/pushed", "--license", "mit"]
    ended = workshop.server.run(arguments, workshop.here)
    assert ended.code == 0, ended.output
    whole = hub.files("org/pushed")
    hub.reset()
    share = (point + random.Random(f"{SEED} push {point}").random()) / (4 * MORE)
    fault = Fault(seconds=0.05 + 0.9 * share * ended.seconds)
    assert workshop.server.run(arguments, workshop.here, fault).code == TIMED
    again = workshop.server.run(arguments, workshop.here)
    assert again.code == 0, (fault, again.output)
    assert hub.files("org/pushed") == whole
