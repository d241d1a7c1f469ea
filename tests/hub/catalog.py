"""The endpoints that tell what is there: accounts, repositories, trees, histories, and the check of a model card."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import parse_qs

import yaml

from .calls import Call, Refusal, Reply
from .store import Commit, Repository, Store, StoredFile, front_matter
from .weights import parameters

SORT_KEYS = ("createdAt", "downloads", "lastModified", "likes", "trendingScore")


def whoami(call: Call) -> Reply:
    if call.account is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    account = call.account
    return Reply({"type": "user", "id": _id(account.name), "name": account.name, "fullname": account.name,
                  "orgs": [{"type": "org", "name": name} for name in account.organizations],
                  "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}})


def authorization(call: Call) -> Reply:
    """`auth_check`: the cheapest way to learn whether contents may be read, or written."""
    if "write" in call.parts:
        call.own_repository()
    else:
        call.open_repository()
    return Reply({})


def validate_card(call: Call) -> Reply:
    """Whether the front matter of a card is a YAML mapping. A card without one gets a warning, as on the real Hub."""
    try:
        metadata = front_matter(call.json()["content"])
    except yaml.YAMLError as error:
        return Reply({"errors": [{"message": str(error)}], "warnings": []}, 400)
    if metadata is None:
        return Reply({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    if not isinstance(metadata, dict):
        message = f"metadata has to be a mapping, not {type(metadata).__name__}"
        return Reply({"errors": [{"message": message}], "warnings": []}, 400)
    return Reply({"errors": [], "warnings": []})


def create(call: Call) -> Reply:
    request = call.json()
    kind, repo_id, author = _target(call, request)
    with call.store.lock:
        existing = call.store.repositories.get((kind, repo_id))
        if existing is not None:
            # `create_repo(exist_ok=True)` reads `url` from this very answer.
            raise Refusal(409, f"You already created this {kind[:-1]} repo", url=f"{call.url}/{existing.web_path}")
        repository = call.store.create(kind, repo_id, author)
        repository.is_private = request.get("visibility") == "private" or bool(request.get("private"))
    return Reply({"url": f"{call.url}/{repository.web_path}", "name": repo_id, "id": _id(repo_id)})


def delete(call: Call) -> Reply:
    kind, repo_id, _ = _target(call, call.json())
    if call.store.repositories.pop((kind, repo_id), None) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return Reply({})


def change_settings(call: Call) -> Reply:
    call.own_repository().is_gated = bool(call.json().get("gated"))
    return Reply({})


def info(call: Call) -> Reply:
    repository = call.repository()
    commit = call.commit(repository)
    with_size = "blobs" in call.query
    details = {"siblings": [_sibling(path, file, with_size=with_size) for path, file in commit.files.items()]}
    if card := _card(call.store, commit):
        details["cardData"] = card
    if "config.json" in commit.files:
        config = json.loads(call.store.path(commit.files["config.json"].sha256).read_bytes())
        details["config"] = {key: config[key] for key in ("architectures", "model_type", "quantization_config") if key in config}
    if counts := parameters(call.store, commit):
        details["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
    return Reply(_summary(call.store, repository, commit) | details)


def list_models(call: Call) -> Reply:
    sort, author, words = call.asked("sort", "trendingScore"), call.asked("author"), call.asked("search").lower()
    if sort not in SORT_KEYS:
        raise Refusal(400, f"cannot sort by {sort!r}")
    found = [_summary(call.store, repository, repository.head) for repository in call.store.repositories.values()
             if repository.kind == "models" and author in ("", repository.namespace) and words in repository.id.lower()
             and (not repository.is_private or (call.account and call.account.belongs_to(repository.namespace)))]
    wanted = set(call.query.get("filter", []))
    found = [model for model in found if wanted <= set(model["tags"])]
    found.sort(key=lambda model: model[sort], reverse=True)
    return Reply(found[: int(call.asked("limit", "1000"))])


def tree(call: Call) -> Reply:
    commit = call.commit(call.repository())
    inside = f"{folder}/" if (folder := call.parts.get("path", "").strip("/")) else ""
    if folder and folder not in commit.folders:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound", headers={"X-Repo-Commit": commit.oid})
    is_recursive = call.asked("recursive").lower() in ("true", "1")
    listed = [path for path in (*sorted(commit.folders), *commit.files)
              if path.startswith(inside) and (is_recursive or "/" not in path[len(inside):])]
    return Reply([_entry(call, commit, path) for path in listed], headers={"X-Repo-Commit": commit.oid})


def paths_info(call: Call) -> Reply:
    commit = call.commit(call.repository())
    # The client sends a form here, where every other call sends JSON.
    asked = [path.strip("/") for path in parse_qs(call.read().decode()).get("paths", [])]
    return Reply([_entry(call, commit, path) for path in asked if path in commit.files or path in commit.folders])


def refs(call: Call) -> Reply:
    repository = call.repository()
    named = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags),
             "pullRequests": ("pr", {str(request.number): request.head for request in repository.pull_requests})}
    listed = {key: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in found.items()]
              for key, (kind, found) in named.items()}
    return Reply(listed | {"converts": []})


def commits(call: Call) -> Reply:
    repository = call.repository()
    return Reply([{"id": commit.oid, "title": commit.title, "message": commit.description, "date": commit.date,
                   "authors": [{"user": commit.author}]} for commit in repository.history(call.commit(repository))])


def create_branch(call: Call) -> Reply:
    repository, name = call.own_repository(), call.parts["branch"]
    start = repository.find(json.loads(call.read() or b"{}").get("startingPoint", "main"))
    if start is None:
        raise Refusal(404, "Invalid starting point", "RevisionNotFound")
    if name in repository.branches:
        raise Refusal(409, f"Reference {name} already exists")
    repository.branches[name] = start.oid
    return Reply({})


def _target(call: Call, request: dict[str, Any]) -> tuple[str, str, str]:
    """Kind, full name and author of the repository that a create or delete speaks of; refuses who may not do it."""
    namespace = request.get("organization") or (call.account.name if call.account else "")
    account = call.require_write(namespace)
    if account.only is not None:
        raise Refusal(403, f"This token is for {account.only} only")
    return f"{request.get('type') or 'model'}s", f"{namespace}/{request['name']}", account.name


def _summary(store: Store, repository: Repository, commit: Commit) -> dict[str, Any]:
    card = _card(store, commit)
    named = {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
    return {"_id": _id(repository.id), "id": repository.id, "modelId": repository.id, "author": repository.namespace,
            "sha": commit.oid, "lastModified": commit.date, "createdAt": repository.created, "disabled": False,
            "private": repository.is_private, "gated": "manual" if repository.is_gated else False,
            "downloads": 0, "likes": 0, "trendingScore": 0, "tags": _tags(card), **named}


def _card(store: Store, commit: Commit) -> dict[str, Any]:
    """The metadata of the repository's card; empty when there is none or when it is broken, as the Hub shows it."""
    if "README.md" not in commit.files:
        return {}
    try:
        card = front_matter(store.path(commit.files["README.md"].sha256).read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return {}
    # YAML has dates, JSON does not.
    return json.loads(json.dumps(card, default=str)) if isinstance(card, dict) else {}


def _tags(card: dict[str, Any]) -> list[str]:
    """The card's own tags and those the Hub derives from its other fields."""
    tags = list(card.get("tags") or [])
    tags += [card[key] for key in ("library_name", "pipeline_tag") if key in card]
    for key in ("license", "base_model"):
        values = card.get(key) or []
        tags += [f"{key}:{value}" for value in ([values] if isinstance(values, str) else values)]
    return tags


def _sibling(path: str, file: StoredFile, *, with_size: bool) -> dict[str, Any]:
    if not with_size:
        return {"rfilename": path}
    large = {"lfs": {"size": file.size, "sha256": file.sha256, "pointerSize": file.pointer_size}}
    return {"rfilename": path, "size": file.size, "blobId": file.oid} | (large if file.is_large else {})


def _entry(call: Call, commit: Commit, path: str) -> dict[str, Any]:
    """A line of a tree. The SHA-256 is called `oid` here and `sha256` in `_sibling`: that is the Hub's protocol."""
    if path in commit.folders:
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    file = commit.files[path]
    large: dict[str, Any] = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}}
    if call.repository().has_xet:
        large["xetHash"] = file.sha256
    return {"type": "file", "oid": file.oid, "size": file.size, "path": path} | (large if file.is_large else {})


def _id(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()[:24]
