"""What setup.cfg declares is what is installed, and what the minimum versions are tested with."""

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from clvq_hf.hosts.host import TESTED_TRANSFORMERS

ROOT = Path(__file__).parent.parent


def requirements(section: str = "options", key: str = "install_requires") -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return [Requirement(line) for line in config[section][key].splitlines() if line.strip()]


def pins(file: str) -> dict[str, Version]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in found}


EXTRAS = ("evaluation", "comparison", "report", "judging", "app")
RUNTIME = [*requirements(), *(each for extra in EXTRAS for each in requirements("options.extras_require", extra))]


@pytest.mark.parametrize("requirement", RUNTIME, ids=lambda requirement: requirement.name)
def test_the_lower_bound_is_what_is_tested(requirement):
    [bound] = requirement.specifier
    assert bound.operator == ">="
    assert pins("scripts/constraints-minimum.txt")[canonicalize_name(requirement.name)] == Version(bound.version)
    assert pins("scripts/constraints.txt")[canonicalize_name(requirement.name)] >= Version(bound.version)


def test_the_tested_release_of_transformers():
    assert Version(TESTED_TRANSFORMERS) == pins("scripts/constraints.txt")["transformers"]


@pytest.mark.slow
def test_everything_that_is_imported_is_declared():
    provided = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in RUNTIME}
    found = {}
    for file in (ROOT / "clvq_hf").rglob("*.py"):
        if file.name == "app.py":  # of the metrics' Spaces, which bring gradio
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            found |= {name.partition(".")[0]: file.name for name in names}
    foreign = set(found) - sys.stdlib_module_names - {"clvq_hf"}
    for module in foreign:
        distributions = {canonicalize_name(name) for name in provided[module]}
        assert distributions & declared, f"{found[module]} imports {module}, which setup.cfg does not name"


def test_templates_and_cards_are_in_the_package():
    data = configparser.ConfigParser()
    data.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = data["options.package_data"]["clvq_hf"].split()
    others = [file for file in (ROOT / "clvq_hf").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    for file in others:
        name = file.relative_to(ROOT / "clvq_hf")
        assert any(name.match(pattern) for pattern in patterns), f"{name} would not be installed"


def test_the_changelog_tells_of_this_version():
    from clvq_hf import __version__

    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and source distribution, built from a copy of the files that git knows."""
    folder = tmp_path_factory.mktemp("build")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    [wheel], [source] = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, source


@pytest.mark.slow
def test_the_source_distribution_is_complete(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for file in (ROOT / "clvq_hf").rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert file.relative_to(ROOT).as_posix() in names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.cfg"} <= names


@pytest.mark.soak
@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(distributions, tmp_path):
    """The demo, an explanation and a report, in an environment that has the wheel, and what it needs from ours."""
    venv.create(tmp_path / "venv", with_pip=True)
    # The checkout would be found instead of the wheel, by pip, too.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str | Path) -> str:
        command = [tmp_path / "venv" / "bin" / "python", *arguments]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", distributions[0])
    packages = Path(sysconfig.get_path("purelib", vars={"base": tmp_path / "venv"}))
    # A path in a .pth file makes packages importable, but not what an editable install adds to it.
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run("-c", "import clvq_hf; print(clvq_hf.__file__)").startswith(str(packages))
    run("-m", "clvq_hf.cli", "demo", "--quick", "--output-dir", "out")
    assert "concept" in run("-m", "clvq_hf.cli", "explain", "out", "a warm and funny film")
    run("-m", "clvq_hf.cli", "report", "out", "-o", "report.html")
    assert (tmp_path / "report.html").stat().st_size > 50_000
