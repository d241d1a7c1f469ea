"""What to fit and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

# Where the Gram matrix pays: measured against the thin form in float32 and float64.
_GRAM_PAYS = 12


@dataclass(frozen=True)
class SmfSettings:
    """One way to factorize; `paper`, `plus` and `pursuing` are those that are measured.

    rank: number of features K.
    sparsity: fraction g of the n tokens that each feature keeps, m = ⌈g·n⌉.
    ridge: λ of both least-squares steps.
    stop: `support` ends when the kept entries were the same for `quiet_rounds` rounds; `gain` ends when the best loss
        fell by less than `min_gain` of ‖A‖² in `patience` rounds; `either` ends at the first of the two.
        The released code stops by `gain` with patience 500 and spends most of its rounds on a converged solution.
    start: `randn` is the paper's dense random G; `seeds` builds G on K tokens far from each other.
    refit: solve every token's least squares on its kept features, so that G is optimal on its support.
    pursuit: if not 0, the step of hard thresholding pursuit, which chooses the kept entries from round `pursuit_from`
        on by what they take off the loss; needs `refit`. Above 0.5 it cycles.
    form: `gram` keeps AᵀA (n × n), `thin` keeps A (d × n); `auto` takes the cheaper.
    dtype: float64 is the default because the first rounds are chaotic: one float32 rounding that swaps one kept entry
        leads to other features.
    """

    rank: int
    sparsity: float = 0.01
    ridge: float = 1e-4
    max_rounds: int = 2000
    stop: Literal["support", "gain", "either"] = "support"
    quiet_rounds: int = 20
    patience: int = 50
    min_gain: float = 1e-6
    start: Literal["randn", "seeds"] = "randn"
    refit: bool = False
    pursuit: float = 0.0
    pursuit_from: int = 12
    form: Literal["auto", "gram", "thin"] = "auto"
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        _require(self.rank >= 1, f"rank must be at least 1, not {self.rank}")
        _require(0 < self.sparsity <= 1, f"sparsity must lie in (0, 1], not {self.sparsity}")
        _require(self.ridge > 0, f"ridge must be positive, not {self.ridge}")
        _require(self.max_rounds >= 1, f"max_rounds must be at least 1, not {self.max_rounds}")
        _require(self.quiet_rounds >= 1, f"quiet_rounds must be at least 1, not {self.quiet_rounds}")
        _require(self.patience >= 1, f"patience must be at least 1, not {self.patience}")
        _require(0 <= self.pursuit <= 1, f"pursuit must lie in [0, 1], not {self.pursuit}")
        _require(self.refit or not self.pursuit, "pursuit chooses entries for a refit: set refit=True")
        _require(self.stop in ("support", "gain", "either"), f"unknown stop rule {self.stop!r}")
        _require(self.start in ("randn", "seeds"), f"unknown start {self.start!r}")
        _require(self.form in ("auto", "gram", "thin"), f"unknown form {self.form!r}")
        _require(self.dtype in (torch.float32, torch.float64), f"dtype must be float32 or float64, not {self.dtype}")

    @classmethod
    def paper(cls, rank: int, **changes: Any) -> SmfSettings:
        """The paper's algorithm: random start, no refit; ends 20 rounds after the support came to rest."""
        return cls(rank, **changes)

    @classmethod
    def plus(cls, rank: int, **changes: Any) -> SmfSettings:
        """Our variant with a lower loss: seed start and refit. Not the paper's features: say which one was used."""
        # The refit is prone to two-cycles of the support, so a quiet support alone might never come.
        return cls(rank, **{"start": "seeds", "refit": True, "stop": "either", **changes})

    @classmethod
    def pursuing(cls, rank: int, **changes: Any) -> SmfSettings:
        """`plus` with entries chosen by pursuit: the lowest loss, and a support that comes to rest."""
        return cls.plus(rank, **{"pursuit": 0.4, **changes})

    def kept_per_feature(self, n: int) -> int:
        """m = ⌈g·n⌉, without the extra entry that rounding gives at 0.01 · 700 = 7.000000000000001."""
        return math.ceil(self.sparsity * n - 1e-9)

    def form_for(self, d_model: int, n: int) -> Literal["gram", "thin"]:
        """The cheaper form: products with AᵀA cost g·n²·K + n·K² per round, with A they cost d·n·K."""
        if self.form != "auto":
            return self.form
        return "gram" if d_model > self.rank + _GRAM_PAYS * self.sparsity * n else "thin"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
