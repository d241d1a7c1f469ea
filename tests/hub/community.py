"""The endpoints around a repository: tags, pull requests, collections; and tokens for jobs that have an identity."""

from __future__ import annotations

import hashlib
from typing import Any

from .calls import Call, Refusal, Reply

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
IDENTITY = "urn:ietf:params:oauth:token-type:id_token"


def create_tag(call: Call) -> Reply:
    repository, tag = call.own_repository(), call.json()["tag"]
    commit = call.commit(repository)
    if tag in repository.tags:
        raise Refusal(409, f"Reference {tag} already exists")
    repository.tags[tag] = commit.oid
    return Reply({})


def discussions(call: Call) -> Reply:
    """The pull requests; there are no other discussions here."""
    repository = call.repository()
    status, author = call.asked("status", "all"), call.asked("author")
    found = [{"num": request.number, "title": request.title, "author": {"name": request.author}, "isPullRequest": True,
              "createdAt": request.created, "status": request.status, "repo": {"name": repository.id, "type": repository.kind[:-1]}}
             for request in repository.pull_requests
             if status in ("all", request.status) and author in ("", request.author)]
    return Reply({"discussions": found, "count": len(found), "start": 0})


def collection(call: Call) -> Reply:
    return Reply(_shown(call, _slug(call)))


def add_to_collection(call: Call) -> Reply:
    slug, item = _slug(call), call.json()["item"]
    call.require_write(slug.split("/")[0])
    if (f"{item['type']}s", item["id"]) not in call.store.repositories:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    if item["id"] in call.store.collections[slug]:
        raise Refusal(409, "Already in the collection")
    call.store.collections[slug].append(item["id"])
    return Reply(_shown(call, slug))


def exchange_token(call: Call) -> Reply:
    """A token for the repository that trusts the job's identity (RFC 8693)."""
    asked = call.json()
    if (asked["grant_type"], asked["subject_token_type"]) != (EXCHANGE, IDENTITY):
        raise Refusal(400, "unsupported_grant_type")
    trusted, token = call.store.publishers.get(asked["subject_token"], (None, None))
    if asked["resource"] != trusted:
        raise Refusal(400, "invalid_grant")
    return Reply({"access_token": token, "token_type": "bearer", "expires_in": 3600})


def _slug(call: Call) -> str:
    slug = f"{call.parts['namespace']}/{call.parts['name']}"
    if slug not in call.store.collections:
        raise Refusal(404, "Collection not found")
    return slug


def _shown(call: Call, slug: str) -> dict[str, Any]:
    items = [{"_id": hashlib.sha1(repo.encode()).hexdigest()[:24], "id": repo, "type": "model", "position": position}
             for position, repo in enumerate(call.store.collections[slug])]
    return {"slug": slug, "title": slug.split("/")[1], "owner": {"name": slug.split("/")[0]}, "items": items, "position": 0,
            "lastUpdated": "2026-01-01T00:00:00.000Z", "private": False, "theme": "blue", "upvotes": 0}
