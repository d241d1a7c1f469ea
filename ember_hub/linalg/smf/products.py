"""The products with A that a round needs, in two forms that give the same iterates.

Both hold a table with one row per token and start a round with the weighted sums of the kept rows:

    GramForm  table M = AᵀA (n, n)   H = M G     S = GᵀH         Ĝ = H C      AᵀF = H B
    ThinForm  table Aᵀ (n, d)        Y = A G     S = YᵀY         Ĝ = Aᵀ(Y C)  AᵀF = Aᵀ(Y B)

Activations are stored feature by feature, (K, n): the search for the largest then runs over contiguous memory.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from ember_hub.linalg.smf.sparse import Columns, weighted_rows
from ember_hub.linalg.smf.table import Table, WholeRows, gram, in_full

# Copies make a round up to twice as fast, but at K = 200 and n = 5000 they would take twice the memory of AᵀA.
_MOST_COPIED = 256 * 2**20


class Sums(Protocol):
    """What A says about one G, before the round's K × K matrices are known."""

    inner: Tensor
    """S = GᵀAᵀAG in float64, (K, K)."""

    def activations(self, C: Tensor) -> Tensor:
        """Ĝᵀ = (AᵀA G C)ᵀ, (K, n)."""
        ...

    def reached(self, B: Tensor, index: Tensor) -> Tensor:
        """AᵀF with F = A G B at the entries (K, m) that `Products.keep` was last told of."""
        ...


class Products(Protocol):
    """A in one form; `table` is Aᵀ (n, d), `energy` is ‖A‖² = tr AᵀA, the loss of an empty factorization.

    like: no entries, but of the number type and on the device of all products.
    """

    name: Literal["gram", "thin"]
    table: Table
    like: Tensor
    energy: float

    def sums(self, G: Columns) -> Sums: ...

    def keep(self, index: Tensor, fresh: Tensor | None) -> None:
        """Makes ready for a G with these kept entries; `fresh` marks those that the last call did not have."""
        ...

    def similarity(self, token: int) -> Tensor:
        """One row of AᵀA, (n,)."""
        ...


class KeptRows:
    """Copies of the table's rows that the kept entries point to, feature by feature, (K, m, p).

    Supports change little from round to round: only newcomers are copied, and a weighted sum is one pass over
    contiguous memory. In float64 that takes half the time of a gather.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._copies = table.new_empty(0, 0, table.shape[1])

    def renew(self, index: Tensor, fresh: Tensor | None) -> None:
        if self._copies.shape[:2] != index.shape:
            self._copies = self._table.new_empty(*index.shape, self._table.shape[1])
            fresh = None
        flat = self._copies.view(-1, self._table.shape[1])
        if fresh is None or bool(fresh.all()):
            torch.index_select(self._table, 0, index.reshape(-1), out=flat)
        else:
            flat.index_copy_(0, fresh.reshape(-1).nonzero()[:, 0], self._table.index_select(0, index[fresh]))

    def weighted(self, value: Tensor) -> Tensor:
        """The sum of each feature's rows, weighted by `value` (K, m): (K, p)."""
        # A given output makes the batched product run as plain matrix-vector products: three times as fast.
        sums = value.new_empty(len(value), 1, self._table.shape[1])
        return torch.bmm(value[:, None], self._copies, out=sums)[:, 0]

    def dots(self, directions: Tensor) -> Tensor:
        """The product of each feature's rows with its direction (K, p): (K, m)."""
        return torch.bmm(self._copies, directions[:, :, None])[:, :, 0]


class GramForm:
    """A round without A: all products through M = AᵀA, for d_model large against g·n.

    Memory: n² numbers, and in float64 on a CPU g·K·n² more for the kept rows, as long as these are few.
    """

    name: Literal["gram", "thin"] = "gram"

    def __init__(self, table: Table, dtype: torch.dtype) -> None:
        self.table = table
        self._M = gram(table, dtype)
        self.like = self._M.new_empty(0)
        self.energy = float(self._M.diagonal().double().sum())
        # In float32, and on a GPU, embedding_bag gathers as fast as memory delivers; in float64 it is scalar code.
        self._has_fast_gather = dtype == torch.float32 or self._M.device.type != "cpu"
        self._kept: KeptRows | None = None

    def keep(self, index: Tensor, fresh: Tensor | None) -> None:
        copied = index.numel() * self._M.shape[1] * self._M.itemsize
        if self._has_fast_gather or copied > _MOST_COPIED:
            return
        self._kept = self._kept or KeptRows(self._M)
        self._kept.renew(index, fresh)

    def sums(self, G: Columns) -> Sums:
        is_sparse = not isinstance(G, Tensor)
        return _GramSums(self._kept.weighted(G.value) if self._kept and is_sparse else weighted_rows(G, self._M), G)

    def similarity(self, token: int) -> Tensor:
        return self._M[token]


class _GramSums:
    def __init__(self, by_feature: Tensor, G: Columns) -> None:
        self._by_feature = by_feature
        self._by_token = by_feature.T.contiguous()
        self.inner = weighted_rows(G, self._by_token).double()

    def activations(self, C: Tensor) -> Tensor:
        return C.T @ self._by_feature

    def reached(self, B: Tensor, index: Tensor) -> Tensor:
        gathered = self._by_token.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        return torch.bmm(gathered, B.T[:, :, None])[:, :, 0]


class ThinForm:
    """A round with A itself, for small d_model or a whole vocabulary.

    Memory: n·d numbers, and g·K·n·d more for the kept rows.
    """

    name: Literal["gram", "thin"] = "thin"

    def __init__(self, table: Table, dtype: torch.dtype) -> None:
        self._rows = in_full(table, dtype)
        self.table = WholeRows(self._rows)
        self.like = self._rows.new_empty(0)
        self.energy = float(torch.linalg.vector_norm(self._rows, dtype=torch.float64) ** 2)
        self._kept = KeptRows(self._rows)

    def keep(self, index: Tensor, fresh: Tensor | None) -> None:
        self._kept.renew(index, fresh)

    def sums(self, G: Columns) -> Sums:
        by_feature = weighted_rows(G, self._rows) if isinstance(G, Tensor) else self._kept.weighted(G.value)
        return _ThinSums(by_feature, self._rows, self._kept)

    def similarity(self, token: int) -> Tensor:
        return self._rows @ self._rows[token]


class _ThinSums:
    def __init__(self, by_feature: Tensor, rows: Tensor, kept: KeptRows) -> None:
        self._by_feature, self._rows, self._kept = by_feature, rows, kept
        self.inner = (by_feature @ by_feature.T).double()

    def activations(self, C: Tensor) -> Tensor:
        return (C.T @ self._by_feature) @ self._rows.T

    def reached(self, B: Tensor, index: Tensor) -> Tensor:
        return self._kept.dots(B.T @ self._by_feature)


def products_for(table: Table, form: Literal["gram", "thin"], dtype: torch.dtype = torch.float64) -> Products:
    """The products with the matrix in the chosen form."""
    return GramForm(table, dtype) if form == "gram" else ThinForm(table, dtype)
