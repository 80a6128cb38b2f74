"""Every row of the benchmark runs, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.mark.slow
def test_every_task_runs(tmp_path, minilm_dir):
    file = tmp_path / "benchmark.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--threads", "1", "--host", str(minilm_dir), "--json", str(file)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["machine"]["toy"] is True
    own = {row["task"] for row in found["rows"] if row["who"] == "ours"}
    tasks = ["quantizer", "encode", "kmeans", "training", "extraction", "cache", "salience", "table", "metrics"]
    assert own == {*tasks, "start"}
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in found["rows"])
    inertia = [row["found"] for row in found["rows"] if row["task"] == "kmeans" and row["who"] == "ours"]
    assert all(text.startswith("inertia ") for text in inertia)
