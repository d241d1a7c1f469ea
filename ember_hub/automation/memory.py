"""What is already done, read from the target repositories themselves: nothing is kept on this machine.

A release is done when `ember/report.json` on the target's main branch names this concept, this base and this commit, or an earlier
commit whose weights, configuration and tokenizer were the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ember_hub.automation.discovery import files_at
from ember_hub.automation.hub import Hub
from ember_hub.automation.releases import Figures, Release
from ember_hub.errors import AutomationError, ModelNotFound
from ember_hub.publish.push import REPORT_FILE


@dataclass(frozen=True)
class Known:
    """The result that lies in the target, if there is one. `done` says why the release needs no work, or is empty."""

    before: Figures | None = None
    done: str = ""
    report: str | None = None
    """Address of the report."""


def recall(hub: Hub, targets: Sequence[str], release: Release, concept: str) -> Known:
    """Whether the release was erased already, in each of its targets.

    Raises:
        AutomationError: a target holds something else, which must not be overwritten.
        SourceError: the Hub does not answer.
    """
    known = [_look(hub, target, release, concept) for target in targets]
    return next((one for one in known if not one.done), known[0])


def published(hub: Hub, repo: str) -> tuple[dict[str, Any] | None, str]:
    """The report on the main branch, None when the repository is empty or not there, and its address.

    Raises:
        AutomationError: it holds files that are no result of ours.
    """
    try:
        info = hub.ask(repo, lambda api: api.model_info(repo))
    except ModelNotFound:
        return None, ""
    names = {file.rfilename for file in info.siblings or ()} - {".gitattributes"}
    if not names:
        return None, ""
    other = "name another namespace with --push, or empty the repository"
    if REPORT_FILE not in names:
        raise AutomationError(f"{repo} holds files that are no result of ember-hub", hint=other)
    address = f"{hub.api.endpoint}/{repo}/resolve/{info.sha}/{REPORT_FILE}"
    try:
        report = json.loads(hub.read(repo, REPORT_FILE, str(info.sha)))
        Figures.of(report), report["model"]["repo_id"], report["concept"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AutomationError(f"{repo} has a {REPORT_FILE} that cannot be read", hint=other) from error
    return report, address


def _look(hub: Hub, target: str, release: Release, concept: str) -> Known:
    report, address = published(hub, target)
    if report is None:
        return Known()
    found = (report["model"]["repo_id"], report["concept"]["name"])
    if found != (release.repo, concept):
        raise AutomationError(f"{target} holds the result for {found[1]!r} on {found[0]}",
                              hint="name another namespace with --push, or empty the repository")
    before = Figures.of(report)
    if before.commit == release.commit:
        return Known(before, "it was erased already", address)
    if files_at(hub, release.repo, before.commit) == release.files:
        return Known(before, f"weights, configuration and tokenizer are those of {before.commit[:12]}, which was erased", address)
    return Known(before)
