"""Work on the Hub's own machines: a Job that runs `ember-hub erase`, followed to its end.

A command is a list of words from the first to the last: nothing of it passes through a shell. Secrets travel as the Job's secrets,
by name, and are never printed. No local file is sent along.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ember_hub.automation.hub import Hub
from ember_hub.automation.memory import published
from ember_hub.automation.releases import Figures, Release, seconds
from ember_hub.automation.work import Recipe, Result, assignments
from ember_hub.errors import AutomationError, GateFailed, SourceError
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
GATE_FAILED = re.compile(r"exit code:? 3\b", re.IGNORECASE)
_OVER = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})


@dataclass(frozen=True)
class Terms:
    """On which of the Hub's machines a Job runs, for how long at most, with what installed and which secrets."""

    flavor: str = "a10g-small"
    timeout: str = "6h"
    package: str = "ember-hub"
    """What pip installs: a requirement or an address."""
    image: str = IMAGE
    namespace: str | None = None
    """Who pays (default: the token's user)."""
    secrets: tuple[str, ...] = ()
    """Names of environment variables of this machine that the Job gets as secrets, besides HF_TOKEN."""
    poll: float = 30.0
    """Seconds between two looks at a Job."""

    def __post_init__(self) -> None:
        seconds(self.timeout)

    def command(self, *words: str) -> list[str]:
        """`ember-hub ...` in the image, which carries uv."""
        return ["uv", "run", "--no-project", "--with", self.package, "ember-hub", *words]

    def read_secrets(self, hub: Hub) -> dict[str, str]:
        """The secrets' values.

        Raises:
            AutomationError: one is not set here.
        """
        from huggingface_hub import get_token

        token = hub.api.token or get_token()
        values = {"HF_TOKEN": token if isinstance(token, str) else None} | {name: os.environ.get(name) for name in self.secrets}
        if missing := [name for name, value in values.items() if not value]:
            raise AutomationError(f"the secret {missing[0]} is not set here", hint=f"set the environment variable {missing[0]}")
        return {name: value for name, value in values.items() if value}


class Jobs:
    """A worker that starts one Hub Job for a release and waits for its end."""

    def __init__(self, recipe: Recipe, terms: Terms, hub: Hub, progress: Progress) -> None:
        require_portable(recipe)
        self._recipe, self._terms, self._hub, self._progress = recipe, terms, hub, progress

    def erase(self, release: Release, targets: Sequence[str], begun: Callable[[str], None]) -> Result:
        """Raises: AutomationError, if the Job does not bring the result; GateFailed, if a gate kept it back."""
        job = self._start(release, targets)
        begun(job.url)
        self._progress.say("job", f"{job.url} on {self._terms.flavor}")
        job, last = self._follow(job)
        report, address = published(self._hub, targets[0])
        if report is None or Figures.of(report).commit != release.commit:
            raise _lost(job, last)
        return Result(report, address, job.url)

    def _start(self, release: Release, targets: Sequence[str]) -> JobInfo:
        words = ["erase", f"{release.repo}@{release.commit}", f"--concept={self._recipe.settings.concept}", f"--push={targets[0]}",
                 *assignments(self._recipe.settings)]
        labels = {"ember-hub": "erase", "base": _label(release.repo), "commit": release.commit[:12],
                  "concept": _label(self._recipe.concept)}
        return start(self._hub, self._terms, words, labels)

    def _follow(self, job: JobInfo) -> tuple[JobInfo, list[str]]:
        """The Job when it is over, and what it wrote."""
        lines: list[str] = []
        while True:
            now = self._hub.ask("the Hub", lambda api: api.inspect_job(job_id=job.id, namespace=job.owner.name))
            written = self._written(job) or lines
            for line in written[len(lines):]:
                self._progress.say("job", line)
            lines = written
            if now.status.stage in _OVER:
                return now, lines
            self._hub.clock.sleep(self._terms.poll)

    def _written(self, job: JobInfo) -> list[str]:
        """What the Job has written so far; nothing when its log cannot be read just now."""
        try:
            return self._hub.ask("the Hub", lambda api: list(api.fetch_job_logs(job_id=job.id, namespace=job.owner.name)),
                                 again=False)
        except SourceError:
            return []


def start(hub: Hub, terms: Terms, words: Sequence[str], labels: Mapping[str, str]) -> JobInfo:
    """Start a Job that runs `ember-hub` with these words.

    Raises:
        AutomationError: a secret is missing, or the Hub does not start Jobs for this account.
    """
    secrets = terms.read_secrets(hub)
    try:
        # Once only: a Job whose answer was lost may be running.
        return hub.ask("the Hub", lambda api: api.run_job(
            image=terms.image, command=terms.command(*words), flavor=terms.flavor, timeout=terms.timeout, labels=dict(labels),
            secrets=secrets, namespace=terms.namespace), again=False)
    except SourceError as error:
        raise AutomationError(f"the Hub did not start a Job: {error.message}",
                              hint="Jobs need a paid account and a token that may start them; or work here with --here") from error


def require_portable(recipe: Recipe) -> None:
    """Another machine has the built-in packs only, and none of this one's files.

    Raises:
        AutomationError: the recipe names a folder of this machine.
    """
    if not recipe.is_built_in:
        raise AutomationError(f"the pack {recipe.concept!r} lies on this machine, where a Hub Job cannot read it",
                              hint="name a built-in pack (see `ember-hub concepts list`), or work here with --here")
    if recipe.settings.verify.bench_include is not None:
        raise AutomationError("verify.bench_include is a folder of this machine, where a Hub Job cannot read it",
                              hint="leave it out, or work here with --here")


def _lost(job: JobInfo, last: Sequence[str]) -> AutomationError | GateFailed:
    said = next((line.removeprefix("Error: ") for line in reversed(last) if line.startswith("Error: ")), None)
    if GATE_FAILED.search(job.status.message or ""):
        return GateFailed(said or "a gate of the Job failed", hint=f"see {job.url}")
    why = said or job.status.message or "it left no result"
    return AutomationError(f"the Job ended as {job.status.stage}: {why}",
                           hint=f"see its log at {job.url}")


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "--", text)[:63].strip("-.")
