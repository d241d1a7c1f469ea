"""Webhooks of the loopback Hub, kept and never fired; and the deletion of a branch."""

from __future__ import annotations

import secrets
from typing import Any

from .calls import Account, Call, Refusal, Reply


def listing(call: Call) -> Reply:
    _require_account(call)
    return Reply([_shown(call, webhook) for webhook in call.store.webhooks])


def create(call: Call) -> Reply:
    _require_account(call)
    asked = call.json()
    if ("jobSourceId" in asked) == ("url" in asked):
        raise Refusal(400, "a webhook has either a URL or a Job")
    if "jobSourceId" in asked and asked["jobSourceId"] not in call.store.jobs:
        raise Refusal(404, "Job not found")
    webhook = asked | {"id": secrets.token_hex(12), "disabled": False}
    call.store.webhooks.append(webhook)
    return Reply({"webhook": _shown(call, webhook)})


def delete_branch(call: Call) -> Reply:
    repository, name = call.own_repository(), call.parts["branch"]
    if name == "main":
        raise Refusal(403, "main is protected")
    if repository.branches.pop(name, None) is None:
        raise Refusal(404, f"there is no branch {name}", "RevisionNotFound")
    return Reply({})


def _require_account(call: Call) -> Account:
    if call.account is None:
        raise Refusal(401, "Invalid username or password.")
    return call.account


def _shown(call: Call, webhook: dict[str, Any]) -> dict[str, Any]:
    """A webhook without the values of its secrets."""
    shown = {key: webhook.get(key) for key in ("id", "url", "watched", "domains", "disabled")}
    if job := call.store.jobs.get(webhook.get("jobSourceId", "")):
        shown["job"] = {key: job.spec[key] for key in ("command", "arguments", "environment", "flavor", "dockerImage")}
    return shown
