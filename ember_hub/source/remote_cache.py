"""Parts of remote files that were fetched before, kept on disk so that nothing is fetched twice.

A part is written first and noted in a journal after, with its sha256: what a killed process half wrote is not in the
journal, and what was damaged since does not match it. Several processes may keep the same parts at the same time, as
they write the same bytes to the same places.

The cache has a limit: before more is fetched, the files whose parts were unused longest go.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ember_hub.errors import DiskError
from ember_hub.source.gguf import cache_home

LIMIT = 8 << 30
"""Bytes of disk that the parts of all files take at most; rows of one concept and model are some tens of megabytes."""
_IN_USE = 3600.0
"""Seconds since their last use in which parts stay: another process may be at them."""
_PLACE = "set EMBER_HUB_CACHE to a folder on a disk with room, which you may write to"


class KeptParts:
    """The parts of one version of one file that lie in the cache.

    On disk: a sparse file as long as the original, with holes where nothing was fetched, and its journal: lines of
    `start stop sha256`.
    """

    def __init__(self, data: Path, size: int, limit: int = LIMIT) -> None:
        """`data` is the sparse file; neither it nor its folder need exist. `size` is that of the original.

        `limit` is for the bytes that it and its neighbours, in folders beside its own, take on the disk together.
        """
        self._data, self._journal, self._size, self._limit = data, data.with_suffix(".journal"), size, limit

    @classmethod
    def of(cls, name: str, size: int, *identity: str) -> KeptParts:
        """The parts of a file with this name to show in the cache, told apart from others by the rest of `identity`."""
        # Names come from the Hub: only their letters may become part of a path.
        shown = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip(".")[-80:]
        digest = hashlib.sha256("\0".join((name, str(size), *identity)).encode()).hexdigest()
        return cls(cache_home() / "parts" / f"{shown}-{digest[:24]}" / "data", size)

    def take(self, starts: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copies what is kept into `out`.

        Args:
            starts: first byte of each slice, rising, int64 (n,); a slice is as long as a row of `out`.
            out: uint8 (n, bytes of a slice).

        Returns:
            Which of the slices are there, bool (n,).

        Raises:
            DiskError: the cache cannot be read.
        """
        found, length = np.zeros(len(starts), dtype=bool), out.shape[1]
        with _disk_errors(self._data):
            if not self._journal.is_file() or not self._data.is_file():
                return found
            with self._data.open("rb", buffering=0) as file:
                for start, stop, digest in self._spans():
                    inside = slice(*np.searchsorted(starts, [start, max(start, stop - length + 1)]))
                    if inside.start == inside.stop or found[inside].all():
                        continue
                    data = os.pread(file.fileno(), stop - start, start)
                    if hashlib.sha256(data).hexdigest() != digest:
                        continue
                    part = np.frombuffer(data, dtype=np.uint8)
                    for index in range(inside.start, inside.stop):
                        at = int(starts[index]) - start
                        out[index] = part[at : at + length]
                    found[inside] = True
            with suppress(FileNotFoundError):
                os.utime(self._journal)
        return found

    def keep(self, start: int, data: bytes | bytearray) -> None:
        """Keeps the bytes from `start` on.

        Raises:
            DiskError: the cache is full or may not be written.
        """
        line = f"{start} {start + len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()
        with _disk_errors(self._data):
            self._data.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._data, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(file, memoryview(data)[written:], start + written)
            finally:
                os.close(file)
            with self._journal.open("ab", buffering=0) as journal:
                journal.write(line)

    def require_room(self, needed: int) -> None:
        """Makes room for so many bytes more under the cache's limit, and checks that the disk has it.

        Raises:
            DiskError: it has not.
        """
        with _disk_errors(self._data):
            self._data.parent.mkdir(parents=True, exist_ok=True)
            self._drop_unused(self._limit - needed)
            free = shutil.disk_usage(self._data.parent).free
        if free < needed:
            raise DiskError(f"the rows take {needed / 1e9:.2f} GB, {self._data.parent} has {free / 1e9:.2f} GB free",
                            hint=_PLACE)

    def _drop_unused(self, limit: int) -> None:
        """Deletes the parts of other files, those unused longest first, until all take no more bytes than this."""
        files = []
        for journal in self._data.parent.parent.glob(f"*/{self._journal.name}"):
            # Another process may be making room too.
            with suppress(FileNotFoundError):
                files.append(_usage(journal))
        taken = sum(size for _, size, _ in files)
        for used, size, folder in sorted(files):
            if taken <= limit or time.time() - used < _IN_USE:
                break
            if folder != self._data.parent:
                shutil.rmtree(folder, ignore_errors=True)
                taken -= size

    def _spans(self) -> Iterator[tuple[int, int, str]]:
        for line in self._journal.read_bytes().decode("ascii", "replace").splitlines():
            fields = line.split(" ")
            # The last line of a process that was killed may be cut off; nobody else's is.
            if len(fields) == 3 and fields[0].isdecimal() and fields[1].isdecimal() and len(fields[2]) == 64:
                start, stop = int(fields[0]), int(fields[1])
                if start < stop <= self._size:
                    yield start, stop, fields[2]


def _usage(journal: Path) -> tuple[float, int, Path]:
    """When the parts beside this journal were used last (seconds since the epoch), what they take of the disk, their folder."""
    found = [path.stat() for path in journal.parent.iterdir()]
    return journal.stat().st_mtime, sum(f.st_blocks * 512 for f in found), journal.parent


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"{path} cannot be used: {error.strerror}", hint=_PLACE) from error
