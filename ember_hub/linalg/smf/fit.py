"""Rounds until the stop rule holds, for one or several seeds of the same matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ember_hub.linalg.smf.products import Products, products_for
from ember_hub.linalg.smf.rounds import Round, SingularRound, rounds
from ember_hub.linalg.smf.settings import SmfSettings
from ember_hub.linalg.smf.sparse import SparseColumns
from ember_hub.linalg.smf.start import start
from ember_hub.linalg.smf.table import Table, WholeRows, broken_entries, weighted

OnRound = Callable[[int, int, float], None]
"""Called after each round with the seed, the round (from 1) and the loss as a fraction of ‖A‖²."""

_RIDGE_RETRIES = 4


@dataclass(frozen=True)
class Factors:
    """A ≈ F Gᵀ, the best round of one fit.

    F: (d_model, K), the directions.
    G: (n, K) with exactly m kept entries per column.
    losses: (rounds,) float64, ‖A − F Gᵀ‖² / ‖A‖² after each round.
    ridge: the λ that was used: the asked one, or ten times it for each retry.
    stopped: the rule that ended the fit; `rounds` means that max_rounds came first.
    """

    F: Tensor
    G: SparseColumns
    losses: Tensor
    seed: int
    form: Literal["gram", "thin"]
    ridge: float
    stopped: Literal["support", "gain", "rounds"]

    @property
    def rounds(self) -> int:
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The lowest loss: that of F and G."""
        return float(self.losses.min())


def factorize(
    A: Tensor, settings: SmfSettings, seeds: Sequence[int] = (0,), on_round: OnRound | None = None
) -> list[Factors]:
    """Factorizes A (d_model, n) once per seed; all seeds share the products that depend on A alone.

    Multiplying A by a constant multiplies F by it and leaves G alone, up to the ridge.

    Raises:
        ValueError: A is not a finite matrix, has fewer columns than features, or some features became all zero.
    """
    if A.ndim != 2 or not A.is_floating_point():
        raise ValueError(f"expected a floating-point matrix (d_model, n), got {A.dtype} of shape {tuple(A.shape)}")
    return list(factorize_rows(WholeRows(A.T.to(settings.dtype).contiguous()), settings, seeds, on_round))


def factorize_rows(
    table: Table, settings: SmfSettings, seeds: Sequence[int] = (0,), on_round: OnRound | None = None
) -> Iterator[Factors]:
    """The same for a matrix that is given token by token, as Aᵀ (n, d_model), and need not be in memory as a whole.

    One seed after the other, so that the factors of all need not be held in float64.

    Raises:
        ValueError: as `factorize`.
    """
    _check(table, settings)
    n, d_model = table.shape
    products = products_for(table, settings.form_for(d_model, n), settings.dtype)
    if not products.energy > 0:
        raise ValueError("every entry of the matrix is zero: there is nothing to factorize")
    for seed in seeds:
        yield _fit(products, settings, seed, on_round)


@dataclass
class _Watch:
    """The stop rule, and the best round so far."""

    settings: SmfSettings
    losses: list[float] = field(default_factory=list)
    best: Round | None = None
    _quiet: int = 0
    _reference: float = float("inf")
    _waited: int = 0

    def see(self, latest: Round) -> Literal["support", "gain", "rounds"] | None:
        """Notes a round; says which rule ends the fit, if one does."""
        self.losses.append(latest.loss)
        if self.best is None or latest.loss < self.best.loss:
            self.best = latest
        self._quiet = 0 if latest.newcomers else self._quiet + 1
        if latest.loss < self._reference - self.settings.min_gain:
            self._reference, self._waited = latest.loss, 0
        else:
            self._waited += 1
        if self.settings.stop != "gain" and self._quiet >= self.settings.quiet_rounds:
            return "support"
        if self.settings.stop != "support" and self._waited >= self.settings.patience:
            return "gain"
        return "rounds" if len(self.losses) >= self.settings.max_rounds else None


def _fit(products: Products, settings: SmfSettings, seed: int, on_round: OnRound | None) -> Factors:
    """One seed; a system that is not positive definite starts anew with ten times the ridge, at most four times."""
    begin = start(products, settings, seed)
    for retry in range(_RIDGE_RETRIES + 1):
        ridge, watch = settings.ridge * 10**retry, _Watch(settings)
        try:
            for latest in rounds(products, begin, ridge, settings):
                stopped = watch.see(latest)
                if on_round is not None:
                    on_round(seed, len(watch.losses), latest.loss)
                if stopped is not None:
                    return _factors(products, watch, seed, ridge, stopped)
        except SingularRound as singular:
            if retry == _RIDGE_RETRIES:
                raise ValueError(f"no positive definite system, even with ridge {ridge:g}: {singular}") from singular
    raise AssertionError("the rounds do not end by themselves")


def _factors(
    products: Products, watch: _Watch, seed: int, ridge: float, stopped: Literal["support", "gain", "rounds"]
) -> Factors:
    best = watch.best
    assert best is not None
    sums = weighted(best.previous, products.table, products.like.dtype)
    F = (best.mixing.to(products.like).T @ sums).T.contiguous()
    losses = torch.tensor(watch.losses, dtype=torch.float64)
    return Factors(F, best.G.sorted(), losses, seed, products.name, ridge, stopped)


def _check(table: Table, settings: SmfSettings) -> None:
    """Refuses what is not a matrix that can be factorized."""
    n = table.shape[0]
    if settings.rank > n:
        raise ValueError(f"rank {settings.rank} exceeds the {n} columns: lower the rank to {n} or less")
    if settings.kept_per_feature(n) < 1:
        raise ValueError(f"sparsity {settings.sparsity} of {n} columns keeps no entry: raise it above {1 / n:.2g}")
    if broken := broken_entries(table):
        raise ValueError(f"{broken} entries of the matrix are not finite numbers")
