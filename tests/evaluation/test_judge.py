"""The judge's client against a server on 127.0.0.1 that answers, stumbles, talks nonsense, refuses and keeps silent."""

from __future__ import annotations

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


def rated(answer: Callable[[int, str], Reply | None], *requests: str, timeout: float = 10.0) -> tuple[list[int], JudgeServer]:
    with JudgeServer(answer) as server:
        return Judge(server.url, "judge-1", timeout, pause=0.01).rate(requests or ("one",), 2, Quiet()), server


def refused(answer: Callable[[int, str], Reply | None], timeout: float = 10.0) -> tuple[JudgeUnavailable, JudgeServer]:
    with JudgeServer(answer) as server, pytest.raises(JudgeUnavailable) as raised:
        Judge(server.url, "judge-1", timeout, pause=0.01).rate(("one",), 2, Quiet())
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
        Judge(server.url, "judge-1", pause=0.01).rate(("one",), 2, Quiet())


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_and_not_told(status: int) -> None:
    error, server = refused(lambda *_: Reply(status, f'{{"error": "wrong key {SECRET}"}}'.encode()))
    assert len(server.asked) == 1
    assert KEY in error.hint


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[1]"])
def test_what_is_no_chat_completion_is_no_judge(body: bytes) -> None:
    error, server = refused(lambda *_: Reply(200, body))
    assert len(server.asked) == 1
    assert "judge_model" in error.hint


def test_an_address_that_is_not_there_is_said_so() -> None:
    error, _ = refused(lambda *_: Reply(404, b"{}"))
    assert "answered 404" in error.message


def test_an_unclear_answer_is_asked_for_once_more_and_then_not_guessed_at() -> None:
    ratings, server = rated(lambda count, _: says("Fluent: 2 of 2" if count == 1 else '{"rating": 1}'))
    assert ratings == [1]
    assert server.asked[1]["messages"][0]["content"] == "one\nAnswer with the number alone."
    error, server = refused(lambda *_: says("I would say 2."))
    assert len(server.asked) == 2
    assert "'I would say 2.', not a number from 0 to 2" in error.message
    assert isinstance(error, EvaluationError)


def test_a_rating_is_a_bounded_integer_alone_or_in_json() -> None:
    assert [number(text, 2) for text in ("0", " 2\n", '{"rating": 1}', '{"why": "good", "rating": 2}')] == [0, 2, 1, 2]
    for text in ("", "3", "-1", "1.0", "true", "two", "2/2", "1 2", "[2]", '{"a": 1, "b": 2}', '{"a": "1"}', '{"a": true}'):
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
