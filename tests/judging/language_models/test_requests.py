"""Asking: back-off, pauses, limits, reminders, and what is kept whatever happens."""

import json
import threading
import time

import pytest
from helpers.stub_judge import StubJudge, completion

from clvq_hf.judging.language_models import AnswerCache, EndpointJudge, JudgeError, LimitReached, requests
from clvq_hf.judging.language_models.parsing import parse_rating
from clvq_hf.judging.language_models.requests import Budget, Question, ask_all, estimate_requests

GOOD = '{"rating": 2}'


def questions(judge, number):
    return [Question(judge, [{"role": "user", "content": f"Question {n}"}], parse_rating, 20) for n in range(number)]


@pytest.fixture
def ask(tmp_path):
    def ask(behave, number=1, limit=None, concurrency=4, timeout=5.0):
        with StubJudge(behave) as stub, AnswerCache(tmp_path / "answers.jsonl") as cache:
            judge = EndpointJudge("stub", url=stub.url, timeout=timeout)
            budget = Budget(limit)
            try:
                return ask_all(questions(judge, number), cache, budget, concurrency), stub
            finally:
                ask.stub, ask.kept, ask.used = stub, len(cache), budget.used
                ask.estimate = estimate_requests(questions(judge, number), cache)

    return ask


def test_answers_in_order_and_nothing_is_asked_twice(ask):
    def count(number, body):
        return json.dumps({"rating": int(body["messages"][0]["content"][-1]) % 3 + 1})

    outcomes, stub = ask(count, 9)
    assert [outcome.value for outcome in outcomes] == [1, 2, 3] * 3 and len(stub.requests) == 9
    outcomes, stub = ask(count, 9)
    assert [outcome.value for outcome in outcomes] == [1, 2, 3] * 3 and stub.requests == []
    assert (ask.estimate[0].questions, ask.estimate[0].requests, ask.estimate[0].input_tokens) == (9, 0, 0)


def test_estimate_before(ask):
    with pytest.raises(LimitReached):
        ask(lambda number, body: GOOD, 3, limit=0)
    # "Question 0" has ten characters; three of them are 30, a quarter is 7.
    assert (ask.estimate[0].requests, ask.estimate[0].input_tokens, ask.estimate[0].output_tokens) == (3, 7, 60)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency(ask, concurrency):
    _, stub = ask(lambda number, body: time.sleep(0.1) or GOOD, 6, concurrency=concurrency)
    assert stub.most_at_once == concurrency


FAILURES = {
    "busy": (429, {}, b""),
    "down": (500, {}, b"<html>"),
    "half": b'{"choices": [{"mess',
    "garbage": b"\x00\x01",
    "late": None,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_tried_again_until_it_works(ask, failure):
    def behave(number, body):
        if number > 3:
            return GOOD
        return FAILURES[failure] if failure != "late" else time.sleep(1) or GOOD

    outcomes, stub = ask(behave, timeout=0.3)
    assert outcomes[0].value == 2 and outcomes[0].malformed == 0 and len(stub.requests) == 4
    assert ask.used == 4, "every request counts"


def test_retry_after_pauses_every_question(ask):
    times = []

    def behave(number, body):
        times.append(time.monotonic())
        return (429, {"retry-after": "0.5"}, b"") if number == 1 else GOOD

    outcomes, _ = ask(behave, 4, concurrency=1)
    assert [outcome.value for outcome in outcomes] == [2] * 4
    assert times[1] - times[0] >= 0.5


def test_malformed_answers_are_reminded_and_counted(ask):
    outcomes, stub = ask(lambda number, body: "Well…" if number < 3 else GOOD)
    assert (outcomes[0].value, outcomes[0].malformed) == (2, 2)
    assert [message["role"] for message in stub.requests[2]["messages"]] == ["user", "assistant", "user"]
    assert stub.requests[2]["messages"][1]["content"] == "Well…"


def test_nothing_but_malformed_answers(ask):
    outcomes, stub = ask(lambda number, body: "Well…", 2)
    assert [(outcome.value, outcome.malformed, outcome.error) for outcome in outcomes] == [(None, 3, None)] * 2
    assert len(stub.requests) == 6
    _, stub = ask(lambda number, body: GOOD, 2)
    assert stub.requests == [], "they are kept like others"


def test_a_refused_question_does_not_stop_the_others(ask):
    def behave(number, body):
        return (400, {}, b"too long") if body["messages"][0]["content"].endswith("1") else GOOD

    outcomes, stub = ask(behave, 3)
    assert [outcome.value for outcome in outcomes] == [2, None, 2] and "too long" in outcomes[1].error
    assert len(stub.requests) == 3, "what is refused is not tried again"


@pytest.mark.parametrize("answered", [range(0, 3), range(25, 28)])
def test_a_text_that_is_too_long_for_all_its_questions_does_not_stop_the_run(ask, answered):
    def behave(number, body):
        return GOOD if int(body["messages"][0]["content"].split()[1]) in answered else (400, {}, b"too long")

    outcomes, _ = ask(behave, 28, concurrency=1)
    assert [number for number, outcome in enumerate(outcomes) if outcome.value == 2] == list(answered)


def test_a_judge_that_refuses_everything_is_given_up(ask):
    with pytest.raises(JudgeError, match=r"refused 30 questions and answered none.*URL#MODEL"):
        ask(lambda number, body: (400, {}, b"which model?"), 50, concurrency=1)
    assert len(ask.stub.requests) == requests.GIVE_UP_REFUSED


def test_refusals_between_do_not_count_as_silence(ask, monkeypatch):
    monkeypatch.setattr(requests, "TRIES", 1)

    def behave(number, body):
        return (400, {}, b"too long") if number % 2 else (500, {}, b"")

    outcomes, _ = ask(behave, 12, concurrency=1)
    assert all(outcome.error for outcome in outcomes)


def test_questions_that_a_stopped_run_does_not_ask_count_for_nothing(tmp_path):
    stop = threading.Event()
    stop.set()
    judge = EndpointJudge("stub", url="http://127.0.0.1:1/v1")
    with AnswerCache(tmp_path / "a.jsonl") as cache:
        lane = requests._Lane(judge, cache, Budget(), stop)
        # Else the last of them would raise, and what it says would hide why the run was stopped.
        assert [lane.ask(question).error for question in questions(judge, 6)] == ["stopped"] * 6


def test_a_judge_out_of_order_is_given_up_and_keeps_what_it_answered(ask):
    def behave(number, body):
        return GOOD if number <= 2 else (500, {}, b"broken")

    with pytest.raises(JudgeError, match=r"in a row.*500.*broken.*go on"):
        ask(behave, 50, concurrency=1)
    assert ask.kept == 2
    assert len(ask.stub.requests) == 2 + requests.GIVE_UP * requests.TRIES
    outcomes, stub = ask(lambda number, body: GOOD, 50)
    assert len(stub.requests) == 48 and all(outcome.value == 2 for outcome in outcomes)


def test_a_wrong_key_stops_at_once(ask):
    with pytest.raises(JudgeError, match="401"):
        ask(lambda number, body: (401, {}, b""), 50, concurrency=1)
    assert len(ask.stub.requests) == 1


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_limit_of_requests(ask, concurrency):
    with pytest.raises(LimitReached, match=r"limit of 7 requests; 7 of 20 .* go on"):
        ask(lambda number, body: GOOD, 20, limit=7, concurrency=concurrency)
    assert len(ask.stub.requests) == 7 and ask.kept == 7
    _, stub = ask(lambda number, body: GOOD, 20, limit=13)
    assert len(stub.requests) == 13


def test_several_judges_at_once(tmp_path):
    with (
        StubJudge(lambda number, body: '{"rating": 1}') as one,
        StubJudge(lambda number, body: completion('{"rating": 3}')) as two,
        AnswerCache(tmp_path / "a.jsonl") as cache,
    ):
        judges = [EndpointJudge("one", url=one.url), EndpointJudge("two", url=two.url)]
        asked = [question for judge in judges for question in questions(judge, 3)]
        assert [outcome.value for outcome in ask_all(asked, cache, Budget())] == [1] * 3 + [3] * 3
