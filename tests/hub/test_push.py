"""The push, by the real client in a process of its own, against the loopback Hub."""

from __future__ import annotations

import pytest

from ember_hub.publish.push import LONGEST, default_repo
from ember_hub.source.ref import is_repo_id

from .pushing import REPO, content_of, published, write_result
from .store import Store, StoredFile


def test_a_result_goes_to_the_default_repository_in_one_commit_and_a_second_push_sends_nothing(hub, publish, result):
    first = publish(result)

    assert published(hub) == content_of(result)
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

    assert published(hub) == content_of(sharded)


def test_what_an_earlier_result_named_its_own_goes_with_it_and_what_others_added_stays(hub, publish, tmp_path):
    own = [".eval_results/mmlu.yaml", "special_tokens_map.json", "ember/layers.png", "reproduce/recipe.toml"]
    old = write_result(tmp_path / "old", dict.fromkeys(own, b"old") | {
        "model.safetensors": b"old", "reproduce/SHA256SUMS": "".join(f"{'0' * 64}  {path}\n" for path in own).encode()})
    publish(old)
    community = {".eval_results/community.yaml": b"[]", "gguf/model-q4.gguf": b"made by others", "lora.safetensors": b"others"}
    hub.add_repo(REPO, write_result(tmp_path / "both", content_of(old) | community))

    new = write_result(tmp_path / "new", {"model.safetensors": b"new", "reproduce/SHA256SUMS": b""})
    publish(new)

    assert published(hub) == content_of(new) | community


def test_the_result_for_a_newer_base_replaces_the_older_one_in_one_commit_that_keeps_the_history(
        hub, publish, result, tmp_path):
    first = publish(result)
    newer = write_result(tmp_path / "newer", {"model.safetensors": b"made from the next commit of the base"})
    second = publish(newer)

    history = [commit.oid for commit in hub.store.repositories["models", REPO].history(
        hub.store.repositories["models", REPO].head)]
    assert history[:2] == [second["commit"], first["commit"]]
    assert published(hub) == content_of(newer)


@pytest.mark.parametrize(("asked", "message"), [
    ({"concept": "harry-potter"}, "holds the result for 'covid-19-pandemic' on lab/Pico-Instruct"),
    ({"base": "lab/Other"}, "holds the result for 'covid-19-pandemic' on lab/Pico-Instruct"),
    ({"form": "patch"}, "holds a model, this is a patch"),
    ({"is_private": True}, "is public, and a private push was asked for"),
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
    seen = publish(environment={"HF_TOKEN": token})

    assert (seen["error"], seen["message"]) == ("PushRejected", message)
    assert "`hf auth login`, or set HF_TOKEN" in seen["hint"]
    assert {request.path for request in hub.requests} <= {"/api/whoami-v2"}


def test_an_organization_takes_a_private_result_from_its_member_and_none_from_others(hub, publish, result):
    publish(result, repo="tester-lab/mine", is_private=True)
    assert hub.store.repositories["models", "tester-lab/mine"].is_private

    refused = publish(repo="tester-lab/mine", environment={"HF_TOKEN": "hf_other"})
    assert refused["message"] == "other may not write under 'tester-lab'"
    assert "name a repository under other" in refused["hint"]


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


@pytest.mark.parametrize("concept", ["a/b\\c", "it's \"quoted\"", "☣️💉", "x" * 300, "../../etc", "a--b..c", "-rf", ""])
@pytest.mark.parametrize("form", ["model", "patch"])
def test_any_concept_makes_a_name_that_the_hub_takes(concept, form):
    name = default_repo("tester-lab", "meta-llama/Llama-3.1-8B", concept, form)

    assert is_repo_id(name)
    assert len(name) <= LONGEST
    assert name.startswith("tester-lab/Llama-3.1-8B-ember-")
    assert name.endswith("-patch") == (form == "patch")


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
