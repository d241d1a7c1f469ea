"""The matrix to factorize, token by token, and what is asked of it as a whole: worked out a part at a time where it is large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ember_hub.linalg.smf.sparse import Columns, weighted_rows

# Rows of small models stay in one piece. Parts of wider ones are wide enough for fast products, and narrow enough that they
# are small beside AᵀA, also in float64.
_WHOLE, _WIDTH = 1024, 256
_BLOCK, _FEW = 256, 32


@dataclass(frozen=True)
class WholeRows:
    """Aᵀ (n, d) as it lies in memory."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def portions(self) -> list[slice]:
        """Which columns each part has, from left to right."""
        return [slice(0, self.values.shape[1])]

    def parts(self) -> Iterator[Tensor]:
        """The columns of Aᵀ in portions; here all at once."""
        yield self.values


@dataclass(frozen=True)
class ScaledRows:
    """Rows (n, d), each less their mean, to unit length, and times its weight, without a second copy of them.

    rows: as they are stored, in any floating-point type; mean (d,), norms (n,), weights (n,): float32.

    At d_model 16384 the rows take 160 MB in bfloat16; a centred copy in float64 would take 650 MB.
    """

    rows: Tensor
    mean: Tensor
    norms: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor) -> ScaledRows:
        """The rows centred on their mean and scaled to unit length."""
        mean = torch.cat([rows[:, part].float().mean(dim=0) for part in _portions(rows.shape[1])])
        norms = torch.cat([(part.float() - mean).norm(dim=1) for part in rows.split(_FEW)])
        return cls(rows, mean, norms.clamp(min=1e-12))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self.rows.shape[1]

    def weighing(self, weights: Tensor) -> ScaledRows:
        """The same rows, each times its weight (n,)."""
        return replace(self, weights=weights)

    def portions(self) -> list[slice]:
        """Which columns each part has, from left to right."""
        return _portions(self.rows.shape[1])

    def parts(self) -> Iterator[Tensor]:
        """The columns in float32, some hundred at a time."""
        for columns in self.portions():
            part = (self.rows[:, columns].float() - self.mean[columns]) / self.norms[:, None]
            yield part if self.weights is None else part * self.weights[:, None]


Table = WholeRows | ScaledRows


def _portions(d_model: int) -> list[slice]:
    width = d_model if d_model <= _WHOLE else _WIDTH
    return [slice(low, min(low + width, d_model)) for low in range(0, d_model, width)]


def as_table(rows: Tensor | Table) -> Table:
    """A tensor Aᵀ (n, d) as a table; a table as it is."""
    return WholeRows(rows) if isinstance(rows, Tensor) else rows


def in_full(table: Table, dtype: torch.dtype) -> Tensor:
    """Aᵀ (n, d) in one piece."""
    return torch.cat([part.to(dtype) for part in table.parts()], dim=1).contiguous()


def gram(table: Table, dtype: torch.dtype) -> Tensor:
    """AᵀA (n, n): the blocks above the diagonal, and their mirror."""
    n = table.shape[0]
    M: Tensor | None = None
    for part in table.parts():
        part = part.to(dtype)
        M = part.new_zeros(n, n) if M is None else M
        for low in range(0, n, _BLOCK):
            M[low : low + _BLOCK, low:].addmm_(part[low : low + _BLOCK], part[low:].T)
    assert M is not None, "a matrix has columns"
    for low in range(0, n, _BLOCK):
        high = min(low + _BLOCK, n)
        M[high:, low:high] = M[low:high, high:].T
    return M


def cosines(table: Table, tokens: Tensor) -> Tensor:
    """The products of all rows with those of some tokens: (n, tokens)."""
    return _sum(part @ part[tokens].T for part in table.parts())


def products_with(table: Table, others: Tensor) -> Tensor:
    """The products of all rows with other ones (any, d): (n, any)."""
    return _sum(part @ others[:, columns].T for part, columns in zip(table.parts(), table.portions(), strict=True))


def _sum(parts: Iterator[Tensor]) -> Tensor:
    return reduce(torch.Tensor.add_, parts)


def weighted(G: Columns, table: Table, dtype: torch.dtype) -> Tensor:
    """Gᵀ Aᵀ: for each feature the weighted sum of its rows, (K, d)."""
    return torch.cat([weighted_rows(G, part.to(dtype).contiguous()) for part in table.parts()], dim=1)


def lengths(table: Table, dtype: torch.dtype) -> Tensor:
    """‖a_i‖ of every token, (n,)."""
    parts = [part.to(dtype).norm(dim=1) for part in table.parts()]
    return parts[0] if len(parts) == 1 else torch.stack(parts).norm(dim=0)


def broken_entries(table: Table) -> int:
    """How many entries are no finite numbers."""
    return sum(int((~part.isfinite()).sum()) for part in table.parts())
