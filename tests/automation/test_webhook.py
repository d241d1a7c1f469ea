"""What a webhook may tell a Job, and how one is registered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ember_hub.automation.hub import Hub
from ember_hub.automation.jobs import Terms
from ember_hub.automation.registration import register
from ember_hub.automation.releases import Watch
from ember_hub.automation.webhook import OWN_SECRET, concerned, has_payload
from ember_hub.errors import AutomationError
from ember_hub.progress import Quiet
from tests.automation.world import BASE, StoppedClock, World, recipe

SECRET = "s3cret"
WATCH = Watch(orgs=("maker",), models=("lab/Pico",))


def payload(name: str = BASE, *, action: str = "update", scope: str = "repo.content", kind: str = "model",
            refs: tuple[str, ...] = ("refs/heads/main",), **more: Any) -> str:
    """A payload as the Hub sends it when commits arrive."""
    repo = {"id": "1", "type": kind, "name": name, "private": False, "owner": {"id": "2"}, "head_sha": "c" * 40,
            "url": {"web": "https://huggingface.co/x", "api": "https://huggingface.co/api/x"}, "tags": []}
    moved = [{"ref": ref, "oldSha": "a" * 40, "newSha": "c" * 40} for ref in refs]
    return json.dumps({"event": {"action": action, "scope": scope}, "repo": repo, "updatedRefs": moved,
                       "webhook": {"id": "3", "version": 3}} | more)


def told(text: str, secret: str = SECRET, own: str = SECRET) -> tuple[str | None, str]:
    return concerned({"WEBHOOK_PAYLOAD": text, "WEBHOOK_SECRET": secret, OWN_SECRET: own}, WATCH)


@pytest.mark.parametrize("text", [payload(), payload("lab/Pico"), payload(action="create", scope="repo", refs=()),
                                  payload(refs=("refs/pr/1", "refs/heads/main"))])
def test_a_new_release_is_looked_at(text: str) -> None:
    assert told(text)[0] == json.loads(text)["repo"]["name"]


DISCUSSION = {"discussion": {"id": "4", "num": 1, "author": {"id": "5"}, "url": {"web": "x"}, "title": "t", "isPullRequest": True,
                             "status": "open"}}


@pytest.mark.parametrize(("text", "why"), [
    (payload(scope="discussion", **DISCUSSION), "discussion is no release"),
    (payload(scope="repo.config"), "update of repo.config is no release"),
    (payload(action="delete", scope="repo"), "delete of repo is no release"),
    (payload(refs=("refs/heads/ember-claim",)), "'refs/heads/ember-claim' is not the main branch"),
    (payload(kind="dataset"), "dataset repositories are not watched"),
    (payload("tester/Pico-1B-ember-covid-19-pandemic"), "is not watched"),
    (payload("maker/$(touch x);`id`"), "is not watched"),
    (payload("../../etc/passwd"), "is not watched"),
    (payload("maker/" + "x" * 5000), "is not watched"),
])
def test_anything_else_is_left_alone(text: str, why: str) -> None:
    repo, reason = told(text)
    assert repo is None
    assert why in reason
    assert len(reason) < 200


@pytest.mark.parametrize(("text", "says"), [
    ("no json", "invalid json"),
    ("[]", "no payload of a Hub webhook"),
    (payload().replace('"version": 3', '"version": 2'), "webhook.version"),
    (" " * (2 << 20), "2,097,152 characters"),
    ("[" * 100_000, "no payload of a Hub webhook"),
])
def test_what_is_no_payload_is_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(AutomationError) as raised:
        told(text)
    assert says in raised.value.message
    assert len(raised.value.message) < 300
    assert "--setup job" in raised.value.hint


@pytest.mark.parametrize(("secret", "own"), [("", SECRET), ("wrong", SECRET), (SECRET + "x", SECRET), ("", ""), (SECRET, ""),
                                             ("gehëim", SECRET)])
def test_a_wrong_secret_is_refused_and_never_repeated(secret: str, own: str) -> None:
    with pytest.raises(AutomationError, match=r"WEBHOOK_SECRET is not (set|the secret)") as raised:
        told(payload(), secret, own)
    assert SECRET not in raised.value.message + raised.value.hint
    assert not secret or secret not in raised.value.message


def test_the_start_that_registers_has_no_payload() -> None:
    assert not has_payload({"WEBHOOK_SECRET": SECRET})


def test_registering_starts_the_job_that_is_copied_and_is_done_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OWN_SECRET, raising=False)
    hub = Hub(StoppedClock(), world.api())
    watch = Watch(orgs=("maker",), models=("lab/Pico",), max_parameters="3B", licences=("mit",))
    terms = Terms(flavor="cpu-basic", timeout="1h")
    registered = register(hub, watch, recipe(), terms, "tester-lab", Quiet())
    (webhook,), (job,) = world.hub.store.webhooks, world.hub.store.jobs.values()
    assert (registered.webhook, registered.is_new) == (webhook["id"], True)
    assert webhook["jobSourceId"] == job.id
    assert webhook["watched"] == [{"type": "org", "name": "maker"}, {"type": "model", "name": "lab/Pico"}]
    assert webhook["domains"] == ["repo"]
    assert webhook["secret"] == webhook["secrets"][OWN_SECRET]
    assert len(webhook["secret"]) >= 32
    assert webhook["secrets"]["HF_TOKEN"] == "hf_test"
    assert webhook["secret"] not in json.dumps(job.spec)
    assert job.spec["command"][5:] == [
        "ember-hub", "watch", "--from-webhook", "--org=maker", "--model=lab/Pico", "--max-parameters=3B", "--licence=mit",
        "--since=30d", "--limit=50", "--claim=24h", "--push=tester-lab", "--here", "--concept=covid", "--json",
        "--set", "methods=[]", "--set", "publish.form=patch"]

    again = register(hub, watch, recipe(), terms, "tester-lab", Quiet())
    assert (again.webhook, again.is_new) == (webhook["id"], False)
    assert len(world.hub.store.jobs) == 1


def test_a_webhook_that_is_refused_is_told(world: World) -> None:
    world.hub.fail_next("POST", "/api/settings/webhooks", status=403)
    with pytest.raises(AutomationError, match="did not take the webhook") as raised:
        register(Hub(StoppedClock(), world.api()), WATCH, recipe(), Terms(flavor="cpu-basic"), "tester", Quiet())
    assert "settings/webhooks" in raised.value.hint
