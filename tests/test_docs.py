"""The documentation is true: its Python runs, its links lead somewhere, the commands that it names exist."""

import doctest
import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer.main
from accelerate.state import AcceleratorState

import clvq_hf
from clvq_hf.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PACKAGE = ROOT / "clvq_hf"
# Modules with examples; `__init__` stands for its package.
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in file.read_text(encoding="utf-8")
]

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>.*)$")
NOTEST = re.compile(r"<!--\s*notest:.+-->")
LINK = re.compile(r"\[(?:[^\]`]|`[^`]*`)*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass
class Block:
    """A fenced block of a page."""

    info: str
    code: str
    line: int  # of its first line of code, from 1
    skipped: bool


def blocks_of(page: Path) -> list[Block]:
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    before, row = "", 0
    while row < len(lines):
        opening = FENCE.match(lines[row])
        if opening is None:
            before = lines[row] if lines[row].strip() else before
            row += 1
            continue
        first = row + 1
        row = first
        while lines[row].strip() != opening["ticks"]:
            row += 1
        indent = len(opening["indent"])
        code = "\n".join(line[indent:] for line in lines[first:row])
        info = opening["info"].strip()
        blocks.append(Block(info, code, first + 1, "notest" in info or bool(NOTEST.search(before))))
        before, row = "", row + 1
    return blocks


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^ *(`{3,}).*?^ *\1 *$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    """What the page tells readers to type: lines of its shell blocks and spans of code."""
    shell = [block.code for block in blocks_of(page) if block.info in ("bash", "sh", "shell", "console")]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [line.split("#")[0] for line in lines] + CODE_SPAN.findall(prose_of(page))


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.info.split(" ")[0] == "python" and not block.skipped]


@pytest.fixture
def clean_process(hub, tmp_path, monkeypatch) -> Iterator[None]:
    """An empty folder and Hub, and no trace left of Accelerate's state, environment variables or seeds."""
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    with torch.random.fork_rng(devices=[]):
        yield
    os.environ.clear()
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_python_blocks_run_in_order(page, clean_process):
    namespace = {"__name__": "__main__"}
    for block in runnable(page):
        # Empty lines before it give tracebacks the line numbers of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        exec(code, namespace)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, clean_process):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        destination = (page.parent / file).resolve() if file else page
        assert destination.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor and destination.suffix == ".md":
            assert anchor in anchors_of(destination), f"{page.name} links to {target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for command in commands_of(page):
        if found := re.match(r"\s*make ([\w-]+)", command):
            assert found[1] in targets, f"{page.name} names 'make {found[1]}'; there are {sorted(targets)}"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_commands_and_their_options_exist(page):
    command_line = typer.main.get_command(app)
    commands = getattr(command_line, "commands", {})
    for command in commands_of(page):
        words = command.split()
        if words[:1] != ["clvq-hf"] or len(words) == 1:
            continue
        known = command_line
        if not words[1].startswith("-") and words[1].isidentifier():
            assert words[1] in commands, f"{page.name} names 'clvq-hf {words[1]}'; there are {sorted(commands)}"
            known = commands[words[1]]
            # Of a group, the command that follows.
            if (group := getattr(known, "commands", {})) and len(words) > 2:
                assert words[2] in group, f"{page.name} names {command!r}; there are {sorted(group)}"
                known = group[words[2]]
        # A group's own commands, as in `clvq-hf study build`.
        if (below := getattr(known, "commands", None)) and known is not command_line and words[2:]:
            assert words[2] in below, f"{page.name} names '{' '.join(words[:3])}'; there are {sorted(below)}"
            known = below[words[2]]
        options = {
            "--help",
            *(option for parameter in known.params for option in (*parameter.opts, *parameter.secondary_opts)),
        }
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options
        assert not unknown, f"{page.name}: {command!r} has no {unknown}"


def scripts_called() -> dict[str, set[str]]:
    """Scripts that the pages run, with the options that they give them."""
    called: dict[str, set[str]] = {}
    for page in PAGES:
        for command in commands_of(page):
            if found := re.search(r"(scripts/\w+\.py(?: [a-z]+\b)?)(.*)", command):
                called.setdefault(found[1], set()).update(re.findall(r"--[\w-]+", found[2]))
    return called


def test_scripts_exist():
    missing = [script for script in scripts_called() if not (ROOT / script.split()[0]).is_file()]
    assert not missing


@pytest.mark.parametrize("script", [script for script, options in scripts_called().items() if options])
def test_options_of_scripts_exist(script, clean_process, monkeypatch, capsys):
    file = ROOT / script.split()[0]
    monkeypatch.setattr(sys, "argv", [*script.split(), "--help"])
    monkeypatch.syspath_prepend(file.parent)  # as when it is run
    with pytest.raises(SystemExit):
        runpy.run_path(str(file), run_name="__main__")
    unknown = scripts_called()[script] - set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert not unknown


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: ([\w.]+)", pages, flags=re.MULTILINE))
    for name in set(clvq_hf.__all__) - {"__version__"}:
        found = getattr(clvq_hf, name)
        module = getattr(found, "__module__", None) or found.__name__  # a module has only a name
        room = ".".join(module.split(".")[:2])
        assert {f"clvq_hf.{name}", f"{room}.{name}", module} & shown, f"docs/api/ does not show {name}"


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        "docs/mkdocs.yml",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_tests_that_the_security_page_names_exist():
    for name in re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8")):
        file, _, function = name.partition("::")
        assert re.search(rf"def {function}\(", (ROOT / file).read_text(encoding="utf-8")), f"there is no {name}"
