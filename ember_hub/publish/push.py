"""Sends an exported folder to the Hub as one commit, and checks there what arrived.

`preflight` answers before the first GPU second whether the push can work; `push` does it. A repository is written to
only if it is empty or holds an earlier result for the same base and concept, and only if nobody changed it since.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ember_hub.errors import GatedModel, HashMismatch, NotVerified, PushRejected
from ember_hub.progress import Progress, Quiet
from ember_hub.source.ref import is_repo_id

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile

Form = Literal["model", "patch"]
REPORT_FILE = "ember/report.json"
"""Where the report lies in a published folder; it is also how an earlier result is recognized."""
LONGEST = 96
_LARGE, _MIB = 8 << 20, 1 << 20
_LOG_IN = "run `hf auth login`, or set HF_TOKEN, with a token that may write: https://huggingface.co/settings/tokens"
_AGAIN = "push again in a few minutes, what was uploaded is kept"
_REFUSALS: Mapping[int, tuple[str, str]] = MappingProxyType({
    401: ("the Hub does not accept the token", _LOG_IN),
    402: ("the account has no room for {repo}", "free storage, or push to another account"),
    403: ("the token may not write to {repo}", _LOG_IN),
    404: ("{repo} is not there, or the token may not see it", "check the name and the token's permissions"),
    412: ("{repo} changed while this run was working", "look at its history, then push again"),
    429: ("the Hub asks to slow down", _AGAIN),
})


@dataclass(frozen=True)
class Target:
    """A repository that may be written to. `head` is the commit that was looked at, None when it does not exist yet."""

    repo: str
    form: Form
    base: str
    concept: str
    is_private: bool
    head: str | None


@dataclass(frozen=True)
class Pushed:
    """What lies on the Hub, as it was verified there: `files` maps each path to its sha256."""

    repo: str
    commit: str
    url: str
    files: Mapping[str, str]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Local:
    path: Path
    size: int
    sha256: str
    git_oid: str

    def is_stored_as(self, remote: RepoFile | None) -> bool:
        if remote is None or remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.git_oid


@dataclass(frozen=True)
class _Remote:
    head: str | None
    is_private: bool
    files: Mapping[str, RepoFile]


def default_repo(user: str, base_name: str, concept: str, form: Form) -> str:
    """`user/base-ember-concept[-patch]`, cut to the Hub's limit. The base comes first: licences such as Llama's ask for it."""
    suffix = "-patch" if form == "patch" else ""
    base, subject = _plain(base_name.rpartition("/")[2]) or "model", _plain(concept).lower() or "concept"
    room = LONGEST - len(f"{user}/-ember-{suffix}")
    subject = subject[: max(room // 2, room - len(base))].rstrip("-.")
    return f"{user}/{base[: room - len(subject)].rstrip('-.')}-ember-{subject}{suffix}"


def preflight(repo: str | None, base: str, concept: str, form: Form, private: bool = False) -> Target:
    """Find out, before any work, whether a push can succeed.

    `repo` None means the default name; `base` is a repository id, or a mere name when the base is not on the Hub.

    Raises:
        PushRejected, GatedModel: no token that may write there, or the repository holds something else.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(repo or "the Hub"):
        account = api.whoami()
    repo = repo or default_repo(account["name"], base, concept, form)
    if "/" not in repo or not is_repo_id(repo):
        raise PushRejected(f"{repo!r} is not the id of a repository", hint=f"write it as {account['name']}/NAME")
    _require_write(account, repo)
    with _hub_errors(repo):
        remote = _look(api, repo)
        target = Target(repo, form, base, concept, private, remote.head)
        _refuse_foreign(api, remote, target)
    return target


def push(folder: Path, target: Target, message: str, progress: Progress | None = None) -> Pushed:
    """Bring the folder to the target in one commit, then compare every file's hash with what the Hub lists.

    When everything is there already nothing is sent and the present head is returned.

    Raises:
        PushRejected, GatedModel: the Hub says no, cannot be reached, or the target changed since `preflight`.
        NotVerified: the folder is not the output of a finished run.
        HashMismatch: what lies on the Hub is not what was sent.
    """
    from huggingface_hub import HfApi

    progress, api = progress or Quiet(), HfApi()
    local = _read(folder, progress)
    with _hub_errors(target.repo):
        remote = _look(api, target.repo)
        if remote.head is None:
            # None: the namespace's own default, which may be private.
            api.create_repo(target.repo, private=target.is_private or None, exist_ok=True)
            remote = _look(api, target.repo)
        if changes := _changes(local, remote):
            _refuse_foreign(api, remote, target)
            _upload(api, target.repo, changes, progress)
            commit = api.create_commit(target.repo, changes, commit_message=message, parent_commit=remote.head)
            remote = _look(api, target.repo, commit.oid)
    _verify(target.repo, local, remote)
    files, size = {path: file.sha256 for path, file in local.items()}, sum(file.size for file in local.values())
    progress.say("push", f"{len(files)} files · {size / _MIB:,.1f} MiB · {_url(target.repo)}")
    return Pushed(target.repo, str(remote.head), _url(target.repo), files, size)


def _plain(text: str) -> str:
    return re.sub(r"-{2,}", "-", re.sub(r"\.{2,}|[^\w.-]+", "-", text, flags=re.ASCII)).strip("-._")


def _require_write(account: Mapping[str, Any], repo: str) -> None:
    namespace, user = repo.split("/")[0], account["name"]
    token = account.get("auth", {}).get("accessToken") or {}
    scopes = token.get("fineGrained", {}).get("scoped")
    granted = [permission for scope in scopes or () for permission in scope.get("permissions", ())]
    if token.get("role") == "read" or (scopes is not None and "repo.write" not in granted):
        raise PushRejected(f"the token of {user} can only read", hint=_LOG_IN)
    member = {org["name"]: org.get("roleInOrg") for org in account.get("orgs", ())}
    if namespace not in (user, *member) or member.get(namespace) == "read":
        raise PushRejected(f"{user} may not write under {namespace!r}",
                           hint=f"name a repository under {', '.join((user, *member))}, or use another token")


def _look(api: HfApi, repo: str, revision: str | None = None) -> _Remote:
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repo, revision=revision)
    except RepositoryNotFoundError:
        return _Remote(None, False, {})
    tree = api.list_repo_tree(repo, recursive=True, revision=info.sha)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path != ".gitattributes"}
    return _Remote(info.sha, bool(info.private), files)


def _refuse_foreign(api: HfApi, remote: _Remote, target: Target) -> None:
    """Refuse a repository that holds anything but an earlier result of ours for the same base, concept and form."""
    if target.is_private and remote.head and not remote.is_private:
        raise PushRejected(f"{target.repo} is public, and a private push was asked for",
                           hint=f"make it private at {_url(target.repo)}/settings, or name another repository")
    if target.head not in (None, remote.head):
        raise PushRejected(f"{target.repo} changed while this run was working",
                           hint=f"look at {_url(target.repo)}/commits/main, then push again")
    if not remote.files:
        return
    other = f"name another repository, or empty {_url(target.repo)}"
    if REPORT_FILE not in remote.files:
        raise PushRejected(f"{target.repo} holds files that are no result of ember-hub", hint=other)
    found = _earlier(api, target.repo, remote)
    if found != (target.base, target.concept):
        raise PushRejected(f"{target.repo} holds the result for {found[1]!r} on {found[0]}", hint=other)
    form = "patch" if "adapter_config.json" in remote.files else "model"
    if form != target.form:
        # A folder with both loads as one or the other, depending on who loads it.
        raise PushRejected(f"{target.repo} holds a {form}, this is a {target.form}", hint=other)


def _earlier(api: HfApi, repo: str, remote: _Remote) -> tuple[str, str]:
    """Base and concept of the result that lies there."""
    report = Path(api.hf_hub_download(repo, REPORT_FILE, revision=remote.head)).read_bytes()
    try:
        model, concept = (content := json.loads(report))["model"], content["concept"]["name"]
        return str(model["repo_id"] or model["name"]), str(concept)
    except (ValueError, KeyError, TypeError) as error:
        raise PushRejected(f"{repo} has a {REPORT_FILE} that cannot be read", hint="name another repository") from error


def _read(folder: Path, progress: Progress) -> dict[str, _Local]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files: dict[str, _Local] = {}
    with progress.steps("hashing (files)", len(paths)) as done:
        for path in paths:
            files[path.relative_to(folder).as_posix()] = _hashed(path)
            done(1)
    for name in (REPORT_FILE, "README.md"):
        if name not in files:
            raise NotVerified(f"{folder} has no {name}", hint="push a finished run: its out/model or out/patch folder")
    return files


def _hashed(path: Path) -> _Local:
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # The Hub never lists a larger file by its git id, so there is none to compare with.
    content = path.read_bytes() if size <= 2 * _LARGE else b""
    return _Local(path, size, sha256, hashlib.sha1(b"blob %d\0" % size + content).hexdigest())


def _changes(local: Mapping[str, _Local], remote: _Remote) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold the folder: its new files, and no weights or records of an earlier result."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sent = [CommitOperationAdd(path, str(file.path)) for path, file in local.items()
            if not file.is_stored_as(remote.files.get(path))]
    # Old weights would be loaded in place of the new ones when the sharding differs.
    stale = [CommitOperationDelete(path) for path in remote.files if path not in local
             and (path.startswith("ember/") or path.endswith((".safetensors", ".safetensors.index.json")))]
    return [*sent, *stale]


def _upload(api: HfApi, repo: str, changes: Sequence[Any], progress: Progress) -> None:
    """Send the large files one by one, so that progress is known; the commit carries the small ones."""
    large = [change for change in changes if getattr(change, "upload_info", None) and change.upload_info.size >= _LARGE]
    with progress.steps("uploading (MiB)", sum(addition.upload_info.size // _MIB for addition in large)) as done:
        for addition in large:
            api.preupload_lfs_files(repo, [addition], free_memory=False)
            done(addition.upload_info.size // _MIB)


def _verify(repo: str, local: Mapping[str, _Local], remote: _Remote) -> None:
    if wrong := [path for path, file in local.items() if not file.is_stored_as(remote.files.get(path))]:
        raise HashMismatch(f"{', '.join(wrong)} at {_url(repo)}/tree/{remote.head}: not what was sent",
                           hint="push again; if it stays so, do not use the repository, and report it")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Inside, what goes wrong with the Hub is raised as our errors; nothing of a token is ever in them."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise GatedModel(f"{repo} is gated for this token", hint=f"ask for access at {_url(repo)}") from error
    except (errors.LocalTokenNotFoundError, errors.OIDCError) as error:
        raise PushRejected("there is no token for the Hub", hint=_LOG_IN) from error
    except (httpx2.HTTPError, OSError) as error:
        raise _rejection(repo, error) from error
    except (RuntimeError, ValueError) as error:
        # The client wraps a refused upload in the one and a refused card in the other.
        if not isinstance(error.__cause__, httpx2.HTTPError | OSError):
            raise
        raise _rejection(repo, error.__cause__) from error


def _rejection(repo: str, error: Exception) -> PushRejected:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return PushRejected("the Hub is switched off", hint="unset HF_HUB_OFFLINE and push again")
    if not isinstance(error, HfHubHTTPError):
        return PushRejected(f"{repo} cannot be reached: {error}", hint=f"check the connection; {_AGAIN}")
    status = error.response.status_code
    what, hint = _REFUSALS.get(status, (f"the Hub answered {status}: {error.server_message}", _AGAIN))
    return PushRejected(what.replace("{repo}", repo), hint=hint)


def _url(repo: str) -> str:
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{repo}"
