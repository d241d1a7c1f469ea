"""The terms of a push: pull requests, tags, collections, a yes where the base is not public, tokens without a secret."""

from __future__ import annotations

import pytest

from ember_hub.errors import UsageError
from ember_hub.publish.push import PushOptions

from .calls import Account
from .pushing import BASE, REPO, content_of, published, write_result

SLUG = "tester/erased-0123456789abcdef01234567"


def test_a_pull_request_holds_the_result_and_leaves_the_main_branch_alone(hub, publish, result, tmp_path):
    publish(result)
    newer = write_result(tmp_path / "newer", {"model.safetensors": b"newer"})
    seen = publish(newer, create_pr=True)

    assert seen["url"] == f"{hub.url}/{REPO}/discussions/1"
    assert seen["pull_request"] == "refs/pr/1"
    assert published(hub) == content_of(result)
    assert published(hub, revision="refs/pr/1") == content_of(newer)
    assert seen["commit"] == hub.store.repositories["models", REPO].pull_requests[0].head

    again = publish(newer, create_pr=True)
    assert (again["url"], again["commit"], again["sent"]) == (seen["url"], seen["commit"], 0)
    assert len(hub.store.repositories["models", REPO].pull_requests) == 1


def test_who_may_not_write_to_a_repository_can_still_propose_a_result(hub, publish, result, tmp_path):
    publish(result)
    newer = write_result(tmp_path / "newer", {"model.safetensors": b"newer"})
    seen = publish(newer, repo=REPO, create_pr=True, environment={"HF_TOKEN": "hf_other"})

    assert published(hub, revision="refs/pr/1") == content_of(newer)
    assert seen["url"].endswith("/discussions/1")
    refused = publish(newer, repo="tester/new", create_pr=True, environment={"HF_TOKEN": "hf_other"})
    assert refused["message"] == "other may not write under 'tester'"


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub, publish, result):
    hub.drop_next("POST", "/commit/main", after_bytes=10**6)
    seen = publish(result, create_pr=True)

    assert seen["pull_request"] == "refs/pr/1"
    assert len(hub.store.repositories["models", REPO].pull_requests) == 1
    assert published(hub) == {}, "a new repository is made, and its main branch waits for the merge"


def test_tags_and_the_collection_come_after_the_commit_and_a_second_time_changes_nothing(hub, publish, result):
    hub.store.collections[SLUG] = []
    hub.fail_next("POST", "/tag/", status=503)
    seen = publish(result, tags=("v1.0", "covid/first"), collection=SLUG)

    assert hub.store.repositories["models", REPO].tags == {"v1.0": seen["commit"], "covid/first": seen["commit"]}
    assert hub.store.collections == {SLUG: [REPO]}
    assert seen["waits"] == [1.0]
    assert "error" not in publish(result, tags=("v1.0",), collection=SLUG)
    assert hub.store.collections == {SLUG: [REPO]}


def test_a_tag_is_never_moved(hub, publish, result, tmp_path):
    first = publish(result, tags=("v1",))
    newer = write_result(tmp_path / "newer", {"model.safetensors": b"newer"})

    late = publish(newer, tags=("v1",))
    assert late["message"] == f"the result is at {hub.url}/{REPO}, but its tag v1 names {first['commit'][:12]}"
    early = publish(newer, tags=("v1",))
    assert early["message"] == f"{REPO} has a tag v1 on another commit, {first['commit'][:12]}"
    assert all("choose another --tag" in seen["hint"] for seen in (late, early))
    assert hub.store.repositories["models", REPO].tags == {"v1": first["commit"]}


def test_a_collection_that_is_not_there_is_told_before_any_work(hub, publish, result):
    seen = publish(result, collection=SLUG)

    assert seen["message"] == f"the collection {SLUG} is not there, or the token may not see it"
    assert hub.seen("POST", "") == []


@pytest.mark.parametrize(("options", "message", "hint"), [
    (PushOptions(tags=("v 1",)), "'v 1' cannot be a git tag", "v1.0"),
    (PushOptions(tags=("ok", "-d")), "'-d' cannot be a git tag", "v1.0"),
    (PushOptions(tags=("a..b",)), "'a..b' cannot be a git tag", "v1.0"),
    (PushOptions(tags=("",)), "'' cannot be a git tag", "v1.0"),
    (PushOptions(tags=("$(reboot)\n",)), "cannot be a git tag", "v1.0"),
    (PushOptions(tags=("v1",), create_pr=True), "no commit on the main branch", "leave out --tag"),
    (PushOptions(collection="erased"), "'erased' is not the slug of a collection", "owner/title"),
])
def test_terms_that_cannot_be_are_a_usage_error(options, message, hint):
    with pytest.raises(UsageError) as caught:
        options.require_sound()
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_a_public_result_of_a_base_that_is_not_public_needs_a_yes(hub, publish, result, tmp_path, kind):
    (tmp_path / "base").mkdir()
    base = "tester-lab/closed"
    hub.add_repo(base, tmp_path / "base", **{kind: True})

    seen = publish(result, base=base, repo="tester/mine")
    assert (seen["error"], seen["message"]) == ("ConsentNeeded", f"{base} is {kind}, and tester/mine would be public")
    assert "--yes" in seen["hint"]
    assert "--private" in seen["hint"]
    assert hub.seen("POST", "") == []
    assert "error" not in publish(result, base=base, repo="tester/mine", is_private=True)
    assert hub.seen("PUT", "/settings") == [], "a private repository needs no gate"
    hub.fail_next("PUT", "/settings", status=503)
    assert publish(result, base=base, repo="tester/public", yes=True)["waits"] == ([1.0] if kind == "gated" else [])
    assert hub.store.repositories["models", "tester/public"].is_gated == (kind == "gated")


def test_a_job_with_an_identity_pushes_without_a_stored_token(hub, publish, result):
    hub.store.create("models", REPO, "tester")
    hub.store.publishers["signed by the runner"] = (REPO, "hf_job")
    hub.accounts["hf_job"] = Account("tester", only=REPO)
    keyless = {"HF_TOKEN": "", "HF_OIDC_RESOURCE": REPO, "HF_OIDC_ID_TOKEN": "signed by the runner"}

    publish(result, environment=keyless)

    assert published(hub) == content_of(result)
    assert {request.token for request in hub.requests if request.path.startswith("/api/models/")} == {"hf_job"}
    assert len(hub.seen("POST", "/oauth/token")) == 1
    assert hub.seen("GET", "/api/whoami-v2") == [], "the token stands for a repository, not for an account"


def test_a_job_is_told_what_its_identity_is_not_good_for(hub, publish, result):
    hub.store.publishers["signed"] = (REPO, "hf_job")
    hub.accounts["hf_job"] = Account("tester", only=REPO)
    keyless = {"HF_TOKEN": "", "HF_OIDC_RESOURCE": REPO, "HF_OIDC_ID_TOKEN": "signed"}

    assert publish(result, environment=keyless)["message"] == f"{REPO} is not there, and a keyless token makes no repository"
    assert "Trusted Publishers" in publish(result, environment=keyless | {"HF_OIDC_ID_TOKEN": "forged"})["hint"]
    elsewhere = publish(result, repo="tester/else", environment=keyless)
    assert elsewhere["message"] == f"HF_OIDC_RESOURCE gives a token for {REPO}, and the target is tester/else"
    nobody = publish(result, environment={"HF_TOKEN": "", "HF_OIDC_RESOURCE": REPO, "GITHUB_ACTIONS": ""})
    assert nobody["message"] == "HF_OIDC_RESOURCE is set, and this job has no identity to show to the Hub"
    assert "id-token: write" in nobody["hint"]
    assert hub.seen("POST", "/commit/") == []


def test_the_base_of_a_plain_name_is_not_looked_for(hub, publish, result):
    publish(result, base="Pico-Instruct")
    assert hub.seen("GET", f"/api/models/{BASE}") == []
