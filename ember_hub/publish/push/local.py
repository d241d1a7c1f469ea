"""The folder that is pushed: its files with their hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ember_hub.errors import NotVerified
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

REPORT_FILE = "ember/report.json"
"""Where the report lies in a published folder; it is also how an earlier result is recognized."""
LARGE = 8 << 20
"""Files of this size are always stored as large ones; whether smaller ones are is the Hub's choice."""


@dataclass(frozen=True)
class LocalFile:
    path: Path
    size: int
    sha256: str
    git_oid: str

    def is_stored_as(self, remote: RepoFile | None) -> bool:
        if remote is None or remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.git_oid


def read_folder(folder: Path, progress: Progress) -> dict[str, LocalFile]:
    """The files of a result by their path in it.

    Raises:
        NotVerified: the folder is not the output of a finished run.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files: dict[str, LocalFile] = {}
    with progress.steps("hashing (files)", len(paths)) as done:
        for path in paths:
            files[path.relative_to(folder).as_posix()] = _hashed(path)
            done(1)
    for name in (REPORT_FILE, "README.md"):
        if name not in files:
            raise NotVerified(f"{folder} has no {name}", hint="push a finished run: its out/model or out/patch folder")
    return files


def _hashed(path: Path) -> LocalFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # The Hub never lists a larger file by its git id, so there is none to compare with.
    content = path.read_bytes() if size <= 2 * LARGE else b""
    return LocalFile(path, size, sha256, hashlib.sha1(b"blob %d\0" % size + content).hexdigest())
