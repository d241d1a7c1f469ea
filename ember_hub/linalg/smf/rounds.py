"""One alternating round of SMF, and the endless sequence of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from ember_hub.linalg.smf.products import Products
from ember_hub.linalg.smf.settings import SmfSettings
from ember_hub.linalg.smf.sparse import Columns, SparseColumns, overlap, strongest


class SingularRound(ArithmeticError):
    """A K × K system was not positive definite: the ridge is too small for this matrix."""


@dataclass(frozen=True)
class Round:
    """The state after a round: F = A · previous · mixing belongs to the new G, and is formed only when asked for.

    loss: ‖A − F Gᵀ‖² as a fraction of ‖A‖².
    newcomers: kept entries that the previous G did not have.
    """

    previous: Columns
    mixing: Tensor
    G: SparseColumns
    loss: float
    newcomers: int


def rounds(products: Products, G: Columns, ridge: float, settings: SmfSettings) -> Iterator[Round]:
    """The iterates from the start G, without end; `ridge` stands in for that of the settings.

    With H = AᵀAG, S = GᵀH and s the column norms of G, a round is
        B = (GᵀG + λI)⁻¹ diag(s), so that F = A G B and FᵀF = BᵀSB
        R = FᵀF + λI and Ĝ = AᵀF R⁻¹ = H B R⁻¹
        G' = the m largest magnitudes of each column of Ĝ
        loss = ‖A‖² − 2⟨G', AᵀF⟩ + ⟨FᵀF, G'ᵀG'⟩, from the kept entries alone.

    Source: EMBER (arXiv 2606.03695); its dense form is spelled out in the reference implementation of the benchmarks.
    """
    n = products.table.shape[0]
    m, gram = settings.kept_per_feature(n), overlap(G)
    if isinstance(G, SparseColumns):
        products.keep(G.index, None)
    for number in count():
        sums = products.sums(G)
        B, FtF, R = _dictionary(gram, sums.inner, ridge)
        if settings.pursuit and number >= settings.pursuit_from:
            scores = _pursued(G, gram, FtF, sums.activations(B.to(products.like)), settings.pursuit)
        else:
            scores = sums.activations(torch.cholesky_solve(B.T, _cholesky(R)).T.to(products.like))
        index, fresh = strongest(scores, m, G)
        products.keep(index, fresh)
        reached = sums.reached(B.to(products.like), index)
        value = _refitted(index, reached, R, n) if settings.refit else scores.gather(1, index)
        previous, G = G, SparseColumns(n, index, value)
        gram = overlap(G)
        loss = products.energy - 2 * float((value.double() * reached).sum()) + float((FtF * gram).sum())
        yield Round(previous, B, G, loss / products.energy, int(fresh.sum()))


def _pursued(G: Columns, gram: Tensor, FtF: Tensor, correlation: Tensor, step: float) -> Tensor:
    """G after a damped step towards each entry's own least squares, (K, n): what hard thresholding pursuit ranks.

    A kept entry is fitted already and hardly moves; one that is not kept gets what the residual asks of it. Ĝ instead
    ranks a solution without any zeros, which the refit then leaves: on real embeddings its support never rests.

    Source: Foucart (2011), "Hard thresholding pursuit", with one step size per feature.
    """
    # F carries the column norms of G, so G without them is what F was fitted to.
    held = ((G if isinstance(G, Tensor) else G.dense()) / gram.diagonal().sqrt().to(correlation)).T
    residual = correlation - FtF.to(held) @ held
    return held + residual * (step / FtF.diagonal()[:, None]).to(held)


def _dictionary(gram: Tensor, S: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """B, FᵀF and R = FᵀF + λI of a round, (K, K) in float64."""
    lengths = gram.diagonal().sqrt()
    if not bool((lengths > 0).all()):
        dead = int((~(lengths > 0)).sum())
        raise ValueError(f"{dead} of {len(lengths)} features became all zero: lower the rank or raise the sparsity")
    ridges = ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    B = torch.cholesky_inverse(_cholesky(gram + ridges)) * lengths
    FtF = B.T @ S @ B
    return B, FtF, FtF + ridges


def _cholesky(matrix: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(factor.diagonal().isfinite().all()):
        raise SingularRound(f"leading minor {int(info)} of {len(matrix)} is not positive definite")
    return factor


def _refitted(index: Tensor, reached: Tensor, R: Tensor, n: int) -> Tensor:
    """Values that solve each token's least squares on its kept features: R_TT g = (AᵀF)_T, (K, m)."""
    K, m = index.shape
    tokens, order = index.reshape(-1).sort(stable=True)
    features = order // m
    target = reached.reshape(-1)[order].double()
    value = torch.empty_like(target)
    sizes = torch.bincount(tokens, minlength=n)
    first = sizes.cumsum(0) - sizes
    for size in sizes.unique().tolist():
        if size == 0:
            continue
        entries = first[sizes == size][:, None] + torch.arange(size, device=index.device)
        chosen = features[entries]
        system = R[chosen[:, :, None], chosen[:, None, :]]
        value[entries] = torch.linalg.solve(system, target[entries])
    refitted = torch.empty_like(value)
    refitted[order] = value
    return refitted.reshape(K, m).to(reached)
