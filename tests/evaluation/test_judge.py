"""The judge's client against a server on 127.0.0.1 that answers, stumbles, talks nonsense, refuses and keeps silent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from email.utils import formatdate
from time import time

import pytest
from pydantic import ValidationError

from ember_hub.errors import EvaluationError, JudgeUnavailable
from ember_hub.evaluation.evaluations.open_answers import OpenAnswers
from ember_hub.evaluation.judge import KEY, LONGEST_PAUSE, Judge, number, retry_after
from ember_hub.progress import Quiet
from tests.evaluation.judge_server import JudgeServer, Reply, says

SECRET = "sk-do-not-tell"
BUSY = Reply(503, b"busy")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)


def rated(answer: Callable[[int, str], Reply | None], *requests: str, timeout: float = 10.0
          ) -> tuple[list[int | None], JudgeServer]:
    with JudgeServer(answer) as server:
        return Judge(server.url, "judge-1", timeout, pause=0.001).rate(requests or ("one",), 2, Quiet()), server


def refused(answer: Callable[[int, str], Reply | None], timeout: float = 10.0) -> tuple[JudgeUnavailable, JudgeServer]:
    with JudgeServer(answer) as server, pytest.raises(JudgeUnavailable) as raised:
        Judge(server.url, "judge-1", timeout, pause=0.001).rate(("one",), 2, Quiet())
    assert SECRET not in f"{raised.value.message} {raised.value.hint}"
    return raised.value, server


def test_every_request_is_rated_in_its_place_by_that_model_with_that_key() -> None:
    requests = [f"rate {i}" for i in range(30)]
    ratings, server = rated(lambda _, request: says(str(int(request.split()[1]) % 3)), *requests)
    assert ratings == [i % 3 for i in range(30)]
    assert {(body["model"], body["temperature"]) for body in server.asked} == {("judge-1", 0)}
    assert set(server.keys) == {f"Bearer {SECRET}"}


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY)
    assert rated(lambda *_: says("1"))[1].keys == [None]


@pytest.mark.parametrize("stumble", [BUSY, Reply(429, b"slow down"), Reply(500, b"")])
def test_a_server_that_stumbles_once_is_asked_again(stumble: Reply) -> None:
    ratings, server = rated(lambda count, _: stumble if count == 1 else says("2"))
    assert ratings == [2]
    assert len(server.asked) == 2


def test_a_server_that_never_recovers_is_given_up() -> None:
    error, server = refused(lambda *_: BUSY)
    assert len(server.asked) == 3
    assert "answered 503, 3 times" in error.message
    assert "without a judge" in error.hint


def test_a_silent_server_and_no_server_are_given_up() -> None:
    error, server = refused(lambda *_: None, timeout=1)
    assert len(server.asked) == 3
    assert "cannot be reached (ReadTimeout)" in error.message
    with pytest.raises(JudgeUnavailable, match=r"cannot be reached \(ConnectError\)"):
        Judge(server.url, "judge-1", pause=0.001).rate(("one",), 2, Quiet())


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_and_not_told(status: int) -> None:
    error, server = refused(lambda *_: Reply(status, f'{{"error": "wrong key {SECRET}"}}'.encode()))
    assert len(server.asked) == 1
    assert KEY in error.hint


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 2}}]}', b"[1]"])
def test_what_is_no_chat_completion_is_no_judge(body: bytes) -> None:
    error, server = refused(lambda *_: Reply(200, body))
    assert len(server.asked) == 1
    assert "judge_model" in error.hint


def test_an_address_that_is_not_there_is_said_so_in_the_servers_words_without_the_key() -> None:
    error, _ = refused(lambda *_: Reply(404, b"{}"))
    assert error.message.endswith("answered 404")
    told = {"error": {"message": f"No model\njudge-1 for {SECRET}.", "code": "model_not_found"}}
    error, _ = refused(lambda *_: Reply(404, json.dumps(told).encode()))
    assert error.message.endswith(f"answered 404: No model judge-1 for {KEY}.")
    error, _ = refused(lambda *_: Reply(400, b'{"error": "no such field"}'))
    assert error.message.endswith("answered 400: no such field")


def test_a_model_that_takes_no_temperature_is_asked_without_one_from_then_on() -> None:
    complaint = Reply(400, b'{"error": {"message": "Unsupported value: \'temperature\' does not support 0 with this model."}}')
    with JudgeServer(lambda *_: says("1")) as server:
        server.refuses = lambda body: complaint if "temperature" in body else None
        judge = Judge(server.url, "judge-1", pause=0.001)
        assert judge.rate(("one",), 2, Quiet()) == judge.rate(("two",), 2, Quiet()) == [1]
    assert ["temperature" in body for body in server.asked] == [True, False, False]


def test_a_busy_server_is_waited_for_longer_than_a_broken_one() -> None:
    ratings, server = rated(lambda count, _: Reply(429, b"") if count < 7 else says("2"))
    assert (ratings, len(server.asked)) == ([2], 7)
    error, server = refused(lambda *_: Reply(429, b'{"error": {"message": "Your quota is used up."}}'))
    assert len(server.asked) == 7
    assert "answered 429, 7 times: Your quota is used up." in error.message


@pytest.mark.parametrize("key", ["sk-\u201cquoted\u201d", "sk-two\nlines"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY, key)
    error, server = refused(lambda *_: says("1"))
    assert server.asked == []
    assert error.message == f"{KEY} holds characters that no key has"
    assert KEY in error.hint


def test_an_unclear_answer_is_asked_for_once_more_and_then_not_guessed_at() -> None:
    ratings, server = rated(lambda count, _: says("Fluent: 2 of 2" if count == 1 else '{"rating": 1}'))
    assert ratings == [1]
    assert server.asked[1]["messages"][0]["content"] == "one\nAnswer with the number alone."
    ratings, server = rated(lambda *_: says("I would say 2."))
    assert (ratings, len(server.asked)) == ([None], 2)


@pytest.mark.parametrize("refusal", [says("I cannot rate this."), Reply(200, b'{"choices": [{"message": {"content": null}}]}'),
                                     Reply(200, b'{"choices": [{"message": {"role": "assistant", "refusal": "No."}}]}'),
                                     Reply(400, b'{"error": {"message": "Blocked.", "code": "content_filter"}}')])
def test_an_answer_that_the_judge_will_not_look_at_has_no_rating_and_the_others_keep_theirs(refusal: Reply) -> None:
    ratings, server = rated(lambda _, request: refusal if request.startswith("bad") else says("2"), "good", "bad", "fair")
    assert ratings == [2, None, 2]
    assert len(server.asked) == 4


def test_a_judge_that_rates_nothing_at_all_is_none() -> None:
    with JudgeServer(lambda *_: says("very fluent")) as server, pytest.raises(JudgeUnavailable) as raised:
        Judge(server.url, "judge-1", pause=0.001).rate(("one", "two", "three"), 2, Quiet())
    assert "'very fluent', not a number from 0 to 2, and gave none of 3 answers a rating" in raised.value.message
    assert "judge_model" in raised.value.hint
    assert isinstance(raised.value, EvaluationError)


def test_a_rating_is_a_bounded_integer_alone_or_in_json() -> None:
    assert [number(text, 2) for text in ("0", " 2\n", '{"rating": 1}', '{"why": "good", "rating": 2}')] == [0, 2, 1, 2]
    assert [number(text, 2) for text in ("2.", "**2**", "`1`.", '```json\n{"rating": 1}\n```', "```\n2\n```")] == [2, 2, 1, 1, 2]
    for text in ("", "**", "```", "2.5", "9" * 5000, "3", "-1", "1.0", "true", "two", "2/2", "1 2", "[2]", '{"a": 1, "b": 2}',
                 '{"a": "1"}', '{"a": true}'):
        assert number(text, 2) is None, text


def test_the_server_says_how_long_to_wait() -> None:
    with JudgeServer(lambda count, _: Reply(429, b"", {"Retry-After": "0"}) if count == 1 else says("2")) as server:
        # Nobody can sleep that long: an OverflowError would tell that the server was not listened to.
        assert Judge(server.url, "judge-1", pause=math.inf).rate(("one",), 2, Quiet()) == [2]
    assert retry_after(None, 1.5) == 1.5
    assert retry_after("7", 1.5) == 7
    assert retry_after("86400", 1.5) == LONGEST_PAUSE
    assert 20 < retry_after(formatdate(time() + 30, usegmt=True), 1.5) <= 30
    assert retry_after(formatdate(time() - 30, usegmt=True), 1.5) == 0
    assert retry_after("soon", 1.5) == 1.5


@pytest.mark.parametrize(("settings", "said"), [
    ({"judge": "https://judge.example/v1"}, "name the model"),
    ({"judge": "judge.example", "judge_model": "j"}, r"not an http\(s\) address"),
    ({"judge": "https://judge.example:notaport/v1", "judge_model": "j"}, "not an address"),
    ({"judge": f"https://me:{SECRET}@judge.example/v1", "judge_model": "j"}, KEY),
    ({"judge": f"https://judge.example/v1?key={SECRET}", "judge_model": "j"}, KEY)])
def test_settings_that_name_no_judge_or_a_key_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        OpenAnswers(**settings)
    assert OpenAnswers(judge="https://judge.example/v1", judge_model="j").judge == "https://judge.example/v1"
