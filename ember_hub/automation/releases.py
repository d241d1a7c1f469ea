"""What is watched, what was found, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ember_hub.errors import ConfigError
from ember_hub.publish.push import LONGEST, default_repo
from ember_hub.source.ref import is_repo_id

SCHEMA = 1
"""Of the JSON line of a decision."""
Verdict = Literal["erased", "done", "claimed", "skipped", "failed", "new"]
Output = Literal["full", "patch", "both"]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MULTIPLES = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Watch:
    """Which releases are of interest, and where their results go.

    A named model always is; a model of an organization if it was created within `since`, or if an earlier commit of it was erased.
    """

    orgs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    name: str | None = None
    """Regular expression that has to be found in the repository's id."""
    max_parameters: str | None = None
    """With K, M or B: 10B."""
    licences: tuple[str, ...] = ()
    """Ids as the Hub writes them (apache-2.0); empty: any."""
    since: str = "30d"
    """Counted from when the repository was made: one that was private at first may be weeks old when it is released."""
    limit: int = 50
    """How many of an organization's newest and most recently changed models are looked at."""
    namespace: str | None = None
    """User or organization that the results are pushed to (default: the token's user)."""
    claim: str = "24h"
    """How long a claim holds; longer than the longest run."""

    def __post_init__(self) -> None:
        for name in (*self.orgs, *((self.namespace,) if self.namespace else ())):
            if "/" in name or not is_repo_id(name):
                raise ConfigError(f"{name!r} is no user or organization", hint="write its name as in its address on the Hub")
        for model in self.models:
            if "/" not in model or not is_repo_id(model):
                raise ConfigError(f"{model!r} is not the id of a repository", hint="write it as org/name")
        if not self.orgs and not self.models:
            raise ConfigError("nothing is watched", hint="name it with --org NAME or --model ORG/NAME")
        if self.limit < 1:
            raise ConfigError(f"limit = {self.limit}: has to be at least 1", hint="see `ember-hub watch --help`")
        try:
            re.compile(self.name or "")
        except re.error as error:
            raise ConfigError(f"{self.name!r} is no regular expression: {error}", hint="write --filter name=REGEX") from error
        for text in (self.since, self.claim):
            seconds(text)
        _number(self.max_parameters or "1")

    @property
    def parameters(self) -> int | None:
        """`max_parameters` as a number."""
        return None if self.max_parameters is None else _number(self.max_parameters)

    def covers(self, repo: str) -> bool:
        """Whether the repository is one of those that are watched, by its id alone."""
        is_named = repo in self.models or repo.split("/")[0] in self.orgs
        return is_named and is_repo_id(repo) and (self.name is None or re.search(self.name, repo) is not None)


@dataclass(frozen=True)
class Release:
    """One commit of a watched base."""

    repo: str
    commit: str
    files: Mapping[str, str]
    """The hash of each file that decides what an erasure gives: weights, configuration, tokenizer."""


@dataclass(frozen=True)
class Figures:
    """The headline of a result; fractions, None where it was not measured. `commit` is the base's."""

    commit: str
    efficacy: float | None
    specificity: float | None
    coherence: float | None
    recovered: float | None
    passed: bool
    """Whether every gate of the run held."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Figures:
        """What a report says at its top."""
        measured = {name: report.get(name) for name in ("efficacy", "specificity", "coherence", "recovered")}
        passed = all(gate["passed"] for gate in report.get("gates", ()))
        return cls(commit=str(report["model"]["commit"]), passed=passed, **measured)


@dataclass(frozen=True)
class Decision:
    """What became of one release: a line of `ember-hub watch --json`.

    `erased` now, `done` earlier, `claimed` by another watcher, `skipped` or `failed` for the `reason`, `new` in a dry run.
    """

    repo: str
    commit: str | None
    concept: str
    decision: Verdict
    reason: str = ""
    target: str | None = None
    """The repository of the result; the patch's where both forms are made is this name with `-patch`."""
    run: str | None = None
    """The run folder, or the address of the Hub Job."""
    report: str | None = None
    """Path of report.json, or its address on the Hub."""
    result: Figures | None = None
    before: Figures | None = None
    """The result for an earlier commit of the same base, which this one replaces."""
    gate_failed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}


def targets(namespace: str, base: str, concept: str, form: Output) -> tuple[str, ...]:
    """The repositories that a result goes to; the first carries the claim."""
    if form != "both":
        return (default_repo(namespace, base, concept, "model" if form == "full" else "patch"),)
    patch = default_repo(namespace, base, concept, "patch")
    assert len(patch) <= LONGEST
    return patch.removesuffix("-patch"), patch


def seconds(text: str) -> float:
    """A length of time such as 90s, 30m, 6h or 7d.

    Raises:
        ConfigError: it is none, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip().lower())
    if not match or not float(match[1]):
        raise ConfigError(f"{text!r} is no length of time", hint="write it as 30m, 6h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def _number(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbt]?)", text.strip().lower())
    if not match:
        raise ConfigError(f"{text!r} is no number of parameters", hint="write it as 500M or 10B")
    return int(float(match[1]) * _MULTIPLES[match[2]])
