"""A patch as a value: which rows of one embedding are replaced, by what, and what they were.

Rows are raw bytes in the base's own dtype: nothing is rounded between the base, the patch and what it is applied to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ember_hub.errors import PatchInvalid
from ember_hub.patches import numerics

if TYPE_CHECKING:
    from torch import nn

Format = Literal["tokens", "lora-embed"]
ALL = slice(None)
_AGAIN = "download the patch again, or make it again from its run"


@dataclass(frozen=True)
class PatchedBase:
    """The model that a patch was made for."""

    name: str
    """What adapters call it: the repository, or the folder of a base without one."""
    repo: str | None
    commit: str | None
    """The repository's commit; for a folder or a GGUF file its fingerprint."""
    source: str
    """"hub", "folder" or "gguf"."""

    @property
    def title(self) -> str:
        """The base for people: repository and the beginning of the commit."""
        return f"{self.repo or Path(self.name).name}{f'@{self.commit[:12]}' if self.commit else ''}"


@dataclass(frozen=True)
class Table:
    """The embedding whose rows are replaced, and the head beside it; all of it facts of the base.

    Attributes:
        parameter: its name in the loaded model.
        tensor: its name in the base's checkpoint.
        head: parameter name of the output head, where the model has one.
        holds_head: whether the base's checkpoint holds the head as a tensor of its own.
        is_tied: whether the base's head is its embedding.
        dtype: safetensors' name of the number type, such as "BF16".
        embed_scale: what the model multiplies its embedding by; rows are stored without it.
        model_type: as config.json says.
    """

    parameter: str
    tensor: str
    head: str | None
    holds_head: bool
    is_tied: bool
    dtype: str
    vocab: int
    d_model: int
    embed_scale: float
    model_type: str | None

    @property
    def row_size(self) -> int:
        """Bytes of one row."""
        return self.d_model * numerics.ITEM_SIZES[self.dtype]

    @property
    def module(self) -> str:
        """Path of the embedding in the loaded model."""
        return self.parameter.removesuffix(".weight")


@dataclass(frozen=True, eq=False)
class Guard:
    """A row of the head, as it is, by which PEFT takes tied weights as separate; only a tied base needs one."""

    token_id: int
    row: np.ndarray
    """Raw bytes (row_size,)."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The change of the rows as a product: new ≈ original + activations @ directions.T, before rounding to the dtype."""

    directions: np.ndarray
    """float32 (d_model, rank), in the units of the stored embedding."""
    activations: np.ndarray
    """float32 (n, rank), a row for each token id."""

    @property
    def rank(self) -> int:
        return self.directions.shape[1]

    def product(self, rows: slice = ALL) -> np.ndarray:
        """The change of these rows: float64 (n, d_model)."""
        return self.activations[rows].astype(np.float64) @ self.directions.T.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Patch:
    """Rows of one embedding to be replaced, and what is known of the base.

    Attributes:
        token_ids: int64 (n,), rising.
        rows: raw bytes (n, row_size) of the new rows.
        originals: the base's rows, for undoing; None in a patch that came without them.
        original_sha256: digest of the base's rows, by which a base is known.
        guard: there exactly when the head must stay while its tied embedding changes.
        factors: the change as a product, where it is known to be one.
        not_carried: what the edited model has and the patch has not: names of methods and of parameters.
        config: the text of a tied base's config.json, so that undoing gives it back byte for byte.
    """

    base: PatchedBase
    table: Table
    token_ids: np.ndarray
    rows: np.ndarray
    originals: np.ndarray | None
    original_sha256: str
    guard: Guard | None = None
    factors: Factors | None = None
    not_carried: Mapping[str, Sequence[str]] = field(default_factory=dict)
    config: str | None = None
    format: Format = "tokens"

    @classmethod
    def open(cls, folder: Path | str) -> Patch:
        """Reads and checks a patch folder, whichever of the two formats it has; reads nothing else.

        Raises:
            PatchInvalid: it is no patch, or contradicts itself: ids, shapes, hashes, values that are not numbers.
            CorruptCheckpoint, DiskError: a file of it is truncated, damaged or not readable.
        """
        from ember_hub.patches.folder import read

        return read(Path(folder))

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def new_sha256(self) -> str:
        """Digest of the new rows' bytes."""
        return sha256(self.rows)

    def required_originals(self, purpose: str) -> np.ndarray:
        """The base's rows.

        Raises:
            PatchInvalid: the patch came without them.
        """
        if self.originals is None:
            raise PatchInvalid(f"the patch for {self.base.title} came without the base's rows, which are needed to {purpose}",
                               hint="put its undo.safetensors back into its folder, or make it again from its run")
        return self.originals

    def deltas(self, purpose: str, rows: slice | np.ndarray = ALL) -> np.ndarray:
        """New minus original of these rows, float64 (n, d_model), in the units of the stored embedding."""
        originals, code = self.required_originals(purpose)[rows], self.table.dtype
        return numerics.decode(self.rows[rows], code).astype(np.float64) - numerics.decode(originals, code)

    def apply_to(self, model: nn.Module) -> None:
        """Write the new rows into a loaded model, whose head keeps the old ones where the two were one.

        Raises:
            WrongBase: the model holds other rows than those the patch was made for; nothing is changed.
        """
        from ember_hub.patches.memory import apply_to

        apply_to(self, model)

    def remove_from(self, model: nn.Module) -> None:
        """Put a loaded model's own rows back, bit for bit, and tie head and embedding again where the base does.

        Raises:
            WrongBase: the model does not hold the patch's rows; nothing is changed.
            PatchInvalid: the patch came without the base's rows.
        """
        from ember_hub.patches.memory import remove_from

        remove_from(self, model)


def sha256(rows: np.ndarray) -> str:
    """Hex digest of raw rows, as they would lie one after the other in a file."""
    return hashlib.sha256(memoryview(np.ascontiguousarray(rows)).cast("B")).hexdigest()


def rows_of_factors(factors: Factors, originals: np.ndarray, code: str) -> np.ndarray:
    """The raw new rows that these factors make of the original ones."""
    rows = np.empty_like(originals)
    for block in numerics.blocks(*originals.shape):
        before = numerics.decode(originals[block], code).astype(np.float64)
        rows[block] = numerics.encode(before + factors.product(block), code)
    return rows


def check(patch: Patch) -> Patch:
    """The patch itself, once ids, shapes and values fit each other and its table.

    Raises:
        PatchInvalid: they do not.
    """
    table, ids = patch.table, patch.token_ids
    outside = ids[(ids < 0) | (ids >= table.vocab)]
    if len(ids) == 0:
        raise PatchInvalid("the patch replaces no row", hint=_AGAIN)
    if len(outside):
        raise PatchInvalid(f"the vocabulary has ids 0 to {table.vocab - 1}; out of range: {outside[:5].tolist()}", hint=_AGAIN)
    if (np.diff(ids) <= 0).any():
        wrong = ids[1:][np.diff(ids) <= 0]
        raise PatchInvalid(f"token ids must rise, each named once; not so: {wrong[:5].tolist()}", hint=_AGAIN)
    check_rows(table, ids, patch.rows, "new")
    if patch.originals is not None:
        check_rows(table, ids, patch.originals, "original")
        if sha256(patch.originals) != patch.original_sha256:
            raise PatchInvalid("the original rows with the patch are not those it was made for: their hash differs", hint=_AGAIN)
    if patch.guard is not None:
        check_rows(table, np.array([patch.guard.token_id]), patch.guard.row[None], "guarding")
    return patch


def check_rows(table: Table, ids: np.ndarray, rows: np.ndarray, title: str) -> None:
    """Checks that raw rows are those of these tokens (n,), in number, size and values.

    Raises:
        PatchInvalid: they are not.
    """
    if rows.shape != (len(ids), table.row_size):
        raise PatchInvalid(f"the {title} rows are {rows.shape[0]} of {rows.shape[1]} bytes, expected {len(ids)} of "
                           f"{table.row_size}", hint=_AGAIN)
    broken = ids[~numerics.finite_rows(rows, table.dtype)]
    if len(broken):
        raise PatchInvalid(f"the {title} rows of tokens {broken[:5].tolist()} hold values that are not numbers", hint=_AGAIN)
