"""Which features mean the concept, and which rows they may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import wordfreq
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ember_hub.concepts.background import Tokenizer, letters_of, surfaces
from ember_hub.concepts.labels import TokenLabels
from ember_hub.errors import NoFeatureSelected
from ember_hub.features import statistics
from ember_hub.features.evidence import Evidence, FeatureEvidence, TokenEvidence
from ember_hub.features.factorization import Factorization

# How many rejected features and tokens are kept as evidence: the ones that came nearest.
_SHOWN = 40
_TOP = 16
_EVERYDAY = 4.0
# A word that is met once has shown nothing, however few the texts.
_TWICE = 2


@dataclass(frozen=True)
class SelectionSettings:
    """min_share: a feature is kept if this much of its activation lies on the concept's own tokens.

    min_score: a token is accepted from this score on (nats), if it is among the `most` best; see `score`.
    consensus_weight, kinship_weight, spread_weight, common_weight: what the score's parts weigh.
    min_purity, min_kinship: a token with less of either is refused, whatever its score.
    min_spread: so is a word that stands in less than this share of the concept's texts: of a word that is met now and
        then, neither counts nor neighbours tell the concept's own from its field (uranium's salts, a war's small states).
    """

    min_share: float = 0.22
    min_score: float = 11.5
    most: int = 20
    consensus_weight: float = 2.0
    kinship_weight: float = 10.0
    spread_weight: float = 1.5
    common_weight: float = 2.0
    min_purity: float = 0.35
    min_kinship: float = 0.115
    min_spread: float = 0.01

    def score(self, factorization: Factorization, labels: TokenLabels, consensus: Tensor, zipf: Tensor) -> Tensor:
        """(n,): the evidence for each token; minus infinity where one kind of it is missing.

            belief + 2 consensus + 10 kinship + 1.5 log2(spread) - 2 max(0, zipf - 4)

        with the default weights. Everyday words (zipf: log10 of the occurrences in 10⁹ words) need more than rare ones.
        """
        total = factorization.belief + self.consensus_weight * consensus + self.kinship_weight * factorization.kinship
        total = total + self.spread_weight * labels.spread.clamp(min=1).log2()
        total = total - self.common_weight * (zipf - _EVERYDAY).clamp(min=0)
        sound = (labels.purity >= self.min_purity) & (factorization.kinship >= self.min_kinship)
        return torch.where(sound & (labels.spread >= max(_TWICE, self.min_spread * labels.texts)), total, -torch.inf)

    def accepted(self, score: Tensor) -> Tensor:
        """(any,): where the tokens stand that are taken, ascending."""
        best = score.topk(min(self.most, len(score)))
        return best.indices[best.values >= self.min_score].sort().values


@dataclass(frozen=True)
class ConceptRows:
    """The rows that belong to a concept, and what its features write into them: c = G Fᵀ, in raw embedding units.

    token_ids: (n,) int64, ascending; G: (n, k); F: (d, k), the selected features of all seeds side by side. A token's
    contribution is the mean over the seeds in which it is active.
    """

    token_ids: Tensor
    G: Tensor
    F: Tensor
    evidence: Evidence

    @property
    def contributions(self) -> Tensor:
        """(n, d) float32: the concept's part of each row."""
        return self.G @ self.F.T

    def save(self, path: Path) -> None:
        """Write as safetensors, under a temporary name first."""
        part = path.with_name(path.name + ".part")
        tensors = {"token_ids": self.token_ids, "G": self.G.contiguous(), "F": self.F.contiguous()}
        save_file(tensors, part, metadata={"evidence": self.evidence.json()})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> ConceptRows:
        with safe_open(path, "pt") as file:
            return cls(file.get_tensor("token_ids"), file.get_tensor("G"), file.get_tensor("F"),
                       Evidence.parse(file.metadata()["evidence"]))


def choose(factorization: Factorization, labels: TokenLabels, rows: Tensor, tokenizer: Tokenizer,
           settings: SelectionSettings = SelectionSettings()) -> ConceptRows:
    """Select features seed by seed, then the tokens that the seeds agree on.

    rows: (n, d), the embedding rows of `labels.token_ids`.

    Raises:
        NoFeatureSelected: no feature of any seed, or no token in them, is the concept's own.
    """
    certain = statistics.certainty(factorization.belief)
    per_seed = [factorization.activations(s) for s in range(len(factorization.F))]
    scores = [statistics.shares(G, certain) for G in per_seed]
    selected = [(share >= settings.min_share).nonzero()[:, 0] for share in scores]
    _require_feature(scores, settings)
    shown = surfaces(tokenizer, labels.token_ids.tolist())
    features = _feature_evidence(per_seed, scores, labels, (shown, factorization.settings.seeds), settings)
    active = torch.stack([(G[:, s] != 0).any(dim=1) for G, s in zip(per_seed, selected, strict=True)])
    consensus = active.float().mean(dim=0)
    zipf = torch.tensor([wordfreq.zipf_frequency(letters_of(surface), "en") for surface in shown])
    score = settings.score(factorization, labels, consensus, zipf)
    accepted = settings.accepted(score)
    if len(accepted) == 0:
        raise NoFeatureSelected(f"no token reaches a score of {settings.min_score} (best: {score.max():.2f})",
                                hint="lower features.min_score, or add concept sentences to the pack")
    F = torch.cat([factorization.F[s][:, k] for s, k in enumerate(selected)], dim=1)
    G = _mean_over_seeds(per_seed, selected, accepted)
    for position, i in enumerate(accepted.tolist()):
        if not active[:, i].any():
            # No seed kept an entry, for want of room: the concept's part is its least-squares shadow on the features.
            G[position] = project(rows[i : i + 1].float() - factorization.mean, F, selected)[0]
    tokens = _token_evidence(labels, factorization, (consensus, score), (G, accepted), shown, settings)
    return ConceptRows(labels.token_ids[accepted], G, F, Evidence(features, tokens))


def project(centred: Tensor, F: Tensor, selected: Sequence[Tensor]) -> Tensor:
    """(any, k): least squares of centred rows (any, d) on each seed's selected features, averaged over the seeds."""
    G = torch.zeros(len(centred), F.shape[1])
    groups = [len(k) for k in selected]
    seeds = sum(size > 0 for size in groups)
    start = 0
    for size in groups:
        if size:
            block = F[:, start : start + size]
            G[:, start : start + size] = torch.linalg.lstsq(block, centred.T, driver="gelsd").solution.T / seeds
        start += size
    return G


def _mean_over_seeds(per_seed: Sequence[Tensor], selected: Sequence[Tensor], tokens: Tensor) -> Tensor:
    """(tokens, k): activations on the selected features, each divided by the number of seeds that have any."""
    blocks = [G[tokens][:, k] for G, k in zip(per_seed, selected, strict=True)]
    seeds = torch.stack([(block != 0).any(dim=1) for block in blocks]).sum(dim=0).clamp(min=1)
    return torch.cat(blocks, dim=1) / seeds[:, None]


def _require_feature(scores: Sequence[Tensor], settings: SelectionSettings) -> None:
    best = max(float(share.max()) for share in scores)
    if best < settings.min_share:
        raise NoFeatureSelected(
            f"no feature has {settings.min_share:.2f} of its activation on the concept's own tokens (best: {best:.2f})",
            hint=f"lower it with --set features.min_share={0.9 * best:.2f}, or take a model with a larger vocabulary")


def _feature_evidence(per_seed: Sequence[Tensor], scores: Sequence[Tensor], labels: TokenLabels,
                      names: tuple[Sequence[str], Sequence[int]], settings: SelectionSettings) -> tuple[FeatureEvidence, ...]:
    shown, seeds = names
    found, column = [], 0
    for seed, G, share in zip(seeds, per_seed, scores, strict=True):
        ratio = statistics.ratios(G, labels)
        rejected = share.masked_fill(share >= settings.min_share, -1).topk(min(3, len(share))).indices.tolist()
        kept = (share >= settings.min_share).nonzero()[:, 0].tolist()
        for k in [*kept, *(k for k in rejected if k not in kept)]:
            top = G[:, k].abs().topk(min(_TOP, len(G)))
            tokens = tuple(shown[i] for i, value in zip(top.indices.tolist(), top.values.tolist(), strict=True) if value)
            takes = share[k] >= settings.min_share
            reason = f"share {share[k]:.2f} {'≥' if takes else '<'} {settings.min_share:.2f}"
            found.append(FeatureEvidence(seed, k, float(share[k]), float(ratio[k]), tokens, bool(takes), reason,
                                         column if takes else None))
            column += bool(takes)
    return tuple(found)


def _token_evidence(labels: TokenLabels, factorization: Factorization, judged: tuple[Tensor, Tensor],
                    taken: tuple[Tensor, Tensor], shown: Sequence[str], settings: SelectionSettings
                    ) -> tuple[TokenEvidence, ...]:
    """The accepted tokens and those that came nearest, best first."""
    (consensus, score), (G, accepted) = judged, taken
    place = {i: position for position, i in enumerate(accepted.tolist())}
    found = []
    for i in score.argsort(descending=True)[: len(place) + _SHOWN].tolist():
        columns = tuple(G[place[i]].nonzero()[:, 0].tolist()) if i in place else ()
        enough = f"beyond the {settings.most} surest" if score[i] >= settings.min_score else "too little evidence"
        verdict = "own" if i in place else enough
        reason = (f"{verdict}: score {score[i]:.1f}, belief {factorization.belief[i]:.1f}, "
                  f"kinship {factorization.kinship[i]:.2f}, "
                  f"in {labels.spread[i]:.0f} texts and {consensus[i]:.0%} of the seeds")
        found.append(TokenEvidence(
            token_id=int(labels.token_ids[i]), text=shown[i], purity=float(labels.purity[i]),
            belief=float(factorization.belief[i]), kinship=float(factorization.kinship[i]), counts=int(labels.counts[i]),
            sentences=int(labels.sentences[i]), consensus=float(consensus[i]), columns=columns, accepted=i in place,
            reason=reason))
    return tuple(found)
