"""The endpoints that move bytes: preupload, LFS, commit and resolve."""

from __future__ import annotations

import base64
import json
from pathlib import PurePosixPath
from typing import Any

from .calls import Call, Refusal, Reply
from .store import Repository, StoredFile, is_large


def preupload(call: Call) -> Reply:
    """How each file is to be sent. `oid` of what is there lets the client leave out files that did not change."""
    repository = call.proposable_repository() if "create_pr" in call.query else call.own_repository()
    present = call.commit(repository).files
    modes = []
    for file in call.json()["files"]:
        path, mode = file["path"], "lfs" if is_large(file["path"], file["size"]) else "regular"
        known = {"oid": present[path].etag} if path in present else {}
        modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return Reply({"files": modes})


def lfs_batch(call: Call) -> Reply:
    """Where to send each object. One without `actions` is already there."""
    # The client does not say here whether the objects are for a commit or for a pull request.
    repository = call.proposable_repository()
    objects = [{"oid": asked["oid"], "size": asked["size"], "authenticated": True,
                **_upload_actions(call, repository, asked["oid"])} for asked in call.json()["objects"]]
    return Reply({"transfer": "basic", "objects": objects, "hash_algo": "sha256"})


def lfs_upload(call: Call) -> Reply:
    _require_signature(call)
    repository = call.store.repositories[call.parts["kind"], f"{call.parts['namespace']}/{call.parts['name']}"]
    sha256, _ = call.store.add_content(call.body)
    if sha256 != call.parts["sha256"]:
        raise Refusal(400, f"expected content with SHA-256 {call.parts['sha256']}, received {sha256}")
    repository.large_objects.add(sha256)
    return Reply(headers={"ETag": f'"{sha256}"'})


def lfs_verify(call: Call) -> Reply:
    repository, asked = call.proposable_repository(), call.json()
    if asked["oid"] not in repository.large_objects or call.store.path(asked["oid"]).stat().st_size != asked["size"]:
        raise Refusal(404, f"object {asked['oid']} of {asked['size']} bytes was not uploaded")
    return Reply({})


def lfs_duplicate(call: Call) -> Reply:
    """Lets a second repository commit large files of the one in the path, without any upload."""
    source, request = call.open_repository(), call.json()
    target = call.store.repositories.get((f"{request['target']['type']}s", request["target"]["name"]))
    if target is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    call.require_write(target.namespace)
    asked = {file["sha256"] for file in request["files"]}
    if source.region != target.region:
        failed = [{"sha256": sha256, "error": "stored in another region"} for sha256 in sorted(asked)]
        return Reply({"success": [], "failed": failed})
    target.large_objects |= asked & source.large_objects
    missing = [{"sha256": sha256, "error": "not in the source repository"} for sha256 in asked - source.large_objects]
    return Reply({"success": sorted(asked & source.large_objects), "failed": missing})


def commit(call: Call) -> Reply:
    """A commit on a branch, or on a new pull request against it."""
    is_proposed = "create_pr" in call.query
    repository = call.proposable_repository() if is_proposed else call.own_repository()
    branch, author = call.parts["revision"], call.account.name if call.account else ""
    header, *operations = [json.loads(line) for line in call.read().splitlines()]
    with call.store.lock:
        if branch not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head, parent = repository.branches[branch], header["value"].get("parentCommit")
        if parent is not None and not is_proposed and not head.startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[head].files)
        for operation in operations:
            _apply(call, repository, files, operation["key"], operation["value"])
        about = {"title": header["value"]["summary"], "description": header["value"].get("description", ""), "author": author}
        page, proposed = f"{call.url}/{repository.web_path}", {}
        if is_proposed:
            made, request = call.store.propose(repository, parent or head, files, **about)
            proposed = {"pullRequestUrl": f"{page}/discussions/{request.number}"}
        else:
            made = call.store.commit(repository, branch, files, **about)
    return Reply({"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}", "hookOutput": ""} | proposed)


def resolve(call: Call) -> Reply:
    """A file of a commit. Small ones come from here; large ones too, unless the Hub was told to redirect them."""
    repository = call.open_repository()
    found, path = call.commit(repository), call.parts["path"]
    headers = {"X-Repo-Commit": found.oid}
    if path not in found.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers=headers)
    file = found.files[path]
    headers |= {"ETag": f'"{file.etag}"', "Content-Disposition": f'inline; filename="{PurePosixPath(path).name}";'}
    if file.is_large:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if file.is_large and call.storage_url:
        location = f"{call.storage_url}/-/storage/{file.sha256}?signature={call.store.signature}"
        return Reply(status=302, headers=headers | {"Location": location})
    return call.file_reply(call.store.path(file.sha256), headers)


def download(call: Call) -> Reply:
    """A large file at its signed address, where the real Hub's storage would be."""
    _require_signature(call)
    path = call.store.path(call.parts["sha256"])
    return call.file_reply(path, {"ETag": f'"{path.name}"'})


def _upload_actions(call: Call, repository: Repository, sha256: str) -> dict[str, Any]:
    if sha256 in repository.large_objects:
        return {}
    upload = f"{call.url}/-/storage/{repository.kind}/{repository.id}/{sha256}?signature={call.store.signature}"
    verify = f"{call.url}/{repository.web_path}.git/info/lfs/verify"
    return {"actions": {"upload": {"href": upload}, "verify": {"href": verify}}}


def _require_signature(call: Call) -> None:
    # Object storage takes the signature in the address or a header, never both: a client that sends its token
    # there leaks it, and is told so.
    if "Authorization" in call.headers:
        raise Refusal(400, "Only one authentication mechanism is allowed")
    if call.asked("signature") != call.store.signature:
        raise Refusal(403, "The signature does not match")


def _apply(call: Call, repository: Repository, files: dict[str, StoredFile], key: str, value: dict[str, Any]) -> None:
    path = value["path"]
    match key:
        case "file":
            files[path] = call.store.add_file(base64.b64decode(value["content"], validate=True))
        case "lfsFile":
            if value["oid"] not in repository.large_objects:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            # A copy carries no size.
            files[path] = StoredFile.large(value["oid"], call.store.path(value["oid"]).stat().st_size)
        case "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        case "deletedFolder":
            for inside in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
                del files[inside]
        case _:
            raise Refusal(400, f"unknown operation {key!r}")
