"""A patch in its other formats, and how far each is from the exact rows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ember_hub.errors import PatchInvalid
from ember_hub.patches.patch import Factors, Patch, check, rows_of_factors


@dataclass(frozen=True, eq=False)
class Converted:
    """A patch in another format.

    Attributes:
        differing: how many rows differ in any bit from those of the patch it was made from.
        error: the largest difference of any number of any row, in the units of the stored embedding.
    """

    patch: Patch
    differing: int
    error: float


def to_tokens(patch: Patch) -> Converted:
    """The patch with its rows as they are."""
    return Converted(replace(patch, format="tokens"), 0, 0.0)


def to_lora_embed(patch: Patch, rank: int | None = None) -> Converted:
    """The change of the rows as a LoRA of the embedding.

    Args:
        rank: of the LoRA; by default that of the factors that the patch keeps, or else the smallest that gives back
            every row bit for bit (the full one, where none does).

    Raises:
        PatchInvalid: the base's rows are not known, or the rank is none.
    """
    factors = _factors(patch, rank)
    rows = rows_of_factors(factors, patch.required_originals("convert it"), patch.table.dtype)
    converted = check(replace(patch, rows=rows, factors=factors, format="lora-embed"))
    differing = (rows != patch.rows).any(axis=1)
    error = np.abs(converted.deltas("compare", differing) - patch.deltas("compare", differing)).max(initial=0.0)
    return Converted(converted, int(differing.sum()), float(error))


def _factors(patch: Patch, rank: int | None) -> Factors:
    known = patch.factors
    if known is not None and rank in (None, known.rank):
        return known
    deltas = patch.deltas("convert it")
    highest = min(deltas.shape)
    if rank is not None and not 0 < rank <= highest:
        raise PatchInvalid(f"{len(patch)} rows of width {patch.table.d_model} have no change of rank {rank}",
                           hint=f"use a rank from 1 to {highest}")
    left, values, right = np.linalg.svd(deltas, full_matrices=False)

    def cut(rank: int) -> Factors:
        # Each half takes its share, so that neither leaves the range of the numbers it will be cast to.
        share = np.sqrt(values[:rank])
        return Factors((right[:rank].T * share).astype(np.float32), (left[:, :rank] * share).astype(np.float32))

    if rank is None:
        full = int(np.count_nonzero(values > values[0] * np.finfo(values.dtype).eps * highest)) or 1
        rank = _exact_rank(patch, cut, full)
    return cut(rank)


def _exact_rank(patch: Patch, cut: Callable[[int], Factors], full: int) -> int:
    """The smallest rank whose rows are those of the patch, bit for bit; the full one, where none is."""
    originals = patch.required_originals("convert it")

    def is_exact(rank: int) -> bool:
        return np.array_equal(rows_of_factors(cut(rank), originals, patch.table.dtype), patch.rows)

    return min(full, bisect_left(range(1, full + 1), True, key=is_exact) + 1)
