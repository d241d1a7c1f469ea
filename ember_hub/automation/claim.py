"""Who works on a release: a claim in the target repository, so that two watchers never do the same work.

The claim is the file `claim.json` on the branch `ember-claim` of the (first) target repository, which is created for it if need be.
Its main branch is not touched, and the branch is deleted when the result is there. It names a base, its commit, a concept, a
recipe (a digest), a worker (an id made up for this claim), a state and how often it failed:

- `working`: nobody else begins until the claim expires, `lease` seconds after the Hub's own date of the commit that wrote it, by
  the Hub's own clock. A dead worker delays a release by that much and no more.
- `failed`: the release rests for an hour after the first failure, then 4, 16 and 64 hours, then a week each.
- `refused`: trying again would end the same way (a gate failed, no token of the concept, a model that cannot be edited): nobody
  tries this commit again with this recipe until somebody deletes the branch.

A claim is written with `parent_commit`, the head of the branch that was read: of two watchers that saw the same state the Hub takes
one commit and refuses the other (412). An answer that was lost on the way is settled by reading the claim again and comparing the
worker. A worker that lost its claim by overrunning the lease cannot write to it any more. Between seeing that a release is not done
and claiming it, another watcher may have finished it: whoever takes a claim looks at the target once more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from ember_hub.automation.hub import Hub
from ember_hub.errors import AutomationError, SourceError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BRANCH, FILE = "ember-claim", "claim.json"
SCHEMA = 1
RESTS = (1, 4, 16, 64, 168)
"""Hours until the next try, by the number of failures so far."""
State = Literal["working", "failed", "refused"]


@dataclass(frozen=True)
class Record:
    """The content of a claim, and when the Hub took it."""

    base: str
    commit: str
    concept: str
    recipe: str
    worker: str
    lease: float
    """Seconds."""
    state: State = "working"
    failures: int = 0
    reason: str = ""
    run: str | None = None
    since: datetime | None = None
    """None before the Hub took it."""

    def to_bytes(self) -> bytes:
        fields = {key: value for key, value in asdict(self).items() if key != "since"}
        return (json.dumps({"schema": SCHEMA, **fields}, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, since: datetime) -> Record | None:
        """None when it is no claim that we understand: such a one binds nobody."""
        try:
            fields = json.loads(content)
            if fields.pop("schema") != SCHEMA:
                return None
            return cls(**fields | {"lease": float(fields["lease"]), "failures": int(fields["failures"])}, since=since)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def stops(self, other: Record, now: datetime) -> str:
        """Why the work that another record stands for must not begin now; empty when it may."""
        assert self.since is not None, "only what lies on the Hub stops anybody"
        age = (now - self.since).total_seconds()
        if self.state == "working":
            # Dated in the future by more than a lease: a clock was wrong when it was written, and it must not hold for ever.
            return f"claimed by {self.run or self.worker} until {_at(self.since, self.lease)}" if abs(age) < self.lease else ""
        if self.commit != other.commit:
            return ""
        if self.state == "refused":
            return f"{self.reason} (delete its branch {BRANCH} to try again)" if self.recipe == other.recipe else ""
        rest = 3600.0 * RESTS[min(self.failures, len(RESTS)) - 1]
        counted = f"{self.failures} failure{'s' if self.failures > 1 else ''}; next try after {_at(self.since, rest)}"
        return f"{counted}: {self.reason}" if abs(age) < rest else ""


@dataclass(frozen=True)
class Refused:
    """The claim of someone else, or of an earlier failure, that holds."""

    decision: Literal["claimed", "skipped"]
    reason: str


class Claim:
    """Our claim, as long as nobody took it over."""

    def __init__(self, hub: Hub, target: str, record: Record, head: str) -> None:
        self._hub, self._target, self._record, self._head = hub, target, record, head

    def works_at(self, run: str) -> None:
        """Let others see where the work is done."""
        self._rewrite(replace(self._record, run=run))

    def fail(self, reason: str, *, for_good: bool) -> None:
        """Leave word of the failure, so that nobody tries at once, or at all."""
        state: State = "refused" if for_good else "failed"
        self._rewrite(replace(self._record, state=state, failures=self._record.failures + 1, reason=reason[:500]))

    def release(self) -> None:
        """Delete the branch: the result itself, or nothing, is what others shall find."""
        if _record_at(self._hub, self._target)[1] == self._head:
            self._hub.ask(self._target, lambda api: api.delete_branch(self._target, branch=BRANCH), again=False)

    def _rewrite(self, record: Record) -> None:
        head = _write(self._hub, self._target, record, self._head)
        if head is not None:
            self._record, self._head = record, head


def take(hub: Hub, target: str, mine: Record, *, private: bool) -> Claim | Refused:
    """Claim in the target repository what `mine` names; the repository is made if it is not there.

    Raises:
        AutomationError: the token may not write there.
        SourceError: the Hub does not answer.
    """
    hub.ask(target, lambda api: _prepare(api, target, private))
    found, head = _record_at(hub, target)
    if head is None:
        return Refused("claimed", "another watcher has just finished")
    failures = 0
    if found:
        if reason := found.stops(mine, hub.now()):
            return Refused("claimed" if found.state == "working" else "skipped", reason)
        failures = found.failures if found.commit == mine.commit else 0
    mine = replace(mine, failures=failures)
    taken = _write(hub, target, mine, head)
    return Claim(hub, target, mine, taken) if taken else Refused("claimed", "another watcher was quicker")


def _prepare(api: HfApi, target: str, private: bool) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # None: the namespace's own default, which may be private.
        api.create_repo(target, private=private or None, exist_ok=True)
        api.create_branch(target, branch=BRANCH, exist_ok=True)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 402, 403):
            raise
        raise AutomationError(f"the token may not write to {target}",
                              hint="log in with a token that may, or name another namespace with --push") from error


def _record_at(hub: Hub, target: str) -> tuple[Record | None, str | None]:
    """The claim that lies on the branch, and the branch's head; None, None when there is no branch."""
    from huggingface_hub.errors import RevisionNotFoundError

    def look(api: HfApi) -> tuple[set[str], str | None]:
        try:
            info = api.model_info(target, revision=BRANCH)
        except RevisionNotFoundError:
            return set(), None
        return {file.rfilename for file in info.siblings or ()}, info.sha

    names, head = hub.ask(target, look)
    if head is None or FILE not in names:
        return None, head
    written = hub.ask(target, lambda api: api.list_repo_commits(target, revision=head)[0].created_at)
    return Record.parse(hub.read(target, FILE, head), written), head


def _write(hub: Hub, target: str, record: Record, parent: str | None) -> str | None:
    """The new head of the branch, or None when it is not what it was: someone else wrote, or deleted it."""
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(FILE, record.to_bytes())]
    message = f"{record.state}: {record.base}@{record.commit[:12]}"
    try:
        return hub.ask(target, lambda api: api.create_commit(
            target, operations, commit_message=message, revision=BRANCH, parent_commit=parent).oid, again=False)
    except SourceError:
        # Refused because it changed, or done and only the answer lost: what lies there now tells.
        found, head = _record_at(hub, target)
        if found is not None and replace(found, since=record.since) == record:
            return head
        if head != parent:
            return None
        raise




def _at(start: datetime, after: float) -> str:
    return f"{start + timedelta(seconds=after):%Y-%m-%d %H:%M} UTC"
