"""The way through a round: find releases, leave those that are done or claimed, do the others, say what became of each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ember_hub.automation.claim import Claim, Record, Refused, take
from ember_hub.automation.discovery import Candidate, Unsuited, examine, of_organization, of_repository
from ember_hub.automation.hub import Hub
from ember_hub.automation.memory import Known, published, recall
from ember_hub.automation.releases import Decision, Figures, Release, Verdict, Watch, seconds, targets
from ember_hub.automation.work import Recipe, Result, Worker
from ember_hub.errors import (
    AutomationError,
    EditError,
    EmberHubError,
    FeatureError,
    GatedModel,
    GateFailed,
    RunError,
    SourceError,
    UnsupportedModel,
    UsageError,
)
from ember_hub.progress import Progress, Quiet

_NOT_EDITABLE = (UnsupportedModel, FeatureError, EditError)
"""The release cannot be edited with this recipe, now or later."""
_PUBLIC = (*_NOT_EDITABLE, GateFailed, AutomationError)
"""Errors whose message speaks of the release and the Hub only, not of folders of this machine."""


@dataclass(frozen=True)
class _Task:
    """One release on its way."""

    release: Release
    targets: tuple[str, ...]
    before: Figures | None


class Watcher:
    """Looks at what is watched, and has a worker erase from what is new; `worker` None only says what would be done."""

    def __init__(self, watch: Watch, recipe: Recipe, hub: Hub, worker: Worker | None, progress: Progress | None = None) -> None:
        self._watch, self._recipe, self._hub, self._worker = watch, recipe, hub, worker
        self._progress = progress or Quiet()

    @cached_property
    def namespace(self) -> str:
        """Who the results belong to.

        Raises:
            AutomationError, SourceError: it is the token's user, and the Hub does not say who that is.
        """
        return self._watch.namespace or self._hub.user()

    def poll(self) -> Iterator[Decision]:
        """One round, each release as soon as it is settled. What fails is a decision too, and the others go on.

        Raises:
            AutomationError, SourceError: nothing can be done without the token's user.
            UsageError: the recipe itself is wrong.
        """
        assert self.namespace
        seen: set[str] = set()
        for candidate in self._candidates():
            if isinstance(candidate, Decision):
                yield candidate
            elif candidate.repo not in seen:
                seen.add(candidate.repo)
                yield self._guarded(candidate.repo, candidate)

    def keep_polling(self, every: float) -> Iterator[Decision]:
        """Round after round, `every` so many seconds; a round in which the Hub is out of reach is one that failed."""
        while True:
            try:
                yield from self.poll()
            except SourceError as error:
                yield self._decision("the Hub", None, "failed", _said(error))
            self._hub.clock.sleep(every)

    def look_at(self, repo: str) -> Decision:
        """What becomes of one repository that the watch covers, as in a round.

        Raises:
            UsageError: the recipe itself is wrong: it would fail for every release.
        """
        return self._guarded(repo, None)

    def _guarded(self, repo: str, candidate: Candidate | None) -> Decision:
        try:
            return self._settle(candidate or of_repository(self._hub, self._watch, repo))
        except UsageError:
            raise
        except EmberHubError as error:
            return self._decision(repo, None, "failed", _said(error))

    def _candidates(self) -> Iterator[Candidate | Decision]:
        yield from (Candidate(model) for model in self._watch.models if self._watch.covers(model))
        for org in self._watch.orgs:
            try:
                yield from of_organization(self._hub, self._watch, org)
            except SourceError as error:
                yield self._decision(org, None, "failed", _said(error))

    def _settle(self, candidate: Candidate) -> Decision:
        repo = candidate.repo
        places = targets(self.namespace, repo, self._recipe.concept, self._recipe.settings.publish.form)
        if candidate.is_recent is False and published(self._hub, places[0])[0] is None:
            return self._decision(repo, None, "skipped", f"it was made more than {self._watch.since} ago, and never erased")
        release = examine(self._hub, self._watch, repo)
        if isinstance(release, Unsuited):
            return self._decision(repo, release.commit, "skipped", release.reason)
        known = recall(self._hub, places, release, self._recipe.concept)
        if known.done:
            return self._done(release, places, known)
        task = _Task(release, places, known.before)
        if self._worker is None:
            return self._tell(task, "new", "")
        claim = take(self._hub, places[0], self._record(release), private=self._recipe.settings.publish.private)
        if isinstance(claim, Refused):
            return self._tell(task, claim.decision, claim.reason)
        return self._work(task, claim, self._worker)

    def _work(self, task: _Task, claim: Claim, worker: Worker) -> Decision:
        """Do what was claimed, and leave the claim as others shall find it, whatever happens."""
        is_open = True
        try:
            # Another watcher may have finished it between our look and our claim.
            known = recall(self._hub, task.targets, task.release, self._recipe.concept)
            if known.done:
                return self._done(task.release, task.targets, known)
            self._progress.say("release", f"{task.release.repo} at {task.release.commit[:12]} for {' and '.join(task.targets)}")
            result = worker.erase(task.release, task.targets, claim.works_at)
            if result.is_pushed:
                return self._made(task, result)
            is_open = False
            claim.fail(reason := _gates(result), for_good=True)
            return self._made(task, result, "failed", reason)
        except (UsageError, RunError, GatedModel):
            # Not the release's fault: the claim is given back.
            raise
        except EmberHubError as error:
            is_open = False
            for_good = isinstance(error, (*_NOT_EDITABLE, GateFailed))
            claim.fail(_in_public(error), for_good=for_good)
            verdict: Verdict = "skipped" if isinstance(error, _NOT_EDITABLE) else "failed"
            return self._tell(task, verdict, _said(error), gate_failed=isinstance(error, GateFailed))
        finally:
            if is_open:
                # What cannot be taken back now expires.
                with suppress(SourceError):
                    claim.release()

    def _record(self, release: Release) -> Record:
        return Record(release.repo, release.commit, self._recipe.concept, self._recipe.digest, secrets.token_hex(6),
                      seconds(self._watch.claim))

    def _done(self, release: Release, places: tuple[str, ...], known: Known) -> Decision:
        return self._decision(release.repo, release.commit, "done", known.done, target=places[0], report=known.report,
                              result=known.before)

    def _made(self, task: _Task, result: Result, verdict: Verdict = "erased", reason: str = "") -> Decision:
        figures = Figures.of(result.report)
        return self._tell(task, verdict, reason, run=result.run, report=result.report_path, result=figures,
                          gate_failed=not figures.passed)

    def _tell(self, task: _Task, verdict: Verdict, reason: str, **more: Any) -> Decision:
        release = task.release
        return self._decision(release.repo, release.commit, verdict, reason, target=task.targets[0], before=task.before, **more)

    def _decision(self, repo: str, commit: str | None, verdict: Verdict, reason: str, **more: Any) -> Decision:
        return Decision(repo, commit, self._recipe.concept, verdict, reason, **more)


def _gates(result: Result) -> str:
    said = {gate["name"]: "not measured" if gate["value"] is None else gate["value"] for gate in result.report["gates"]}
    failed = (gate for gate in result.report["gates"] if not gate["passed"])
    return "; ".join(f"{gate['name']} is {said[gate['name']]}, the limit is {gate['limit']}" for gate in failed)


def _in_public(error: EmberHubError) -> str:
    return error.message if isinstance(error, _PUBLIC) else type(error).__name__


def _said(error: EmberHubError) -> str:
    return f"{error.message} ({error.hint})"


