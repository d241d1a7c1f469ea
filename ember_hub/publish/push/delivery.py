"""The push itself: one commit or pull request, sent again where an answer was lost, and compared with what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.errors import HashMismatch
from ember_hub.progress import Progress, Quiet
from ember_hub.publish.push.changes import Changes, Source, compare, contents_of
from ember_hub.publish.push.local import LARGE, LocalFile, read_folder
from ember_hub.publish.push.patience import Patience, Traffic
from ember_hub.publish.push.rejection import hub_errors
from ember_hub.publish.push.remote import Remote, listed_files, look, refuse_foreign
from ember_hub.publish.push.target import Pushed, Target, page

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MIB = 1 << 20
_REFUSED, _CONFLICTS = range(400, 600), (409, 412)


@dataclass(frozen=True)
class _Made:
    """Where the result lies: a commit, or the pull request with its address."""

    revision: str
    url: str
    pull_request: str | None = None


def push(folder: Path, target: Target, message: str, *, source: Source | None = None, progress: Progress | None = None,
         patience: Patience | None = None) -> Pushed:
    """Bring the folder to the target in one commit, then compare every file's hash with what the Hub lists.

    When everything is there already nothing is sent and the present head is returned. What an interrupted push has
    uploaded is not uploaded again.

    Args:
        source: where the Hub finds the base, to copy from it the files that are the same.

    Raises:
        PushRejected, GatedModel: the Hub says no, cannot be reached, or the target changed since `preflight`.
        NotVerified: the folder is not the output of a finished run.
        HashMismatch: what lies on the Hub is not what was sent.
    """
    from huggingface_hub import HfApi

    progress, patience = progress or Quiet(), patience or Patience()
    local = read_folder(folder, progress)
    with hub_errors(target.repo), patience.on_the_wire() as traffic:
        return _Delivery(HfApi(), target, local, message, progress, patience).run(source, traffic)


@dataclass(frozen=True)
class _Delivery:
    api: HfApi
    target: Target
    local: Mapping[str, LocalFile]
    message: str
    progress: Progress
    patience: Patience

    def run(self, source: Source | None, traffic: Traffic) -> Pushed:
        remote = self._opened()
        listed = listed_files(self.api, self.target.repo, remote)
        changes, made = compare(self.local, remote, listed), _Made(str(remote.head), page(self.target.repo))
        if changes:
            refuse_foreign(self.api, remote, self.target)
            if found := self._pull_request(listed):
                changes, made = Changes((), ()), found
            else:
                changes, made = self._send(self._with_copies(changes, source), remote, listed)
        there = look(self.api, self.target.repo, self.patience, made.pull_request or made.revision)
        _verify(self.target.repo, self.local, there)
        return self._report(changes, made, str(there.head), traffic)

    def _opened(self) -> Remote:
        """The repository, made if it is not there, and gated as the base is while it is empty."""
        remote = look(self.api, self.target.repo, self.patience)
        if remote.head is None:
            # None: the namespace's own default, which may be private.
            private = self.target.options.is_private or None
            self.patience.call(lambda: self.api.create_repo(self.target.repo, private=private, exist_ok=True))
            remote = look(self.api, self.target.repo, self.patience)
        if self.target.gating and not remote.files:
            # Before there is anything to have.
            self.patience.call(lambda: self.api.update_repo_settings(self.target.repo, gated=self.target.gating))
        return remote

    def _with_copies(self, changes: Changes, source: Source | None) -> Changes:
        from huggingface_hub.errors import HfHubHTTPError

        if source is None or not changes.uploads or self.target.form == "patch":
            return changes
        try:
            repo = source.repo
            pinned = source.commit or self.patience.call(lambda: self.api.model_info(repo)).sha
            source = replace(source, commit=pinned)
            return changes.copied_from(source, contents_of(self.api, source), self.local)
        except HfHubHTTPError as error:
            self._say_uploaded(source, error, changes.uploads)
            return changes

    def _send(self, changes: Changes, remote: Remote, listed: frozenset[str]) -> tuple[Changes, _Made]:
        from huggingface_hub.errors import EntryNotFoundError, FileDuplicationError, HfHubHTTPError

        try:
            return changes, self._commit(changes, remote, listed)
        except (FileDuplicationError, EntryNotFoundError, HfHubHTTPError, ValueError) as error:
            # Other storage region, no access, gone: the copy is a saving, not a condition.
            if not _is_about_copies(error, changes):
                raise
            assert changes.source is not None, "nothing is copied from nowhere"
            self._say_uploaded(changes.source, error, changes.copies)
            uploads = changes.without_copies()
            return uploads, self._commit(uploads, remote, listed)

    def _commit(self, changes: Changes, remote: Remote, listed: frozenset[str]) -> _Made:
        from huggingface_hub.errors import HfHubHTTPError

        operations, repo = changes.operations(self.local), self.target.repo
        self._upload(operations)

        def commit() -> _Made:
            made = self.api.create_commit(repo, operations, commit_message=self.message, parent_commit=remote.head,
                                          create_pr=self.target.options.create_pr)
            return _Made(made.oid, made.pr_url or page(repo), made.pr_revision)

        def settled() -> _Made | None:
            return self._already_there(remote, listed)

        try:
            return self.patience.call(commit, settled)
        except HfHubHTTPError as error:
            # The commit that came before may be ours, or another push of the very same result.
            if error.response.status_code in _CONFLICTS and (made := settled()):
                return made
            raise

    def _already_there(self, before: Remote, listed: frozenset[str]) -> _Made | None:
        if self.target.options.create_pr:
            return self._pull_request(listed)
        now = look(self.api, self.target.repo, self.patience)
        is_done = now.head != before.head and not compare(self.local, now, listed)
        return _Made(str(now.head), page(self.target.repo)) if is_done else None

    def _pull_request(self, listed: frozenset[str]) -> _Made | None:
        """An open pull request that holds this very result."""
        if not self.target.options.create_pr:
            return None
        opened = self.patience.call(lambda: list(self.api.get_repo_discussions(
            self.target.repo, discussion_type="pull_request", discussion_status="open")))
        for request in opened:
            if request.title == self.message:
                revision = f"refs/pr/{request.num}"
                there = look(self.api, self.target.repo, self.patience, revision)
                if not compare(self.local, there, listed):
                    return _Made(str(there.head), str(request.url), revision)
        return None

    def _upload(self, operations: list[Any]) -> None:
        """Send the large files one by one, so that progress is known; the commit carries the small ones."""
        large = [change for change in operations if getattr(change, "upload_info", None) and change.upload_info.size >= LARGE]
        with self.progress.steps("uploading (MiB)", sum(addition.upload_info.size // _MIB for addition in large)) as done:
            for addition in large:
                self.api.preupload_lfs_files(self.target.repo, [addition], free_memory=False,
                                             create_pr=self.target.options.create_pr)
                done(addition.upload_info.size // _MIB)

    def _say_uploaded(self, source: Source, error: Exception, paths: Any) -> None:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        self.progress.say("push", f"the Hub copies nothing from {source.repo} ({reason}): {len(paths)} files are uploaded")

    def _report(self, changes: Changes, made: _Made, commit: str, traffic: Traffic) -> Pushed:
        def size(paths: Any) -> int:
            return sum(self.local[path].size for path in paths)

        total, copied, uploaded = size(self.local), size(changes.copies), size(changes.uploads)
        # Xet sends by itself, past the client's own connection, and does not tell how much.
        through_xet = size(path for path in changes.uploads if self.local[path].size >= LARGE) if _has_xet() else 0
        pushed = Pushed(self.target.repo, commit, made.url, {path: file.sha256 for path, file in self.local.items()}, total,
                        copied, total - copied - uploaded, traffic.sent + through_xet, made.pull_request)
        self.progress.say("push", f"{len(self.local)} files · {total / _MIB:,.1f} MiB: {'at most ' if through_xet else ''}"
                                  f"{pushed.sent / _MIB:,.1f} sent, {copied / _MIB:,.1f} copied on the Hub, "
                                  f"{pushed.present / _MIB:,.1f} there before · {made.url}")
        return pushed


def _is_about_copies(error: Exception, changes: Changes) -> bool:
    """Whether it is the source that refuses, and not the target."""
    from huggingface_hub.errors import HfHubHTTPError

    if changes.source is None or not changes.copies:
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _REFUSED and f"/{changes.source.repo}/" in error.response.request.url.path
    return not isinstance(error, ValueError) or error.__cause__ is None


def _has_xet() -> bool:
    from huggingface_hub.constants import HF_HUB_DISABLE_XET

    return not HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _verify(repo: str, local: Mapping[str, LocalFile], remote: Remote) -> None:
    if wrong := [path for path, file in local.items() if not file.is_stored_as(remote.files.get(path))]:
        raise HashMismatch(f"{', '.join(wrong)} at {page(repo)}/tree/{remote.head}: not what was sent",
                           hint="push again; if it stays so, do not use the repository, and report it")
