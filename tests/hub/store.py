"""What the loopback Hub keeps: contents on disk by their SHA-256, repositories and commits in memory."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

LARGE_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".onnx", ".msgpack", ".h5", ".npz", ".parquet", ".zip", ".gz")
LARGE_SIZE = 10 * 1024 * 1024
CHUNK = 1024 * 1024
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def is_large(path: str, size: int) -> bool:
    """Whether a file is stored as LFS. Empty files never are: the client sends them inside the commit."""
    return size > 0 and (path.lower().endswith(LARGE_SUFFIXES) or size > LARGE_SIZE)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def front_matter(card: str) -> object:
    """The parsed YAML block at the top of a model card, or None when the card has no such block.

    Raises:
        yaml.YAMLError: The block does not parse.
    """
    block = FRONT_MATTER.match(card)
    return yaml.safe_load(block[1]) if block else None


def chunks(path: Path, start: int = 0, length: int | None = None) -> Iterator[bytes]:
    """The bytes of a file from `start`, at most `length` of them, a piece at a time."""
    with path.open("rb") as file:
        file.seek(start)
        left = path.stat().st_size - start if length is None else length
        while left > 0 and (chunk := file.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk


@dataclass(frozen=True)
class StoredFile:
    sha256: str
    size: int
    oid: str
    is_large: bool

    @classmethod
    def large(cls, sha256: str, size: int) -> StoredFile:
        return cls(sha256, size, git_oid(lfs_pointer(sha256, size)), is_large=True)

    @property
    def etag(self) -> str:
        """What a client compares against its own hash: SHA-256 of an LFS file, git object id of any other."""
        return self.sha256 if self.is_large else self.oid

    @property
    def pointer_size(self) -> int:
        return len(lfs_pointer(self.sha256, self.size))


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    files: Mapping[str, StoredFile]

    @cached_property
    def folders(self) -> frozenset[str]:
        parents = (parent.as_posix() for path in self.files for parent in Path(path).parents)
        return frozenset(folder for folder in parents if folder != ".")


@dataclass
class PullRequest:
    """A proposed change: its commits lie on `refs/pr/<number>`, beside the branches."""

    number: int
    title: str
    author: str
    created: str
    head: str
    status: str = "open"


@dataclass
class Repository:
    """A repository with its branches.

    `large_objects` holds the SHA-256 of every LFS object the repository may commit. As on the real Hub a content
    that lies in another repository is not enough: it has to be uploaded or duplicated first.
    """

    id: str
    kind: str
    created: str
    is_private: bool = False
    is_gated: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    large_objects: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)
    region: str = "us"
    """Where the objects are stored; the Hub copies none from one region to another."""
    has_xet: bool = True
    """Whether large files lie in Xet storage; the client lets no others be copied."""

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def web_path(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def find(self, revision: str) -> Commit | None:
        """The commit behind a branch name, a full commit id or an unambiguous short one."""
        proposed = {f"refs/pr/{request.number}": request.head for request in self.pull_requests}
        refs = proposed | self.tags | self.branches
        oid = refs.get(revision.removeprefix("refs/heads/"), revision)
        if oid in self.commits:
            return self.commits[oid]
        candidates = [known for known in self.commits if len(oid) >= 7 and known.startswith(oid)]
        return self.commits[candidates[0]] if len(candidates) == 1 else None

    def history(self, newest: Commit) -> Iterator[Commit]:
        commit: Commit | None = newest
        while commit is not None:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None


class Store:
    """All repositories of one loopback Hub. Hold `lock` around anything that reads and then writes."""

    def __init__(self, root: Path) -> None:
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, list[str]] = {}
        """Repositories of each collection, by its slug."""
        self.publishers: dict[str, tuple[str, str]] = {}
        """For each identity of a job: the repository that trusts it, and the token it gets for that one."""
        self._contents = root / "contents"
        self._contents.mkdir(parents=True, exist_ok=True)
        self._clock = datetime.now(UTC)
        self.ahead = timedelta()
        """How far the clock of this Hub is ahead of the machine's."""
        self.jobs: dict[str, Any] = {}
        self.machine: Callable[[Mapping[str, Any]], Any] = lambda job: None
        """What a Job does when it runs."""
        self.webhooks: list[dict[str, Any]] = []
        self.signature = secrets.token_urlsafe(16)

    def path(self, sha256: str) -> Path:
        return self._contents / sha256

    def add_content(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Keep a content and return its SHA-256 and size. When `chunks` raises half-way nothing stays behind."""
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._contents, prefix="incoming-", delete=False) as file:
            try:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
            except BaseException:
                Path(file.name).unlink()
                raise
        Path(file.name).replace(self.path(digest.hexdigest()))
        return digest.hexdigest(), size

    def add_file(self, content: bytes) -> StoredFile:
        """A regular file: its content travels inside the commit."""
        sha256, size = self.add_content([content])
        return StoredFile(sha256, size, git_oid(content), is_large=False)

    def create(self, kind: str, repo_id: str, author: str) -> Repository:
        """A new repository with the first commit every Hub repository has: its `.gitattributes`."""
        with self.lock:
            repository = Repository(repo_id, kind, self._now())
            self.repositories[kind, repo_id] = repository
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES)
            files = {".gitattributes": self.add_file(attributes.encode())}
            self.commit(repository, "main", files, title="initial commit", author=author)
            return repository

    def commit(self, repository: Repository, branch: str, files: Mapping[str, StoredFile], *, title: str,
               description: str = "", author: str) -> Commit:
        with self.lock:
            commit = self._add(repository, repository.branches.get(branch), files, (title, description, author))
            repository.branches[branch] = commit.oid
            return commit

    def propose(self, repository: Repository, parent: str, files: Mapping[str, StoredFile], *, title: str,
                description: str = "", author: str) -> tuple[Commit, PullRequest]:
        """A commit on top of `parent` as a new pull request."""
        with self.lock:
            commit = self._add(repository, parent, files, (title, description, author))
            request = PullRequest(len(repository.pull_requests) + 1, title, author, commit.date, commit.oid)
            repository.pull_requests.append(request)
            return commit, request

    def _add(self, repository: Repository, parent: str | None, files: Mapping[str, StoredFile],
             about: tuple[str, str, str]) -> Commit:
        title, description, author = about
        date = self._now()
        tree = [(path, file.oid) for path, file in sorted(files.items())]
        oid = hashlib.sha1(json.dumps([repository.id, parent, title, description, date, tree]).encode()).hexdigest()
        commit = Commit(oid, parent, title, description, author, date, dict(sorted(files.items())))
        repository.commits[oid] = commit
        return commit

    def add_link(self, source: Path) -> tuple[str, int]:
        """Keep a content where it lies, under a digest of its place instead of its bytes; returns digest and size."""
        about = source.stat()
        digest = hashlib.sha256(f"{source.resolve()}\0{about.st_size}\0{about.st_mtime_ns}".encode()).hexdigest()
        with self.lock:
            if not self.path(digest).is_symlink():
                self.path(digest).symlink_to(source.resolve())
        return digest, about.st_size

    def commit_folder(self, repository: Repository, folder: Path, *, in_place: bool = False) -> Commit:
        """One commit on `main` that holds exactly the files of `folder` (and the repository's `.gitattributes`)."""
        files = {".gitattributes": repository.head.files[".gitattributes"]}
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            path = source.relative_to(folder).as_posix()
            if is_large(path, source.stat().st_size):
                kept = self.add_link(source) if in_place else self.add_content(chunks(source))
                files[path] = StoredFile.large(*kept)
            else:
                files[path] = self.add_file(source.read_bytes())
        with self.lock:
            repository.large_objects |= {file.sha256 for file in files.values() if file.is_large}
            return self.commit(repository, "main", files, title=f"Add {folder.name}", author=repository.namespace)

    def time(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def _now(self) -> str:
        # Strictly increasing, so that sorting by date has one answer even for commits within a millisecond.
        self._clock = max(self.time(), self._clock + timedelta(milliseconds=1))
        return stamp(self._clock)


def stamp(time: datetime) -> str:
    """A time as the Hub writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
