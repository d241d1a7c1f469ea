"""The push, by the real client in a process of its own, against the loopback Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ember_hub.publish.push import LONGEST, default_repo
from ember_hub.source.ref import is_repo_id

from .server import LoopbackHub
from .store import Store, StoredFile

BASE, CONCEPT = "lab/Pico-Instruct", "covid-19-pandemic"
REPO = "tester/Pico-Instruct-ember-covid-19-pandemic"
Publish = Callable[..., dict[str, Any]]
SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from ember_hub.errors import EmberHubError
from ember_hub.publish.push import preflight, push

asked, seen = json.loads(sys.argv[1]), {}
try:
    target = preflight(asked["repo"], asked["base"], asked["concept"], asked["form"], asked["private"])
    seen = {"target": asdict(target)}
    if asked["meanwhile"]:
        push(Path(asked["meanwhile"]), target, "Meanwhile")
    for folder in asked["folders"]:
        seen = {"target": asdict(target)} | asdict(push(Path(folder), target, "Erase"))
except EmberHubError as error:
    seen |= {"error": type(error).__name__, "message": error.message, "hint": error.hint}
json.dump(seen, sys.stdout)
"""


@pytest.fixture
def publish(hub_environment: dict[str, str]) -> Publish:
    """Preflight and push in a fresh process; what came of it, or the error with its hint."""
    # The client's own LFS upload calls httpx2 in a deprecated way; every other warning is an error.
    python = [sys.executable, "-W", "error", "-W", "ignore:Use 'content:DeprecationWarning"]

    def run(*folders: Path, repo: str | None = None, base: str = BASE, concept: str = CONCEPT, form: str = "model",
            private: bool = False, meanwhile: Path | None = None, **environment: str) -> dict[str, Any]:
        asked = {"repo": repo, "base": base, "concept": concept, "form": form, "private": private,
                 "folders": list(map(str, folders)), "meanwhile": str(meanwhile or "")}
        done = subprocess.run([*python, "-c", SCRIPT, json.dumps(asked)], capture_output=True, text=True, timeout=120,
                              env=os.environ | hub_environment | environment)
        assert done.returncode == 0, done.stderr
        assert "hf_" not in done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_result(tmp_path / "result", {"model.safetensors": b"erased" * 100})


def write_result(folder: Path, files: Mapping[str, bytes], concept: str = CONCEPT) -> Path:
    """What a run leaves to be pushed, as small as it can be."""
    report = {"model": {"repo_id": BASE, "name": "Pico-Instruct"}, "concept": {"name": concept}}
    files = {"README.md": b"---\nlicense: apache-2.0\n---\n# Pico\n", "config.json": b"{}",
             "ember/report.json": json.dumps(report).encode(), ".eval_results/ember.yaml": b"[]", **files}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def published(hub: LoopbackHub, repo: str) -> dict[str, bytes]:
    paths = hub.store.repositories["models", repo].head.files
    return {path: hub.read(repo, path) for path in paths if path != ".gitattributes"}


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_result_goes_to_the_default_repository_in_one_commit_and_a_second_push_sends_nothing(hub, publish, result):
    first = publish(result)

    assert published(hub, REPO) == content_of(result)
    assert first["url"] == f"{hub.url}/{REPO}"
    assert first["commit"] == hub.store.repositories["models", REPO].head.oid
    assert first["files"].keys() == content_of(result).keys()
    assert len(hub.seen("POST", "/commit/main")) == 1

    sent = len(hub.requests)
    second = publish(result, result)

    assert (second["commit"], second["files"]) == (first["commit"], first["files"])
    assert {request.method for request in hub.requests[sent:]} <= {"GET", "HEAD"}


def test_a_new_result_for_the_same_base_and_concept_replaces_the_old_one_with_nothing_left_over(
        hub, publish, result, tmp_path):
    sharded = write_result(tmp_path / "sharded", {"model-00001-of-00001.safetensors": b"new" * 100,
                                                  "model.safetensors.index.json": b"{}"})
    publish(result)
    publish(sharded)

    assert published(hub, REPO) == content_of(sharded)


@pytest.mark.parametrize(("asked", "message"), [
    ({"concept": "harry-potter"}, "holds the result for 'covid-19-pandemic' on lab/Pico-Instruct"),
    ({"base": "lab/Other"}, "holds the result for 'covid-19-pandemic' on lab/Pico-Instruct"),
    ({"form": "patch"}, "holds a model, this is a patch"),
    ({"private": True}, "is public, and a private push was asked for"),
])
def test_another_result_is_never_overwritten(hub, publish, result, asked, message):
    publish(result)
    seen = publish(repo=REPO, **asked)

    assert seen["error"] == "PushRejected"
    assert message in seen["message"]
    assert "name another repository" in seen["hint"]
    assert len(hub.seen("POST", "/commit/main")) == 1


def test_a_repository_with_anything_else_in_it_is_refused_before_any_work(hub, publish, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("two years of work")
    hub.add_repo("tester/thesis", tmp_path / "thesis")

    seen = publish(repo="tester/thesis")

    assert seen["message"] == "tester/thesis holds files that are no result of ember-hub"


def test_a_repository_that_was_filled_while_the_run_worked_is_not_overwritten(hub, publish, result, tmp_path):
    foreign = write_result(tmp_path / "foreign", {}, concept="harry-potter")
    late = publish(result, meanwhile=foreign)
    assert "holds the result for 'harry-potter'" in late["message"]

    other = write_result(tmp_path / "other", {"model.safetensors": b"other"})
    publish(other, repo="tester/mine")
    stale = publish(result, repo="tester/mine", meanwhile=write_result(tmp_path / "third", {"notes.txt": b"x"}))
    assert stale["message"] == "tester/mine changed while this run was working"
    assert "commits/main, then push again" in stale["hint"]


@pytest.mark.parametrize(("token", "message"), [
    ("", "there is no token for the Hub"),
    ("hf_wrong", "the Hub does not accept the token"),
    ("hf_read", "the token of tester can only read"),
])
def test_a_token_that_cannot_push_is_told_before_any_work(hub, publish, token, message):
    seen = publish(HF_TOKEN=token)

    assert (seen["error"], seen["message"]) == ("PushRejected", message)
    assert "`hf auth login`, or set HF_TOKEN" in seen["hint"]
    assert {request.path for request in hub.requests} <= {"/api/whoami-v2"}


def test_an_organization_takes_a_private_result_from_its_member_and_none_from_others(hub, publish, result):
    seen = publish(result, repo="tester-lab/mine", private=True)
    assert seen["target"]["is_private"]
    assert hub.store.repositories["models", "tester-lab/mine"].is_private

    refused = publish(repo="tester-lab/mine", HF_TOKEN="hf_other")
    assert refused["message"] == "other may not write under 'tester-lab'"
    assert "name a repository under other" in refused["hint"]


@pytest.mark.parametrize(("method", "path", "status", "message"), [
    ("POST", "/api/repos/create", 403, f"the token may not write to {REPO}"),
    ("POST", "/commit/main", 412, f"{REPO} changed while this run was working"),
    ("POST", "/commit/main", 429, "the Hub asks to slow down"),
    ("POST", "/commit/main", 503, "the Hub answered 503: injected fault"),
    ("PUT", "/-/storage/", 403, f"the token may not write to {REPO}"),
    ("POST", "/api/validate-yaml", 400, "the Hub answered 400: injected fault"),
])
def test_what_the_hub_refuses_is_said_in_our_words_and_the_next_push_succeeds(
        hub, publish, result, method, path, status, message):
    hub.fail_next(method, path, status=status)
    seen = publish(result)
    assert (seen["error"], seen["message"]) == ("PushRejected", message)
    assert seen["hint"]

    publish(result)
    assert published(hub, REPO) == content_of(result)


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_push(hub, publish, result):
    hub.drop_next("POST", "/commit/main", after_bytes=10**6)

    lost = publish(result)
    assert lost["error"] == "PushRejected"
    assert lost["message"].startswith(f"{REPO} cannot be reached: ")
    publish(result)
    assert len(hub.seen("POST", "/commit/main")) == 1
    assert published(hub, REPO) == content_of(result)


def test_a_hub_that_stores_other_bytes_is_caught(hub, publish, result, tmp_path):
    class Forgetful(Store):
        def add_file(self, content: bytes) -> StoredFile:
            return super().add_file(content.replace(b"# Pico", b"# Taco"))

    hub.store = Forgetful(tmp_path / "forgetful")
    seen = publish(result)

    assert seen["error"] == "HashMismatch"
    assert seen["message"].startswith("README.md at ")
    assert "do not use the repository" in seen["hint"]


def test_a_folder_that_no_run_made_is_not_pushed(hub, publish, tmp_path):
    seen = publish(tmp_path)

    assert seen["error"] == "NotVerified"
    assert "out/model or out/patch" in seen["hint"]


def test_default_names_begin_with_the_base_and_fit_the_hub():
    assert default_repo("me", "meta-llama/Llama-3.1-8B-Instruct", "covid-19-pandemic", "patch") == (
        "me/Llama-3.1-8B-Instruct-ember-covid-19-pandemic-patch")
    assert default_repo("me", "a b--c..d", "Épée & Co", "model") == "me/a-b-c-d-ember-p-e-co"
    for form in ("model", "patch"):
        long = default_repo("u" * 42, "Llama-" + "x" * 120, "concept-" * 20, form)
        assert is_repo_id(long)
        assert len(long) <= LONGEST
        assert long.split("/")[1].startswith("Llama-")
        assert "-ember-concept" in long
