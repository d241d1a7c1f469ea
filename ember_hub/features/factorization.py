"""The embedding rows of V' as features: E[V'] ≈ mean + norm · F Gᵀ, for several seeds.

Rows are centred on their mean and scaled to unit length, so that no feature is spent on what all tokens share or on the
few long rows; tokens that are believed to be the concept's own weigh more, so that features are spent on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ember_hub.concepts.labels import TokenLabels
from ember_hub.errors import CorruptCheckpoint, FeatureError
from ember_hub.features import statistics
from ember_hub.linalg.smf import ScaledRows, SmfSettings, factorize_rows

_WIDE = 1024
_AT_ONCE = 512


@dataclass(frozen=True)
class FactorizationSettings:
    """rank: features per seed; none means 200 from d_model 1024 on, else 100 (the paper's two cases).

    seeds: independent fits; features differ between seeds, so what matters is what most of them agree on.
    emphasis: how much more a token that is certainly the concept's own weighs than any other; 0 is the paper's plain fit.
    sparsity: fraction of the tokens that each feature keeps.
    method: `paper` or `plus` (SmfSettings).
    """

    rank: int | None = None
    sparsity: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    emphasis: float = 0.75
    method: str = "paper"

    def rank_for(self, d_model: int, n: int) -> int:
        """The rank for a model's width; a small vocabulary gets fewer features, so that each still has rows to keep."""
        return self.rank or min(200 if d_model >= _WIDE else 100, max(2, n // 8))


@dataclass(frozen=True)
class Factorization:
    """E[V'] as features.

    token_ids: (n,) int64; mean: (d,), the mean row; norms: (n,), the length of each centred row.
    belief: (n,), log-odds that a token is the concept's own; kinship: (n,), its closeness to the surest ones.
    weights: (n,), what each row weighed in the fit.
    F: (seeds, d, K); index, value: (seeds, K, m), the kept entries of G; losses: (seeds,), ‖A − F Gᵀ‖² / ‖A‖².
    """

    token_ids: Tensor
    mean: Tensor
    norms: Tensor
    belief: Tensor
    kinship: Tensor
    weights: Tensor
    F: Tensor
    index: Tensor
    value: Tensor
    losses: Tensor
    settings: FactorizationSettings

    def activations(self, seed: int) -> Tensor:
        """(n, K): G of one seed (by position) in raw embedding units, so that F[seed] @ G[i] is a part of row i."""
        n = len(self.token_ids)
        G = self.value.new_zeros(n, self.F.shape[2]).scatter_(0, self.index[seed].T, self.value[seed].T)
        return G * (self.norms / self.weights)[:, None]

    def unit(self, rows: Tensor) -> Tensor:
        """Rows (any, d) centred on the mean of V' and scaled to unit length."""
        return torch.nn.functional.normalize(rows.float() - self.mean, dim=1)

    def save(self, path: Path) -> None:
        """Write as safetensors, under a temporary name first."""
        part = path.with_name(path.name + ".part")
        save_file({name: getattr(self, name).contiguous() for name in _TENSORS}, part,
                  metadata={"settings": json.dumps(asdict(self.settings))})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Factorization:
        with safe_open(path, "pt") as file:
            written = json.loads(file.metadata()["settings"])
            settings = FactorizationSettings(**{**written, "seeds": tuple(written["seeds"])})
            return cls(**{name: file.get_tensor(name) for name in _TENSORS}, settings=settings)


_TENSORS = ("token_ids", "mean", "norms", "belief", "kinship", "weights", "F", "index", "value", "losses")


def fit(rows: Tensor, labels: TokenLabels, settings: FactorizationSettings = FactorizationSettings(),
        on_round: Callable[[int, int, float], None] | None = None) -> Factorization:
    """Factorize the rows (n, d), in any floating-point type, of the tokens in `labels`, once per seed.

    No second copy of the rows is made: memory is about 3 n² numbers in float64, whatever d is.

    on_round: called with the seed, the round (from 1) and the loss.

    Raises:
        CorruptCheckpoint: a row holds NaN or infinity.
        FeatureError: the rank does not suit the rows.
    """
    broken = ~torch.cat([part.isfinite().all(dim=1) for part in rows.split(_AT_ONCE)])
    if broken.any():
        ids = labels.token_ids[broken][:5].tolist()
        raise CorruptCheckpoint(f"{int(broken.sum())} embedding rows hold NaN or infinity (token ids {ids}…)",
                                hint="download the checkpoint again, or take one that was saved in bfloat16")
    unit = ScaledRows.of(rows)
    belief = statistics.belief(labels, unit)
    weights = (1 + settings.emphasis * statistics.certainty(belief)).float()
    rank = settings.rank_for(rows.shape[1], len(rows))
    preset = SmfSettings.plus if settings.method == "plus" else SmfSettings.paper
    how = preset(rank, sparsity=settings.sparsity)
    try:
        factors = [_Kept(f.F.float(), f.G.index, f.G.value.float(), f.loss)
                   for f in factorize_rows(unit.weighing(weights), how, settings.seeds, on_round)]
    except ValueError as error:
        raise FeatureError(f"the factorization of {len(rows)} rows fails at rank {rank}: {error}",
                           hint=f"try --set ember.rank={max(2, rank // 2)}, or --set ember.sparsity=0.05") from error
    return Factorization(
        labels.token_ids, unit.mean, unit.norms, belief.float(), statistics.kinship(unit, belief), weights,
        torch.stack([f.F for f in factors]), torch.stack([f.index for f in factors]),
        torch.stack([f.value for f in factors]), torch.tensor([f.loss for f in factors]), settings)


class _Kept(NamedTuple):
    """What is kept of one seed's fit, in float32."""

    F: Tensor
    index: Tensor
    value: Tensor
    loss: float
