"""Several patches of one base as one; where two move the same token, their moves are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ember_hub.errors import PatchInvalid, WrongBase
from ember_hub.patches import numerics
from ember_hub.patches.patch import Factors, Guard, Patch, check, sha256


@dataclass(frozen=True, eq=False)
class Merged:
    """One patch out of several, and the tokens (m,) that more than one of them moves."""

    patch: Patch
    overlapping: np.ndarray


def merge(patches: Sequence[Patch]) -> Merged:
    """Rows that one patch moves are kept bit for bit; where several do, what each adds to the base's row is summed up.

    Raises:
        WrongBase: they were made for different bases.
        PatchInvalid: the base's rows are not known, or a sum is no number in the base's dtype.
    """
    first, table = patches[0], patches[0].table
    ids, counts = np.unique(np.concatenate([patch.token_ids for patch in patches]), return_counts=True)
    originals, rows = np.zeros((2, len(ids), table.row_size), np.uint8)
    overlapping, is_known = ids[counts > 1], np.zeros(len(ids), bool)
    for patch in patches:
        _require_same_base(first, patch)
        at, own = np.searchsorted(ids, patch.token_ids), patch.required_originals("merge it")
        if (originals[at] != own)[is_known[at]].any():
            raise WrongBase(f"two patches for {first.base.title} disagree on its rows", hint="make them again from the same base")
        originals[at], rows[at], is_known[at] = own, patch.rows, True
    for block in numerics.blocks(len(overlapping), table.row_size):
        tokens = overlapping[block]
        at = np.searchsorted(ids, tokens)
        rows[at] = numerics.encode(numerics.decode(originals[at], table.dtype) + _sum(patches, tokens), table.dtype)
    left = {name: sorted({entry for patch in patches for entry in patch.not_carried.get(name, ())})
            for name in ("methods", "parameters")}
    merged = replace(first, token_ids=ids, rows=rows, originals=originals, original_sha256=sha256(originals), format="tokens",
                     guard=_guard(patches, ids, originals), factors=_factors(patches, ids), not_carried=left)
    return Merged(check(merged), overlapping)


def _sum(patches: Sequence[Patch], tokens: np.ndarray) -> np.ndarray:
    """What all patches together add to these tokens' rows: float64 (m, d_model)."""
    sums = np.zeros((len(tokens), patches[0].table.d_model))
    for patch in patches:
        is_meant = np.isin(patch.token_ids, tokens)
        sums[np.searchsorted(tokens, patch.token_ids[is_meant])] += patch.deltas("merge it", is_meant)
    return sums


def _require_same_base(first: Patch, other: Patch) -> None:
    ours, theirs = first.base, other.base
    if (ours.repo, ours.commit) != (theirs.repo, theirs.commit):
        raise WrongBase(f"one patch was made for {ours.title}, another for {theirs.title}",
                        hint="make them again from the same commit")
    if first.table != other.table or (first.guard is None) != (other.guard is None):
        raise WrongBase(f"two patches for {ours.title} disagree on its embedding", hint="make them again from the same base")


def _guard(patches: Sequence[Patch], ids: np.ndarray, originals: np.ndarray) -> Guard | None:
    """A guard that one of them has and none of them edits; else an edited row, which the head keeps as it was."""
    guards = [patch.guard for patch in patches if patch.guard is not None]
    free = [guard for guard in guards if guard.token_id not in ids]
    if free or not guards:
        return free[0] if free else None
    if patches[0].table.holds_head:
        raise PatchInvalid("each patch edits the token that guards the head of another one",
                           hint="apply them one after the other, and make one patch of the result")
    # Only as PEFT's list of ids must differ from the embedding's: the row itself is the original one.
    return Guard(int(ids[0]), originals[0])


def _factors(patches: Sequence[Patch], ids: np.ndarray) -> Factors | None:
    """The factors of all, side by side: a sum of products is a product."""
    known = [patch.factors for patch in patches if patch.factors is not None]
    if len(known) != len(patches):
        return None
    activations = np.zeros((len(ids), sum(factors.rank for factors in known)), np.float32)
    begin = 0
    for patch, factors in zip(patches, known, strict=True):
        activations[np.searchsorted(ids, patch.token_ids), begin:begin + factors.rank] = factors.activations
        begin += factors.rank
    return Factors(np.hstack([factors.directions for factors in known]), activations)
