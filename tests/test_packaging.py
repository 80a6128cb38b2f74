"""What setup.cfg declares is what is installed, and what the minimum versions are tested with."""

import ast
import configparser
import importlib.metadata
import re
import sys
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
