"""The GPU check, on a CPU."""

import contextlib
import importlib.util
import io
import json
import sys
import textwrap
from pathlib import Path

import pytest
import transformers
from helpers.grids_in_threads import run_in_threads

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture
def check(hub, tmp_path, monkeypatch):
    """Runs the script in this process: exit status and results by part."""
    spec = importlib.util.spec_from_file_location("check_gpu", ROOT / "scripts" / "check_gpu.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_gpu", script)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    spec.loader.exec_module(script)
    for variable in ("CUDA_VISIBLE_DEVICES", "REVIEWS"):  # what it sets
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr(script, "disable_progress_bars", lambda: None)
    # What starts processes, which would import everything again, runs here: cells, and the client of the Hub.
    run_in_threads(monkeypatch)
    monkeypatch.setattr(script, "run_client", lambda _, client, __: printed_by(client))
    verbosity = transformers.utils.logging.get_verbosity()

    def check(*arguments: str) -> tuple[int, dict[str, dict]]:
        command = ["check_gpu.py", "--device", "cpu", "--output_dir", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        status = script.main()
        parts = json.loads((tmp_path / "results.json").read_text())["parts"]
        assert len((tmp_path / "results.md").read_text().splitlines()) == 4 + len(parts)
        return status, {part["part"]: part for part in parts}

    yield check
    transformers.utils.logging.set_verbosity(verbosity)


def printed_by(code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(textwrap.dedent(code), {})
    return output.getvalue()


def test_every_part_passes_on_a_cpu(check):
    status, parts = check()
    assert status == 0, {name: part["error"] for name, part in parts.items() if not part["passed"]}
    assert len(parts) == 21 and parts["table"]["tokens_per_second"] > 0


def test_a_failure_hides_no_other_part(check, tmp_path):
    texts = tmp_path / "texts.jsonl"
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(24)]
    texts.write_text("\n".join(map(json.dumps, rows)))
    status, parts = check("--data", str(texts), "--parts", "unknown,saving")
    assert status == 1
    assert not parts["unknown"]["passed"] and parts["saving"]["passed"]
