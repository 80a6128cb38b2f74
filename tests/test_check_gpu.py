"""The GPU check, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def check(folder: Path, *arguments: str) -> tuple[int, dict[str, dict]]:
    """Exit status and results by part."""
    command = [sys.executable, "scripts/check_gpu.py", "--device", "cpu", "--output_dir", str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    parts = json.loads((folder / "results.json").read_text())["parts"]
    assert len((folder / "results.md").read_text().splitlines()) == 4 + len(parts), done.stderr
    return done.returncode, {part["part"]: part for part in parts}


def test_every_part_passes_on_a_cpu(tmp_path):
    status, parts = check(tmp_path)
    assert status == 0, {name: part["error"] for name, part in parts.items() if not part["passed"]}
    assert len(parts) == 21 and parts["table"]["tokens_per_second"] > 0


def test_a_failure_hides_no_other_part(tmp_path):
    texts = tmp_path / "texts.jsonl"
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(24)]
    texts.write_text("\n".join(map(json.dumps, rows)))
    status, parts = check(tmp_path, "--data", str(texts), "--parts", "unknown,saving")
    assert status == 1
    assert not parts["unknown"]["passed"] and parts["saving"]["passed"]
