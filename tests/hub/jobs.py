"""Jobs of the loopback Hub: each is scheduled, then runs, then is over, one step for every look at it.

What a Job does when it runs is the test's: `Store.machine` gets the Job as it was posted and says how it ended.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .calls import Call, Refusal, Reply
from .store import stamp


@dataclass(frozen=True)
class Ended:
    """The end of a Job: COMPLETED or ERROR, what the Hub says of it, and what it wrote."""

    stage: str = "COMPLETED"
    message: str | None = None
    lines: tuple[str, ...] = ()


@dataclass
class Job:
    id: str
    owner: str
    spec: Mapping[str, Any]
    created: str
    steps: list[str] = field(default_factory=lambda: ["SCHEDULING", "RUNNING"])
    ended: Ended | None = None

    def to_json(self, stage: str) -> dict[str, Any]:
        shown = {key: self.spec.get(key) for key in ("command", "arguments", "environment", "flavor", "labels", "dockerImage")}
        return shown | {"id": self.id, "createdAt": self.created, "owner": {"id": "0", "name": self.owner, "type": "user"},
                        "status": {"stage": stage, "message": self.ended.message if self.ended else None},
                        # The Hub never hands out a secret's value.
                        "secrets": dict.fromkeys(self.spec.get("secrets", {}), "")}


def run(call: Call) -> Reply:
    account = call.require_write(call.parts["namespace"])
    job = Job(secrets.token_hex(12), call.parts["namespace"], call.json(), stamp(call.store.time()))
    if job.spec["flavor"] not in ("cpu-basic", "cpu-upgrade", "t4-small", "a10g-small"):
        raise Refusal(400, f"{account.name} may not use {job.spec['flavor']!r}")
    call.store.jobs[job.id] = job
    return Reply(job.to_json("SCHEDULING"))


def inspect(call: Call) -> Reply:
    job = _job(call)
    if job.steps:
        return Reply(job.to_json(job.steps.pop(0)))
    if job.ended is None:
        job.ended = call.store.machine(job.spec)
    return Reply(job.to_json(job.ended.stage))


def logs(call: Call) -> Reply:
    job, time = _job(call), stamp(call.store.time())
    lines = ("===== Job started", *(job.ended.lines if job.ended else ()))
    events = "".join(f"data: {json.dumps({'data': line, 'timestamp': time})}\n\n" for line in lines)
    sha256, size = call.store.add_content([events.encode()])
    return Reply(None, 200, {"Content-Type": "text/event-stream"}, call.store.path(sha256), 0, size)


def _job(call: Call) -> Job:
    job = call.store.jobs.get(call.parts["job"])
    if job is None or job.owner != call.parts["namespace"]:
        raise Refusal(404, "Job not found")
    return job
