"""A measured number with what it takes to believe it: how many, how uncertain, and what chance alone would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

Unit = Literal["accuracy", "probability", "mass", "nats", "fraction"]
Z95 = 1.959963984540054
RESAMPLES = 2000
FLIPS = 10_000
EXACT_PAIRS = 12


@dataclass(frozen=True)
class Score:
    """One number of a report. `low` and `high` bound it at 95 %; `chance` is None where chance means nothing."""

    name: str
    stage: str
    split: str
    value: float
    n: int
    low: float
    high: float
    unit: Unit
    chance: float | None = None
    better: Literal["higher", "lower"] = "higher"
    """Which way a model that keeps its abilities should move."""
    p: float | None = None
    """Probability of a difference as large in pairs if there were none: to the base, or to the same state before the attack."""

    def to_json(self) -> dict:
        return asdict(self)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a proportion; `successes` may be fractional (means over presentations).

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(columns: Sequence[Sequence[float]], statistic, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of `statistic(*columns)` under resampling of rows, the columns paired.

    `statistic` takes arrays of shape (resamples, n), one for each column, and returns (resamples,).
    """
    arrays = [np.asarray(c, dtype=float) for c in columns]
    n = len(arrays[0])
    if n == 0:
        return math.nan, math.nan
    rows = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    values = statistic(*(a[rows] for a in arrays))
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def proportion(name: str, stage: str, split: str, values: Sequence[float], chance: float | None) -> Score:
    """A mean of per-question accuracies, with Wilson's interval."""
    n = len(values)
    mean = sum(values) / n if n else math.nan
    return Score(name, stage, split, mean, n, *wilson(sum(values), n), unit="accuracy", chance=chance)


def mean(name: str, stage: str, split: str, values: Sequence[float], unit: Unit, chance: float | None = None) -> Score:
    """A mean of continuous values, with a bootstrap interval."""
    low, high = bootstrap([values], lambda v: v.mean(axis=1))
    return Score(name, stage, split, float(np.mean(values)) if len(values) else math.nan, len(values), low, high,
                 unit=unit, chance=chance)


def paired_p(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> float | None:
    """Two-sided p of the mean difference of paired values, by flipping the signs of the differences; None without pairs.

    Exact up to twelve differing pairs, beyond that from random flips. Source: Fisher 1935, The Design of Experiments, section 21.
    """
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if not len(differences):
        return None
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    if len(moved) <= EXACT_PAIRS:
        signs = 1 - 2 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        extreme, all_ = 0, len(signs)
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), (FLIPS, len(moved)))
        # The observed assignment counts as one of the flips, so that p is never 0.
        extreme, all_ = 1, FLIPS + 1
    # A hair's breadth, so that sums in another order are not more extreme by rounding.
    return float((extreme + np.sum(np.abs(signs @ moved) >= abs(moved.sum()) * (1 - 1e-9))) / all_)
