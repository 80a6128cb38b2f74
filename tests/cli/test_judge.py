"""`clvq-hf judge` and `clvq-hf concepts label` against servers on this machine: ours, and transformers serve."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import pytest
from helpers.judging_fixtures import make_table, no_long_waits, random_table, sentences, tables, word_table  # noqa: F401
from helpers.stub_judge import StubJudge, good_judge, material, namer
from typer.testing import CliRunner

from clvq_hf import ConceptTable
from clvq_hf.cli import app
from clvq_hf.judging.exhibits import open_tables
from clvq_hf.judging.language_models import EndpointJudge, JudgingSettings, judge_tables, requests

TOKEN = "hf_" + "secret" * 5


@pytest.fixture
def folders(tables, tmp_path):
    for name, table in tables.items():
        table.save_to_disk(tmp_path / name)
    return [f"{name}={tmp_path / name}" for name in tables]


def run(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}, **options)


class TestJudge:
    @pytest.mark.slow
    def test_end_to_end(self, folders, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        out = tmp_path / "out"
        with StubJudge(good_judge) as one, StubJudge(good_judge) as two:
            command = ["judge", *folders, "--judge", one.url, "--judge", f"{two.url}#second", "--texts", 12, "-o", out]
            result = run(*command, "--yes", "--send-token")
            assert result.exit_code == 0, result.output
            # 12 texts, 4 arms, 2 orders; the first method shows the salient word alone, which is rated once.
            asked = {json.dumps(body) for body in one.requests}
            assert len(asked) == len(one.requests) == len(two.requests) == 12 * 5
            again = run(*command)
            assert again.exit_code == 0 and len(one.requests) == len(asked), "nothing is sent, so nothing is asked"
        results = json.loads((out / "results.json").read_text())
        figures = results["kinds"]["words"]
        pairs = {(pair["one"], pair["other"]): pair["net"]["mean"] for pair in figures["pairs"]}
        # This judge goes by words of the text: the salient word alone is all such words, noise is not.
        assert pairs["words", "noise"] > 0 and pairs["words", "random active code"] > 0
        assert {pair["verdict"] for pair in figures["pairs"]} == {"unknown"}, "twelve texts are too few"
        assert figures["agreement"]["kendall_w"]["value"] == pytest.approx(1)
        assert figures["judges"][one.url]["answered"] == 72
        rows = [json.loads(line) for line in (out / "judgements.jsonl").read_text().splitlines()]
        assert len(rows) == 2 * 72 and "# Judged concepts" in (out / "results.md").read_text()
        written = "".join(file.read_text() for file in out.iterdir()) + result.output
        assert TOKEN not in written and TOKEN in json.dumps(one.headers)

    def test_nothing_is_sent_unasked(self, folders, tmp_path):
        with StubJudge(good_judge) as stub:
            result = run("judge", *folders, "--judge", stub.url, "--texts", 4, "-o", tmp_path / "out")
        assert result.exit_code == 1 and "requests would be sent" in result.output and "--yes" in result.output
        assert stub.requests == [] and not (tmp_path / "out" / "results.json").exists()

    def test_max_requests(self, folders, tmp_path):
        command = ["judge", *folders, "--texts", 4, "-o", tmp_path / "out", "--yes"]
        with StubJudge(good_judge) as stub:
            stopped = run(*command, "--judge", stub.url, "--max-requests", 10)
            assert stopped.exit_code == 1 and "limit of 10" in stopped.output and len(stub.requests) == 10
            assert run(*command, "--judge", stub.url).exit_code == 0
            assert len({json.dumps(body) for body in stub.requests}) == len(stub.requests)

    def test_a_judge_who_only_babbles(self, folders, tmp_path):
        with StubJudge(lambda number, body: "As a language model…") as stub:
            result = run("judge", *folders, "--judge", stub.url, "--texts", 2, "-o", tmp_path / "out", "--yes")
        assert result.exit_code == 0, result.output
        assert "No answer of" in result.output and "100%" in result.output

    def test_sentences_and_words(self, folders, tmp_path):
        with StubJudge(good_judge) as stub:
            settings = JudgingSettings(num_texts=3, kinds=("words", "sentences"))
            judges = [EndpointJudge("j", url=stub.url)]
            results = judge_tables(open_tables(folders), judges, tmp_path / "out", settings=settings)
        assert set(results["kinds"]) == {"words", "sentences"} and results["requests"] == len(stub.requests)

    def test_labels_that_nobody_named(self, tables, tmp_path):
        for name, table in tables.items():
            nameless = ConceptTable(table.tokens, table.texts, {**table.metadata, "label_names": ["0", "1"]})
            nameless.save_to_disk(tmp_path / name)
        command = ["judge", *(tmp_path / name for name in tables), "--texts", 2, "-o", tmp_path / "out", "--yes"]
        with StubJudge(good_judge) as stub:
            refused = run(*command, "--judge", stub.url)
            assert refused.exit_code == 1 and "--label negative" in refused.output and stub.requests == []
            assert "Estimate" not in refused.output
            result = run(*command, "--judge", stub.url, "--label", "praise", "--label", "blame")
            assert result.exit_code == 0, result.output
        shown = [material(body) for body in stub.requests]
        assert all(found["classes"] == ["praise", "blame"] and found["class"] in found["classes"] for found in shown)
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["settings"]["label_names"] == ["praise", "blame"]
        assert all(name.startswith(("praise", "blame")) for name in results["texts"]["strata"])

    @pytest.mark.parametrize(("one", "two"), [(("j", "x"), ("j", "y")), (("j", "x"), ("k", "x"))])
    def test_one_judge_twice(self, tables, tmp_path, one, two):
        judges = [SimpleNamespace(name=name, identity=identity, concurrency=None) for name, identity in (one, two)]
        with pytest.raises(ValueError, match="twice"):
            judge_tables(tables, judges, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_interrupted(self, folders, tmp_path):
        def broken(number, body):
            return good_judge(number, body) if number <= 20 else (401, {}, b"{}")

        command = ["judge", *folders, "--texts", 6, "-o", tmp_path / "out", "--yes", "--concurrency", 1]
        with StubJudge(broken) as stub:
            assert "401" in run(*command, "--judge", stub.url).output
            stub.behave = good_judge
            assert run(*command, "--judge", stub.url).exit_code == 0
            assert len({json.dumps(body) for body in stub.requests}) == len(stub.requests) - 1, "the refused one"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--judge", "http://me:pw@host/v1"], "HF_TOKEN"),
            (["--judge", "local:x", "--kind", "clouds"], "clouds"),
            (["--judge", "local:x", "--texts", "0"], "num_texts"),
            (["--judge", "local:x", "--judge", "local:x"], "twice"),
            (["--judge", "local:x", "--kind", "words", "--kind", "words"], "each once"),
            (["--judge", "local:x", "--label", "good"], "2 labels"),
            (["--judge", "local:x", "--label", "0", "--label", "1"], "--label negative"),
        ],
    )
    def test_mistakes(self, folders, tmp_path, arguments, message):
        result = run("judge", *folders, "-o", tmp_path / "out", *arguments)
        assert result.exit_code == 1 and message in result.output


@pytest.mark.slow
def test_label(word_table, tmp_path):
    word_table.save_to_disk(tmp_path / "table")
    with StubJudge(namer) as stub:
        command = ["concepts", "label", tmp_path / "table", "--judge", stub.url, "--yes"]
        result = run(*command, "--concepts", 20)
        assert result.exit_code == 0, result.output
        assert "--detector chooses another model" in result.output
        before = ConceptTable.load_from_disk(tmp_path / "table").names
        assert {name.name for name in before.values()} >= {"warm", "dull"}
        # Others stay as they are.
        stub.behave = lambda number, body: '{"name": "else"}' if "words" in str(body) else '{"belong": [1]}'
        ConceptTable.load_from_disk(tmp_path / "table").save_to_disk(tmp_path / "table")
        (tmp_path / "table.answers.jsonl").unlink()  # beside the folder: saving anew leaves it
        code = min(before)
        assert run(*command, "--code", code).exit_code == 0
    after = ConceptTable.load_from_disk(tmp_path / "table").names
    assert after.pop(code).name == "else" and before.pop(code) and after == before
    with StubJudge(lambda number, body: "Hm.") as stub:
        result = run("concepts", "label", tmp_path / "table", "--judge", stub.url, "--yes", "--concepts", 2)
        assert result.exit_code == 1 and "contains a name" in result.output
    assert len(ConceptTable.load_from_disk(tmp_path / "table").names) == len(before) + 1


@pytest.fixture
def served_smollm2(smollm2_dir, tmp_path):
    """`transformers serve` with the real SmolLM2, as a process on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(smollm2_dir)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    try:
        for _ in range(3000):
            assert process.poll() is None, (tmp_path / "serve.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1#{smollm2_dir}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_transformers_serve(served_smollm2, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "ATTEMPTS", 1)  # reminders would take three times as long, and help nothing
    out = tmp_path / "out"
    # One at a time: on two cores its generations would wait for each other.
    settings = ["--texts", 1, "--max-tokens", 8, "--concurrency", 1]
    command = ["judge", *folders, "--judge", served_smollm2, *settings, "-o", out, "--yes"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    results = json.loads((out / "results.json").read_text())
    judge = results["kinds"]["words"]["judges"][served_smollm2]
    # Well or badly, the real server answered every question.
    assert judge["questions"] == judge["answered"] + judge["malformed"] == 6 and judge["failed"] == 0
    assert judge["models"] and "smollm2" in judge["models"][0]
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert all(answer["output_tokens"] <= 8 and answer["input_tokens"] > 100 for answer in answers)
    # And a second run asks nothing.
    assert run(*command).exit_code == 0
    assert json.loads((out / "results.json").read_text())["requests"] == 0
