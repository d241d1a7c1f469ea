"""The proof that a rewritten checkpoint differs from its original in exactly the tensors that were meant to change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

from ember_hub.progress import Progress, Quiet
from ember_hub.source.byte_ranges import chunks_between
from ember_hub.source.changes import Replacement, pieces
from ember_hub.source.checkpoint import Checkpoint, row_runs
from ember_hub.source.safetensors_file import SafetensorsFile, TensorInfo, chunks, sha256
from ember_hub.source.sharing import is_one_file


@dataclass(frozen=True)
class FileComparison:
    """Which tensors of two checkpoints are the same, byte for byte.

    Attributes:
        identical: same name, dtype, shape and bytes.
        changed: same name, anything else differs.
        added: only in the rewritten checkpoint.
        removed: only in the original.
        original_sha256: digest of each tensor's bytes by name, in the original; without those of shared files, unless
            they were asked for.
        rewritten_sha256: the same in the rewritten checkpoint.
        same_files: names of the rewritten files that are byte for byte the original's of the same name.
        shared_files: those among them that are one file on the disk under both names (a hard link). That proves them
            the same, and their tensors, without reading them.
    """

    identical: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    original_sha256: Mapping[str, str]
    rewritten_sha256: Mapping[str, str]
    same_files: tuple[str, ...] = ()
    shared_files: tuple[str, ...] = ()


def compare(original: Checkpoint, rewritten: Checkpoint, progress: Progress | None = None, *,
            digests_of_shared: bool = False) -> FileComparison:
    """Sorts the names of the tensors of both checkpoints by what happened to them.

    Streamed: memory is a few chunks per core. Bytes that are equal on both sides are digested once.

    Args:
        digests_of_shared: digest also what is one file on the disk under both names.
    """
    names = list(dict.fromkeys([*original.tensors, *rewritten.tensors]))
    before, after = original.tensors, rewritten.tensors
    shared = _shared_files(original.files, rewritten.files)
    linked = {name for name in names if _is_one(before.get(name), after.get(name), shared)}
    read = [name for name in names if digests_of_shared or name not in linked]
    digests: dict[str, tuple[str | None, str | None]] = {}
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        (progress or Quiet()).steps("compare tensors", len(read)) as step,
    ):
        pairs = pool.map(lambda name: _digest_both(before.get(name), after.get(name), name in linked), read)
        for name, pair in zip(read, pairs, strict=True):
            digests[name] = pair
            step(1)
    both = [name for name in names if name in before and name in after]
    identical = dict.fromkeys(n for n in both if n in linked or _is_same(before[n], after[n], digests[n]))
    return FileComparison(
        identical=tuple(identical),
        changed=tuple(name for name in both if name not in identical),
        added=tuple(name for name in names if name not in before),
        removed=tuple(name for name in names if name not in after),
        original_sha256={name: old for name, (old, _) in digests.items() if old is not None},
        rewritten_sha256={name: new for name, (_, new) in digests.items() if new is not None},
        same_files=tuple(_same_files(original.files, rewritten.files, identical)),
        shared_files=tuple(sorted(shared)),
    )


def sha256_after(info: TensorInfo, change: Replacement) -> str:
    """Hex digest that a tensor has after a change: its bytes with the new rows in their place, streamed."""
    digest, position = hashlib.sha256(), info.start
    for ids, data in pieces(info, change):
        rows = memoryview(data.reshape(-1))
        for first, last in row_runs(ids):
            begin, size = info.start + first * info.row_size, (last + 1 - first) * info.row_size
            for kept in chunks_between(info.file, position, begin):
                digest.update(kept)
            digest.update(rows[:size])
            position, rows = begin + size, rows[size:]
    for kept in chunks_between(info.file, position, info.stop):
        digest.update(kept)
    return digest.hexdigest()


def _shared_files(ours: Iterable[SafetensorsFile], theirs: Iterable[SafetensorsFile]) -> set[str]:
    paths = {file.path.name: file.path for file in ours}
    return {file.path.name for file in theirs
            if file.path.name in paths and is_one_file(paths[file.path.name], file.path)}


def _is_one(old: TensorInfo | None, new: TensorInfo | None, shared: Collection[str]) -> bool:
    """Whether both are the same bytes of one file on the disk."""
    if old is None or new is None or old.file.name not in shared:
        return False
    return (old.file.name, old.start, old.code, old.shape) == (new.file.name, new.start, new.code, new.shape)


def _same_files(ours: Iterable[SafetensorsFile], theirs: Iterable[SafetensorsFile], identical: Iterable[str]) -> Iterable[str]:
    """A file is its header and its tensors, without gaps: it is the same if they are."""
    headers, same = {file.path.name: file.header for file in ours}, set(identical)
    return (file.path.name for file in theirs if headers.get(file.path.name) == file.header and same.issuperset(file.tensors))


def _digest_both(old: TensorInfo | None, new: TensorInfo | None, is_one: bool) -> tuple[str | None, str | None]:
    if old is not None and is_one:
        return (digest := sha256(old)), digest
    if old is None or new is None or old.size != new.size:
        return (sha256(old) if old else None), (sha256(new) if new else None)
    left = right = hashlib.sha256()
    for ours, theirs in zip_longest(chunks(old), chunks(new), fillvalue=b""):
        if left is right and ours != theirs:
            right = left.copy()
        left.update(ours)
        if right is not left:
            right.update(theirs)
    return left.hexdigest(), right.hexdigest()


def _is_same(old: TensorInfo, new: TensorInfo, digests: tuple[str | None, str | None]) -> bool:
    return (old.code, old.shape) == (new.code, new.shape) and digests[0] == digests[1]
