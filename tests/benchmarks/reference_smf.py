"""SMF as the paper writes it, step by step on dense matrices: what the fast forms must reproduce, and be faster than.

Source: EMBER (arXiv 2606.03695), written in our own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseRound:
    """F (d_model, K), G (n, K) with zeros, and the squared error of both."""

    F: Tensor
    G: Tensor
    loss: float


def dense_rounds(A: Tensor, G: Tensor, m: int, ridge: float = 1e-4) -> Iterator[DenseRound]:
    """The paper's iteration on A (d_model, n) from a dense G (n, K), without end."""
    ridges = ridge * torch.eye(G.shape[1], dtype=A.dtype)
    while True:
        F = A @ G @ torch.linalg.inv(G.T @ G + ridges)
        F = F * G.norm(dim=0)
        G = A.T @ F @ torch.linalg.inv(F.T @ F + ridges)
        kept = G.abs().topk(m, dim=0).indices
        G = torch.zeros_like(G).scatter_(0, kept, G.gather(0, kept))
        yield DenseRound(F, G, float((A - F @ G.T).pow(2).sum()))


@dataclass
class Patience:
    """The released code's stop rule: no gain above an absolute tolerance for many rounds."""

    tolerance: float = 1e-4
    patience: int = 500
    max_rounds: int = 20_000
    best: float = float("inf")
    rounds: int = 0
    waited: int = 0

    def ends(self, loss: float) -> bool:
        """Notes a round's loss; says whether the fit ends with it."""
        self.rounds += 1
        self.waited = 0 if loss < self.best - self.tolerance else self.waited + 1
        self.best = min(self.best, loss) if self.waited else loss
        return self.waited >= self.patience or self.rounds >= self.max_rounds


def dense_smf(A: Tensor, G: Tensor, m: int, ridge: float = 1e-4) -> tuple[DenseRound, int]:
    """The best round of a whole fit by the paper's stop rule, and the number of rounds it took."""
    watch, best = Patience(), None
    for latest in dense_rounds(A, G, m, ridge):
        if best is None or latest.loss < best.loss:
            best = latest
        if watch.ends(latest.loss):
            return best, watch.rounds
    raise AssertionError("the rounds do not end by themselves")
