"""Byte ranges of files: read, written and copied, inside the kernel where it can.

Nothing is mapped into memory: a range is read when it is asked for, so memory is bounded by what the caller holds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ember_hub.errors import CorruptCheckpoint, DiskError, ModelNotFound

CHUNK = 2**20

_KERNEL_STEP = 64 * 2**20
_PAGE = 4096
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_AGAIN = "download the file again; a copy that was interrupted looks like this"


def open_for_reading(path: Path) -> BinaryIO:
    """Opens a file of the checkpoint, unbuffered, through any links.

    Raises:
        ModelNotFound: there is no such file.
        CorruptCheckpoint: it is a link to a file that is gone, or to itself.
        DiskError: it may not be read, or is no regular file.
    """
    try:
        # Opening a pipe would wait for somebody to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DiskError(f"{path} is not a regular file", hint="give a folder that holds the model's files themselves")
        return open(path, "rb", buffering=0)
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
            gone = f"{path} links to {os.readlink(path)}, which is gone"
            raise CorruptCheckpoint(gone, hint="download the model again") from error
        if isinstance(error, FileNotFoundError):
            raise ModelNotFound(f"there is no file {path}", hint="check the folder, or download the model") from error
        raise DiskError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error


def read_ranges(path: Path, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """The bytes of several `[start, stop)` ranges, one after the other, as uint8 (n,).

    Raises:
        CorruptCheckpoint: the file ends before a range does.
    """
    buffer = np.empty(sum(stop - start for start, stop in ranges), np.uint8)
    view = memoryview(buffer)
    with open_for_reading(path) as file:
        for start, stop in ranges:
            while start < stop:
                count = os.preadv(file.fileno(), [view[: stop - start]], start)
                _require_more(count, path, start)
                start, view = start + count, view[count:]
    return buffer


def chunks_between(path: Path, start: int, stop: int) -> Iterator[bytes]:
    """The bytes `[start, stop)` of a file, `CHUNK` at a time.

    Raises:
        CorruptCheckpoint: the file ends before the range does.
    """
    with open_for_reading(path) as file:
        while start < stop:
            data = os.pread(file.fileno(), min(CHUNK, stop - start), start)
            _require_more(len(data), path, start)
            start += len(data)
            yield data


def copy_range(
    source: BinaryIO, target: BinaryIO, span: tuple[int, int], offset: int, copied: Callable[[int], None]
) -> None:
    """Copies bytes `[start, stop)` of one open file to `offset` of another, inside the kernel where it can.

    Args:
        copied: told the bytes just written, at least every 64 MiB.

    Raises:
        CorruptCheckpoint: the source ends before the range does.
    """
    start, stop = span
    shift, buffer = offset - start, memoryview(bytearray(min(CHUNK, max(0, stop - start))))
    while start < stop:
        count = _copy_in_kernel(source.fileno(), target.fileno(), start, start + shift, stop - start)
        if count == 0:
            count = os.preadv(source.fileno(), [buffer[: stop - start]], start)
            write_at(target.fileno(), buffer[:count], start + shift)
        _require_more(count, Path(source.name), start)
        start += count
        copied(count)


def write_at(target: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of the data at this byte of an open file."""
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count


def _copy_in_kernel(source: int, target: int, start: int, offset: int, count: int) -> int:
    """Bytes copied; 0 where reading and writing is the only way, or the faster one."""
    # Bytes that move within a page take the kernel two copies per page.
    if not hasattr(os, "copy_file_range") or (offset - start) % _PAGE:
        return 0
    # To a page border first: file systems share whole pages only.
    count = min(count, -start % _PAGE or _KERNEL_STEP)
    try:
        # Some network and overlay file systems answer 0 although there is more.
        return os.copy_file_range(source, target, count, start, offset)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        return 0


def _require_more(count: int, path: Path, position: int) -> None:
    if count == 0:
        raise CorruptCheckpoint(f"{path} ended at byte {position:,} while it was read", hint=_AGAIN)
