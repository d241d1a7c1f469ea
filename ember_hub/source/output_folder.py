"""A folder that appears only when it is whole: written beside its place under a hidden name, and renamed."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ember_hub.errors import DiskError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ENAMETOOLONG}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def appearing_folder(out: Path, needed: int) -> Iterator[Path]:
    """A hidden sibling of `out` that takes its name if all goes well, and is gone otherwise.

    What a killed run left is removed by the next one into the same place; a run that still works keeps a lock.

    Args:
        needed: how many bytes will be written.

    Raises:
        DiskError: `out` holds something, no space, or not writable; nothing is left behind.
    """
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    created: list[Path] = []
    lock: int | None = None
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DiskError(f"{out} exists already", hint="choose another output folder, or move this one away")
        created += [parent for parent in out.parents if not parent.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_strays(out)
        require_room(out, needed)
        partial.mkdir()
        created.insert(0, partial)
        lock = _lock(partial)
        yield partial
        sync(*partial.rglob("*"), partial)
        partial.rename(out)
        sync(out.parent)
    except BaseException as error:
        if partial in created:
            shutil.rmtree(partial, ignore_errors=True)
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            _raise_disk_error(error, out, needed)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def require_room(out: Path, needed: int) -> None:
    """Raises OSError unless the disk on which `out` will lie has so many bytes free."""
    if shutil.disk_usage(out.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))


def sync(*paths: Path) -> None:
    """Waits until these files and folders are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_strays(out: Path) -> None:
    for stray in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        lock = _lock(stray)
        if lock is not None:
            shutil.rmtree(stray, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A handle that holds the folder's lock, None where another process holds it; the kernel frees it with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        # Without locks nobody can tell a stray from a run at work: the last one into a place wins.
        if error.errno not in _NO_LOCKS:
            os.close(handle)
            raise
    return handle


def _raise_disk_error(error: OSError, out: Path, needed: int) -> None:
    free = shutil.disk_usage(next(parent for parent in out.parents if parent.is_dir())).free
    told = f"{needed / 1e9:,.3f} GB needed, {free / 1e9:,.3f} GB free; {error.strerror}"
    if error.errno in _FULL:
        raise DiskError(f"no space for {out}: {told}", hint="free some space, or write to another disk") from error
    if error.errno in _REFUSED:
        found = f"{error.filename or out} cannot be written: {told}"
        raise DiskError(found, hint="choose an output folder that you may change") from error
