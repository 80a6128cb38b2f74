"""Metrics as Spaces: `evaluate.load` from the Hub gives what it gives from the package's folder."""

import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers.loopback_hub import run_client

from clvq_hf import metrics

ROOT = Path(__file__).parent.parent
SECTIONS = (
    "Metric Description",
    "How to Use",
    "Inputs",
    "Output Values",
    "Examples",
    "Limitations and Bias",
    "Citation",
)
CLASSES = {getattr(metrics, name).__module__.rpartition(".")[2]: name for name in metrics.__all__ if name[0].isupper()}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("push_metrics", ROOT / "scripts" / "push_metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def push(script, hub, monkeypatch):
    """Runs the script with arguments, in this process."""

    def push(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["push_metrics.py", *arguments])
        script.main()

    return push


@pytest.mark.parametrize("name", metrics.names)
def test_the_card_is_that_of_a_space(script, name):
    files = script.metric_files("org", name)
    _, front_matter, card = files["README.md"].decode().split("---\n", 2)
    front_matter = yaml.safe_load(front_matter)
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk_version", "description"} <= set(front_matter)
    assert front_matter["sdk"] == "gradio" and front_matter["pinned"] is False
    assert front_matter["tags"] == ["evaluate", "metric"]
    assert front_matter["app_file"] in files
    headings = re.findall(r"^#+ (.*)$", card, re.MULTILINE)
    assert headings[0].startswith("Metric Card for")
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    numerics = importlib.import_module(f"clvq_hf.metrics.{name}.numerics")
    features = getattr(metrics, CLASSES[name])(keep_in_memory=True).features
    inputs = card[card.index("### Inputs") : card.index("### Output Values")]
    for parameter in {*inspect.signature(getattr(numerics, name)).parameters} - {"table"} | {*features} | {"details"}:
        assert re.search(rf"^ *- .*\*\*{parameter}\*\*", inputs, re.MULTILINE), parameter
    outputs = card[card.index("### Output Values") : card.index("### Examples")]
    assert len(re.findall(r"^- \*\*\w+\*\*", outputs, re.MULTILINE)) > 5
    assert f'evaluate.load("org/{name}")' in card
    assert re.search(r"^```python\n>>> (.*\n)+```\n", card, re.MULTILINE)
    compile(files["app.py"], "app.py", "exec")
    assert f'with_name("{name}.py")' in files["app.py"].decode()


def test_requirements_are_what_the_modules_import(script):
    lines = {name: script.metric_files("org", name)["requirements.txt"].decode().split() for name in metrics.names}
    assert lines["codebook_similarity"] == ["datasets>=4.0", "evaluate>=0.4.6", "numpy>=1.26"]
    assert "scikit-learn>=1.5" in lines["stability"] and "scikit-learn>=1.5" not in lines["label_purity"]


@pytest.mark.slow
def test_all_of_them(push, hub, tmp_path, capsys):
    hub.fail_next(1, path_contains="/commit/", status=500)
    push("org")
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"org/{name}" for name in metrics.names
    ]
    files = hub.files("org/label_purity", "space")
    assert {"README.md", "app.py", "requirements.txt", "label_purity.py", "numerics.py", "token_table.py"} < set(files)
    assert "__init__.py" not in files
    assert hub.repos["space", "org/label_purity"].sdk == "gradio"
    columns = {
        "texts": [f"text {number}" for number in range(24)],
        "codes": [[1 + number % 2, 3] for number in range(24)],
        "tokens": [["a", "text"] for _ in range(24)],
        "labels": [number % 2 for number in range(24)],
    }
    code = f"""
        import json, evaluate
        columns = json.loads({json.dumps(columns)!r})
        metric = evaluate.load("org/label_purity")
        print(json.dumps(metric.compute(**columns, min_count=3)))
        print(json.dumps(evaluate.load("org/codebook_usage").compute(codes=columns["codes"], codebook_size=5)))
    """
    purity, usage = map(json.loads, run_client(hub, code, tmp_path, token=False).splitlines())
    local = {name: getattr(metrics, name)(keep_in_memory=True) for name in ("LabelPurity", "CodebookUsage")}
    assert purity == local["LabelPurity"].compute(**columns, min_count=3)
    assert usage == local["CodebookUsage"].compute(codes=columns["codes"], codebook_size=5)


def test_some_of_them_and_mistakes(push, hub, capsys):
    push("org", "--names", "codebook_usage", "--private")
    assert set(hub.repos) == {("space", "org/codebook_usage")} and hub.repos["space", "org/codebook_usage"].private
    with pytest.raises(SystemExit):
        push("org", "--names", "purity")
    assert "invalid choice: 'purity'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="others/codebook_usage"):
        push("others", "--names", "codebook_usage")
