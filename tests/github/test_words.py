"""What the inputs of an action become: words of a command line, each in one piece, and a decision where it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ember_hub.automation.github.runner import Step
from ember_hub.automation.github.words import for_erase, for_job, loads_a_model, needs_job
from ember_hub.errors import ConfigError

PLAIN = {"model": "org/name", "concept": "covid"}
JOB = {**PLAIN, "methods": "rmu", "as": "both", "push": "true"}


def step(**inputs: str) -> Step:
    return Step({f"INPUT_{name.replace('-', '_').upper()}": value for name, value in inputs.items()})


def test_the_defaults_are_a_patch_that_loads_no_model() -> None:
    words = for_erase(step(**PLAIN), Path("out"))
    assert words == ["erase", "--json", "--output=out", "--concept=covid", "--as=patch", "--method=none", "--", "org/name"]


def test_lists_become_several_words_and_a_line_stays_one() -> None:
    words = for_erase(step(**PLAIN, methods="rmu other", gates="recovered=0.3, mmlu=0.9\n", push="me/x", yes="true",
                           settings='rmu.steps=3\n verify.only=["a b"]\n', **{"create-pr": "TRUE"}), Path("out"))
    assert words[5:] == ["--method=rmu", "--method=other", "--fail-under=recovered=0.3", "--fail-under=mmlu=0.9",
                         "--set=rmu.steps=3", '--set=verify.only=["a b"]', "--push=me/x", "--create-pr", "--yes", "--", "org/name"]


def test_nothing_that_begins_like_an_option_becomes_one() -> None:
    words = for_erase(step(model="--push", concept="--push-anyway", methods="--no-ember"), Path("out"))
    assert words[3:] == ["--concept=--push-anyway", "--as=patch", "--method=--no-ember", "--", "--push"]


@pytest.mark.parametrize(("inputs", "loads"), [
    ({}, False), ({"methods": "none", "battery": "auto"}, False), ({"battery": "none"}, False), ({"methods": "rmu"}, True),
    ({"as": "full"}, True), ({"battery": "quick"}, True), ({"settings": 'verify.only=["questions"]'}, True)])
def test_what_needs_weights(inputs: dict[str, str], loads: bool) -> None:
    assert loads_a_model(step(**PLAIN, **inputs)) == loads


def test_a_job_is_started_where_a_model_is_loaded_without_a_gpu_and_the_result_is_pushed(tmp_path: Path) -> None:
    def on_job(with_gpu: bool = False, **inputs: str) -> bool:
        (tmp_path / "nvidia-smi").touch(0o755)
        return needs_job(Step({**step(**inputs).environment, "PATH": str(tmp_path if with_gpu else tmp_path / "empty")}))

    assert on_job(**JOB)
    assert not on_job(**JOB, with_gpu=True)
    assert not on_job(**{**JOB, "push": "false"})
    assert not on_job(**JOB, where="here")
    assert not on_job(**PLAIN, push="true")
    assert on_job(**PLAIN, where="jobs")
    assert for_job(step(**{**JOB, "push": "some-org", "job-flavor": "a100-large"})) == [
        "watch", "--once", "--json", "--jobs", "--model=org/name", "--concept=covid", "--as=both", "--method=rmu",
        "--push=some-org", "--flavor=a100-large"]


@pytest.mark.parametrize(("inputs", "says", "hint"), [
    ({"concept": ""}, "concept is empty", "with:"),
    ({"private": "yes"}, "'yes'", "true or false"),
])
def test_an_input_that_cannot_be_is_refused(inputs: dict[str, str], says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        for_erase(step(**PLAIN | inputs), Path("out"))
    assert hint in raised.value.hint


@pytest.mark.parametrize(("inputs", "says", "hint"), [
    ({"push": "false"}, "push: false", "push: true"), ({"push": "me/x"}, "push: me/x", "user or organization"),
    ({"device": "cuda"}, "device means nothing", "where: here")])
def test_an_input_that_a_job_cannot_follow_is_refused(inputs: dict[str, str], says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        for_job(step(**JOB | inputs))
    assert hint in raised.value.hint
    with pytest.raises(ConfigError, match="'cloud'"):
        needs_job(step(**JOB, where="cloud"))
