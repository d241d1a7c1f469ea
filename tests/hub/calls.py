"""One HTTP call as the endpoints see it: who asks for what, and the ways to answer or refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from .store import Commit, Repository, Store

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Account:
    """Who a token speaks for: a user, the role of the token, and the organizations the user belongs to."""

    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()
    only: str | None = None
    """The one repository that the token is good for; None: all of the account's."""

    def belongs_to(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class Reply:
    """An answer: JSON, or `length` bytes of a file from `start`, or neither."""

    payload: object = None
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    start: int = 0
    length: int = 0


class Refusal(Exception):
    """An answer the client turns into an exception; `code` decides which class."""

    def __init__(self, status: int, message: str, code: str | None = None, *,
                 headers: Mapping[str, str] | None = None, **payload: object) -> None:
        super().__init__(message)
        named = {"X-Error-Code": code} if code else {}
        self.reply = Reply({"error": message, **payload}, status,
                           {"X-Error-Message": message, **named, **(headers or {})})


@dataclass(frozen=True)
class Call:
    """A request whose path has been matched: `parts` are the named pieces of the path."""

    store: Store
    url: str
    storage_url: str | None
    parts: Mapping[str, str]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    account: Account | None
    body: Iterator[bytes]

    def read(self) -> bytes:
        return b"".join(self.body)

    def json(self) -> Any:
        return json.loads(self.read())

    def asked(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def repository(self) -> Repository:
        """The repository in the path. One that the caller may not see does not exist for the caller."""
        repository = self.store.repositories.get((self.parts.get("kind", "models"), self._repo_id))
        if repository is None or (repository.is_private and not self._belongs_to(repository.namespace)):
            raise Refusal(404 if self.account else 401, "Repository not found", "RepoNotFound")
        return repository

    def open_repository(self) -> Repository:
        """The repository in the path, for calls that hand out contents: a gated one needs a grant."""
        repository = self.repository()
        may_read = self._belongs_to(repository.namespace) or (
            self.account is not None and self.account.name in repository.granted)
        if repository.is_gated and not may_read:
            raise Refusal(403 if self.account else 401, f"Access to model {repository.id} is restricted and you are "
                          "not in the authorized list.", "GatedRepo")
        return repository

    def own_repository(self) -> Repository:
        """The repository in the path, for calls that change it."""
        repository = self.repository()
        self.require_write(repository.namespace)
        if self.account is not None and self.account.only not in (None, repository.id):
            raise Refusal(403, f"This token is for {self.account.only} only")
        return repository

    def proposable_repository(self) -> Repository:
        """The repository in the path, for calls that only prepare a change: whoever may read it may propose one."""
        repository = self.repository()
        self.require_role()
        return repository

    def require_role(self) -> Account:
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        if self.account.role != "write":
            raise Refusal(403, "This token has role read: a token with role write is required")
        return self.account

    def require_write(self, namespace: str) -> Account:
        account = self.require_role()
        if not account.belongs_to(namespace):
            raise Refusal(403, f"You don't have the rights to write under the namespace {namespace!r}")
        return account

    def commit(self, repository: Repository) -> Commit:
        revision = self.parts.get("revision", "main")
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def file_reply(self, path: Path, headers: Mapping[str, str]) -> Reply:
        """The whole file, or the one range that was asked for."""
        size = path.stat().st_size
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        span = RANGE.fullmatch(self.headers.get("Range", ""))
        if span is None or span[0] == "bytes=-":
            return Reply(None, HTTPStatus.OK, headers, path, 0, size)
        start = int(span[1]) if span[1] else max(0, size - int(span[2]))
        stop = min(int(span[2]) + 1, size) if span[1] and span[2] else size
        if start >= stop:
            raise Refusal(416, "The requested range is not in the file", headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Reply(None, HTTPStatus.PARTIAL_CONTENT, headers, path, start, stop - start)

    @property
    def _repo_id(self) -> str:
        return f"{self.parts['namespace']}/{self.parts['name']}"

    def _belongs_to(self, namespace: str) -> bool:
        return self.account is not None and self.account.belongs_to(namespace)
