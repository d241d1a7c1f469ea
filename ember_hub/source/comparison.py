"""The proof that a rewritten checkpoint differs from its original in exactly the tensors that were meant to change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

from ember_hub.progress import Progress, Quiet
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.safetensors_file import TensorInfo, chunks, sha256


@dataclass(frozen=True)
class FileComparison:
    """Which tensors of two checkpoints are the same, byte for byte.

    Attributes:
        identical: same name, dtype, shape and bytes.
        changed: same name, anything else differs.
        added: only in the rewritten checkpoint.
        removed: only in the original.
        original_sha256: digest of each tensor's bytes by name, in the original.
        rewritten_sha256: the same in the rewritten checkpoint.
    """

    identical: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    original_sha256: Mapping[str, str]
    rewritten_sha256: Mapping[str, str]


def compare(original: Checkpoint, rewritten: Checkpoint, progress: Progress | None = None) -> FileComparison:
    """Digests every tensor of both checkpoints and sorts their names by what happened to them.

    Streamed: memory is a few chunks per core. Bytes that are equal on both sides are digested once.
    """
    names = list(dict.fromkeys([*original.tensors, *rewritten.tensors]))
    before, after = original.tensors, rewritten.tensors
    digests: dict[str, tuple[str | None, str | None]] = {}
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        (progress or Quiet()).steps("compare tensors", len(names)) as step,
    ):
        pairs = pool.map(lambda name: _digest_both(before.get(name), after.get(name)), names)
        for name, pair in zip(names, pairs, strict=True):
            digests[name] = pair
            step(1)
    both = [name for name in names if name in before and name in after]
    identical = tuple(name for name in both if _is_same(before[name], after[name], digests[name]))
    return FileComparison(
        identical=identical,
        changed=tuple(name for name in both if name not in set(identical)),
        added=tuple(name for name in names if name not in before),
        removed=tuple(name for name in names if name not in after),
        original_sha256={name: old for name, (old, _) in digests.items() if old is not None},
        rewritten_sha256={name: new for name, (_, new) in digests.items() if new is not None},
    )


def _digest_both(old: TensorInfo | None, new: TensorInfo | None) -> tuple[str | None, str | None]:
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
