"""Metrics as Spaces: `evaluate.load` from the Hub gives what it gives from the package's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.loopback_hub import run_client

from clvq_hf import metrics

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def push(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/push_metrics.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_all_of_them(hub, tmp_path):
    hub.fail_next(1, path_contains="/commit/", status=500)
    done = push("org")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"org/{name}" for name in metrics.names]
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


def test_some_of_them_and_mistakes(hub):
    done = push("org", "--names", "codebook_usage", "--private")
    assert done.returncode == 0, done.stderr
    assert set(hub.repos) == {("space", "org/codebook_usage")} and hub.repos["space", "org/codebook_usage"].private
    assert "invalid choice: 'purity'" in push("org", "--names", "purity").stderr
    done = push("others", "--names", "codebook_usage")
    assert done.returncode == 1 and "Your token may not write to others/codebook_usage" in done.stderr
    assert "Traceback" not in done.stderr
