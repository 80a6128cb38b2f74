"""What features need is what setup.cfg installs, the documentation says so, and a missing package is named at once."""

import configparser
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clvq_hf.extras import PACKAGES, require

ROOT = Path(__file__).parent.parent
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")


def declared(extra: str) -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return [Requirement(line) for line in config["options.extras_require"][extra].splitlines() if line.strip()]


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """Packages and commands of each extra, by the table of the quickstart."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", QUICKSTART, re.MULTILINE)
    return {extra: (set(names.split(", ")), set(re.findall(r"clvq-hf (\w+)", use))) for extra, names, use in rows}


@pytest.mark.parametrize("extra", PACKAGES)
def test_packages_are_those_of_setup_cfg_and_of_the_documentation(extra):
    distributions = importlib.metadata.packages_distributions()
    names = {canonicalize_name(name) for module in PACKAGES[extra] for name in distributions[module]}
    assert names == {canonicalize_name(requirement.name) for requirement in declared(extra)}
    assert documented()[extra][0] == {requirement.name for requirement in declared(extra)}


def test_all_is_all():
    [everything] = declared("all")
    assert (everything.name, everything.extras) == ("clvq-hf", set(PACKAGES))
    assert set(documented()) == {*PACKAGES, "all"}


def test_one_message_names_everything_that_is_missing(monkeypatch):
    require("The demo", "evaluation", "report")
    for name in ("captum", "concept_erasure", "wordcloud"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError) as raised:
        require("The demo", "evaluation", "report", "judging")
    message = 'The demo needs captum, concept-erasure and wordcloud: pip install "clvq-hf[evaluation,report]".'
    assert str(raised.value) == message
    require("Figures", "evaluation", packages=["scipy"])


# Arguments with which each command would start, if its packages were there.
COMMANDS = {
    "evaluate": ("model", "--dataset", "texts.csv", "--output-dir", "out"),
    "compare": ("grid.yaml", "-o", "out"),
    "report": ("model", "--table", "table"),
    "app": ("model",),
    "demo": (),
}


@pytest.mark.slow
def test_commands_name_their_extras_before_they_do_anything(tmp_path):
    # One process for all: without any package that setup.cfg has only in extras.
    code = f"""
import sys
for name in {sorted({name for names in PACKAGES.values() for name in names} - {"scipy", "yaml"})}:
    sys.modules[name] = None
from typer.testing import CliRunner
from clvq_hf.cli import app
for name, arguments in {COMMANDS}.items():
    print(name, "|", " ".join(CliRunner().invoke(app, [name, *arguments]).output.split()))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    said = dict(line.split(" | ") for line in result.stdout.splitlines())
    assert set(said) == set(COMMANDS), result.stderr
    for command, message in said.items():
        extras = set(re.search(r'pip install "clvq-hf\[([a-z,]+)\]"', message)[1].split(","))
        assert extras == {extra for extra, (_, commands) in documented().items() if command in commands}, command
