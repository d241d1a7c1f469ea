"""What lies in the target repository, and whether it may be replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ember_hub.errors import PushRejected
from ember_hub.publish.push.local import REPORT_FILE
from ember_hub.publish.push.patience import Patience
from ember_hub.publish.push.target import Target, page

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

SUMS_FILE = "reproduce/SHA256SUMS"
"""A published result lists its own files there, as `sha256sum` writes them."""


@dataclass(frozen=True)
class Remote:
    """A repository at one commit; `head` is None when there is no such repository."""

    head: str | None
    is_private: bool
    files: Mapping[str, RepoFile]


def look(api: HfApi, repo: str, patience: Patience, revision: str | None = None) -> Remote:
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = patience.call(lambda: api.model_info(repo, revision=revision))
    except RepositoryNotFoundError as error:
        # The client raises the same for a token that is no longer accepted.
        if error.response.status_code != 404:
            raise
        return Remote(None, False, {})
    tree = api.list_repo_tree(repo, recursive=True, revision=info.sha)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path != ".gitattributes"}
    return Remote(info.sha, bool(info.private), files)


def refuse_foreign(api: HfApi, remote: Remote, target: Target) -> None:
    """Refuse a repository that holds anything but an earlier result of ours for the same base, concept and form.

    Raises:
        PushRejected: that, or it is public and shall be private, or it changed since `preflight`.
    """
    if target.options.is_private and remote.head and not remote.is_private:
        raise PushRejected(f"{target.repo} is public, and a private push was asked for",
                           hint=f"make it private at {page(target.repo)}/settings, or name another repository")
    if target.head not in (None, remote.head):
        raise PushRejected(f"{target.repo} changed while this run was working",
                           hint=f"look at {page(target.repo)}/commits/main, then push again")
    if not remote.files:
        return
    other = f"name another repository, or empty {page(target.repo)}"
    if REPORT_FILE not in remote.files:
        raise PushRejected(f"{target.repo} holds files that are no result of ember-hub", hint=other)
    found = _earlier(api, target.repo, remote)
    if found != (target.base, target.concept):
        raise PushRejected(f"{target.repo} holds the result for {found[1]!r} on {found[0]}", hint=other)
    form = "patch" if "adapter_config.json" in remote.files else "model"
    if form != target.form:
        # A folder with both loads as one or the other, depending on who loads it.
        raise PushRejected(f"{target.repo} holds a {form}, this is a {target.form}", hint=other)


def listed_files(api: HfApi, repo: str, remote: Remote) -> frozenset[str]:
    """The files that the earlier result says are its own; none where it does not say."""
    if SUMS_FILE not in remote.files:
        return frozenset()
    text = Path(api.hf_hub_download(repo, SUMS_FILE, revision=remote.head)).read_text(encoding="utf-8", errors="replace")
    return frozenset(line.partition(" ")[2].lstrip(" *") for line in text.splitlines())


def _earlier(api: HfApi, repo: str, remote: Remote) -> tuple[str, str]:
    """Base and concept of the result that lies there."""
    report = Path(api.hf_hub_download(repo, REPORT_FILE, revision=remote.head)).read_bytes()
    try:
        model, concept = (content := json.loads(report))["model"], content["concept"]["name"]
        return str(model["repo_id"] or model["name"]), str(concept)
    except (ValueError, KeyError, TypeError) as error:
        raise PushRejected(f"{repo} has a {REPORT_FILE} that cannot be read", hint="name another repository") from error
