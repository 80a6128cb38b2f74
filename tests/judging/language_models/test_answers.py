"""The answers on disk: kept through a kill, never asked for twice, without secrets."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from clvq_hf.judging.language_models import AnswerCache, Reply

JUDGE = SimpleNamespace(name="j", identity="j", concurrency=None)
CHAT = [{"role": "user", "content": "Hello?"}]


def test_what_was_put_is_there_after_opening_again(tmp_path):
    with AnswerCache(tmp_path / "new" / "answers.jsonl") as cache:
        assert cache.get(JUDGE, CHAT, 20, 0) is None
        cache.put(JUDGE, CHAT, 20, 0, Reply("yes – \u2028", "m", 7, 3))
    with AnswerCache(tmp_path / "new" / "answers.jsonl") as cache:
        assert cache.get(JUDGE, CHAT, 20, 0) == Reply("yes – \u2028", "m", 7, 3)


@pytest.mark.parametrize(
    "other",
    [
        (SimpleNamespace(name="j", identity="k"), CHAT, 20, 0),
        (JUDGE, [{"role": "user", "content": "Hello!"}], 20, 0),
        (JUDGE, CHAT, 21, 0),
        (JUDGE, CHAT, 20, 1),
    ],
)
def test_another_question_is_another_one(tmp_path, other):
    with AnswerCache(tmp_path / "a.jsonl") as cache:
        cache.put(JUDGE, CHAT, 20, 0, Reply("yes"))
        assert cache.get(*other) is None


@pytest.mark.parametrize(
    "tail", [b'{"key": "a', b'{"key": 1, "text": "x"', b"\x00\x00", b"[]", b'{"text": 5}', b"\xff"]
)
def test_a_line_that_was_cut_off(tmp_path, tail, caplog):
    file = tmp_path / "a.jsonl"
    with AnswerCache(file) as cache:
        cache.put(JUDGE, CHAT, 20, 0, Reply("yes"))
    file.write_bytes(file.read_bytes() + tail)
    with AnswerCache(file) as cache:
        assert len(cache) == 1
        cache.put(JUDGE, CHAT, 20, 1, Reply("no"))
    with AnswerCache(file) as cache:
        assert [cache.get(JUDGE, CHAT, 20, attempt).text for attempt in (0, 1)] == ["yes", "no"]


def test_many_threads(tmp_path):
    with AnswerCache(tmp_path / "a.jsonl") as cache, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: cache.put(JUDGE, CHAT, 20, number, Reply("x" * 5000)), range(100)))
    with AnswerCache(tmp_path / "a.jsonl") as cache:
        assert len(cache) == 100


def test_neither_question_nor_extra_is_written(tmp_path):
    with AnswerCache(tmp_path / "a.jsonl") as cache:
        cache.put(JUDGE, CHAT, 20, 0, Reply("yes"))
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert set(row) == {"key", "judge", "text", "model", "input_tokens", "output_tokens", "checksum"}


def put_forever(file, told):
    with AnswerCache(file) as cache:
        for number in range(10**9):
            cache.put(JUDGE, CHAT, 20, number, Reply("yes"))
            told.send(number)


def test_a_killed_process_loses_nothing_that_was_answered(tmp_path):
    # Forked, since importing everything anew would take seconds.
    fork = multiprocessing.get_context("fork")
    told, other_end = fork.Pipe(duplex=False)
    process = fork.Process(target=put_forever, args=(tmp_path / "a.jsonl", other_end))
    process.start()
    other_end.close()
    while (last := told.recv()) < 20:
        pass
    process.kill()
    process.join()
    while told.poll():
        try:
            last = told.recv()
        except (EOFError, OSError):
            break
    with AnswerCache(tmp_path / "a.jsonl") as cache:
        assert all(cache.get(JUDGE, CHAT, 20, number) == Reply("yes") for number in range(last + 1))


def test_a_line_that_was_changed_is_asked_again(tmp_path, caplog):
    file = tmp_path / "a.jsonl"
    with AnswerCache(file) as cache:
        cache.put(JUDGE, CHAT, 20, 0, Reply('{"rating": 4}'))
    written = file.read_text()
    file.write_text(written.replace('\\"rating\\": 4', '\\"rating\\": 5'))
    with AnswerCache(file) as cache:
        assert cache.get(JUDGE, CHAT, 20, 0) is None and "skipped 1 damaged" in caplog.text
    row = json.loads(written)
    del row["checksum"]
    file.write_text(json.dumps(row) + "\n")
    with AnswerCache(file) as cache:
        assert cache.get(JUDGE, CHAT, 20, 0) == Reply('{"rating": 4}'), "earlier versions wrote no checksum"


def test_one_process_at_a_time_has_it_open(tmp_path):
    with AnswerCache(tmp_path / "a.jsonl"), pytest.raises(ValueError, match=r"Another run is at work in .*a\.jsonl"):
        AnswerCache(tmp_path / "a.jsonl")
    with AnswerCache(tmp_path / "a.jsonl"):
        pass
