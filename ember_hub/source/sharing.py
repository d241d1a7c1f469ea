"""A file in a second place without a second copy, where the file system allows it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409
_CANNOT = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP,
           errno.ETXTBSY, errno.EBADF}


def share_file(source: Path, target: Path) -> bool:
    """Gives `target`, which must not exist, the content of `source`; False where only copying is left.

    A reflink, which is a copy that shares blocks until one side is written to; else a hard link, which is the same file
    under a second name and inherits its permissions. Other disks, and file systems without either, need a copy.

    A hard link is safe as long as nobody writes into a file that exists: this package never does, it writes under
    another name and renames, and deleting one name leaves the other. A program that overwrites in place, as
    `save_pretrained` into the same folder, would change the file under both names: copy the folder first.
    """
    # A link in a cache's snapshot is followed to its blob: a hard link to a symlink would be a symlink.
    origin = Path(os.path.realpath(source))
    return _reflink(origin, target) or _hard_link(origin, target)


def is_one_file(first: Path, second: Path) -> bool:
    """Whether both names lead to one file on the disk, so that there is nothing to compare."""
    return os.path.samefile(first, second)


def _reflink(source: Path, target: Path) -> bool:
    with open(source, "rb", buffering=0) as original, open(target, "xb", buffering=0) as clone:
        try:
            fcntl.ioctl(clone.fileno(), _FICLONE, original.fileno())
        except OSError as error:
            target.unlink()
            if error.errno not in _CANNOT:
                raise
            return False
    return True


def _hard_link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True
