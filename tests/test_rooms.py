"""The floors of the package: which room may import which, and that no two files import each other in a circle."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clvq_hf"

FILES = ("files", "reading", "checksums")
# Room → what a stranger is told, and the rooms that it may import. Lower floors come first; rooms of one floor do not
# import each other. Imports inside functions and under TYPE_CHECKING count as well.
FLOORS: list[dict[str, tuple[str, set[str]]]] = [
    {
        "files": ("whole files and folders, locks", set()),
        "reading": ("JSON, YAML and file names, with suspicion", set()),
        "typed": ("values of others, checked against types", set()),
        "version": ("the version", set()),
        "extras": ("what must be installed for what", set()),
        "auto_types": ("AutoModel knows our types before they are loaded", set()),
    },
    {"checksums": ("files that notice when they were changed", {"files", "reading"})},
    {
        "hosts": ("find, read, edit, resume and identify a host", {*FILES, "version"}),
        "rendering": ("Markdown, text tables, HTML pages", {*FILES, "version"}),
    },
    {
        "data": ("texts → tokens → hidden states", {*FILES, "version", "hosts"}),
        "hub": ("talking to the Hub", {*FILES, "version", "hosts", "rendering"}),
        "metrics": ("the figures, each a module of `evaluate`", {"rendering"}),
    },
    {
        "tables": (
            "which concept each token got, which token is salient, and how that is shown",
            {*FILES, "typed", "version", "extras", "hosts", "rendering", "data", "hub"},
        ),
    },
    {
        "explanations": (
            "which concepts made the host decide, text by text",
            {*FILES, "version", "extras", "hosts", "rendering", "data", "tables"},
        ),
    },
    {
        "auditing": (
            "what a host relies on, which concepts are suspect, and what becomes of it without them",
            {*FILES, "typed", "version", "extras", "hosts", "rendering", "data", "metrics", "tables", "explanations"},
        ),
    },
    {
        "models": (
            "configs and models; what is attached and removed; loading and sharing them",
            {
                *FILES,
                "typed",
                "version",
                "hosts",
                "rendering",
                "data",
                "hub",
                "metrics",
                "tables",
                "explanations",
                "auditing",
            },
        ),
    },
    {
        "training": (
            "train a concept model",
            {*FILES, "typed", "version", "hosts", "data", "hub", "tables", "models"},
        ),
        "evaluation": (
            "ablation, bottleneck; one model measured",
            {
                *FILES,
                "version",
                "extras",
                "hosts",
                "data",
                "hub",
                "metrics",
                "tables",
                "models",
            },
        ),
        "report": (
            "one HTML file",
            {*FILES, "version", "extras", "rendering", "hub", "metrics", "tables", "models", "auditing"},
        ),
        "app": (
            "a live page",
            {*FILES, "version", "extras", "hosts", "rendering", "hub", "tables", "models"},
        ),
        "judging": (
            "people and language models as judges",
            {*FILES, "version", "extras", "hosts", "rendering", "hub", "metrics", "tables"},
        ),
    },
    {
        "comparison": (
            "many methods on many hosts, from one YAML file",
            {
                *FILES,
                "typed",
                "version",
                "extras",
                "hosts",
                "rendering",
                "data",
                "hub",
                "metrics",
                "tables",
                "models",
                "training",
            }
            | {"evaluation"},
        ),
    },
    {
        "cli": (
            "the command line: one file per command",
            {
                "files",
                "version",
                "extras",
                "hosts",
                "rendering",
                "data",
                "hub",
                "metrics",
                "tables",
                "models",
                "training",
            }
            | {"evaluation", "report", "app", "judging", "comparison", "explanations", "auditing"},
        ),
    },
]
ALLOWED = {room: allowed for floor in FLOORS for room, (_, allowed) in floor.items()}
# The only file of `metrics` outside of the metrics' folders that imports another room.
RESULTS_TABLES = "metrics.results_tables"
# Metrics run where this package may not be installed.
METRIC_FOLDERS = sorted(folder.name for folder in (PACKAGE / "metrics").iterdir() if (folder / "README.md").exists())
MAX_LINES_OF_INIT = 80


def read_package(folder: Path = PACKAGE) -> dict[str, str]:
    """Source text by dotted module name below the package; `""` is the package itself."""
    sources = {}
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text(encoding="utf-8")
    return sources


@cache
def import_statements(text: str) -> list[ast.Import | ast.ImportFrom]:
    """Those of a source text, wherever they stand."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(module: str, text: str, sources: Mapping[str, str]) -> Iterator[str]:
    """Modules of the package that a module imports anywhere; also by `importlib.import_module` of a constant."""
    is_package = any(name.startswith(f"{module}.") for name in sources) or module == ""
    here = module.split(".") if module else []
    folder = here if is_package else here[:-1]
    for node in import_statements(text):
        bases = []
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
                bases = [".".join(part for part in base if part)]
            elif (node.module or "").split(".")[0] == "clvq_hf":
                bases = [node.module.partition(".")[2]]
        else:
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "clvq_hf")
        for base in bases:
            for alias in node.names:
                inner = f"{base}.{alias.name}" if base else alias.name
                yield inner if inner in sources else base


def violations(sources: Mapping[str, str]) -> list[str]:
    """What breaks the floors, in words."""
    found = []
    graph: dict[str, set[str]] = {}
    for module, text in sources.items():
        room = module.split(".")[0]
        graph[module] = {imported for imported in imports_of(module, text, sources) if imported != module}
        for imported in sorted(graph[module]):
            other = imported.split(".")[0]
            if module == "" or other == room:
                pass
            elif other == "":
                found.append(f"{module} imports the package itself")
            elif room not in ALLOWED:
                found.append(f"{module} is in no room of the plan")
            elif other not in ALLOWED[room]:
                found.append(f"{module} imports {imported}: {room} may not import {other}")
            elif room == "metrics" and module != RESULTS_TABLES:
                found.append(f"{module} imports {imported}: only {RESULTS_TABLES} may import another room")
        parts = module.split(".")
        if parts[0] == "metrics" and len(parts) > 2:
            siblings = ".".join(parts[:2])
            strangers = sorted(name for name in graph[module] if not name.startswith(siblings))
            found += [f"{module} imports {name}: a metric folder imports nothing but siblings" for name in strangers]
    try:
        # A face re-exports its files, which import each other directly: what counts is which file needs which.
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle: " + " → ".join(module or "clvq_hf" for module in error.args[1]))
    return found


def test_the_package_keeps_its_floors():
    assert violations(read_package()) == []


def test_every_room_is_on_the_plan():
    rooms = {module.split(".")[0] for module in read_package()} - {""}
    assert rooms == set(ALLOWED)
    for number, floor in enumerate(FLOORS):
        below = {room for lower in FLOORS[:number] for room in lower}
        assert all(allowed <= below for _, allowed in floor.values()), "the plan itself points upward"


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("tables.concepts", "from ..models import ConceptModel", "tables may not import models"),
        (
            "tables.concepts",
            "def f():\n    from ..models.quantizer import TopKQuantizer",
            "tables may not import models",
        ),
        (
            "data.texts",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..training import trainer",
            "data may not import training",
        ),
        ("training.sampling", "import clvq_hf.report.page", "training may not import report"),
        ("metrics.label_purity.numerics", "from ..stability import numerics", "nothing but siblings"),
        ("metrics.label_purity.numerics", "from clvq_hf.rendering import markdown", "nothing but siblings"),
        ("hosts.host", "from .hooks import capture", "a circle: "),
        ("report.page", "from ..app import Explorer", "report may not import app"),
        ("files", "import clvq_hf", "files imports the package itself"),
    ],
)
def test_a_planted_violation_is_found(module, line, complaint):
    sources = read_package()
    found = violations({**sources, module: f"{sources[module]}\n{line}\n"})
    assert any(complaint in each for each in found), found


def test_the_package_opens_quickly():
    lines = (PACKAGE / "__init__.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < MAX_LINES_OF_INIT


# Tests of a whole room: its commands, its metrics, its methods on a GPU, its page in a browser.
WHOLE_ROOM = {
    *("cli/test_main.py", "metrics/test_coverage.py", "metrics/test_metrics.py"),
    *("models/test_devices.py", "report/test_browser.py"),
}


def test_tests_mirror_the_package():
    tests = Path(__file__).parent
    for file in sorted(tests.rglob("test_*.py")):
        place = file.relative_to(tests)
        if place.parent == Path() or place.parts[0] == "helpers" or place.as_posix() in WHOLE_ROOM:
            continue
        # test_trainer_distributed.py tests trainer.py, as test_trainer.py does.
        names = {tested.stem for tested in (PACKAGE / place.parent).rglob("*.py")} | {place.parent.name}
        subject = place.stem.removeprefix("test_")
        assert any(subject == name or subject.startswith(f"{name}_") for name in names), f"{place} tests no file"
