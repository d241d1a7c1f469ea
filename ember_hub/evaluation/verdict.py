"""The one place for the arithmetic of verdicts: what is left of the base's knowledge, and what that makes of the edit.

    kept        = clip((score − chance) / (base − chance), 0, 1)
    efficacy    = 1 − kept(concept)
    specificity = HM(kept(general), kept(near domain))
    coherence   = HM(fluency, format): how much of the base's fluency on neutral text and of its readiness to answer remains
    recovered   = kept(concept after the worst attack), or without any attack where that is more

All are fractions in [0, 1]; HM is the harmonic mean, 0 if any term is 0. Source: EMBER (arXiv 2606.03695), evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ember_hub.evaluation.score import wilson

ANSWERING = 0.05
"""Least mass on lettered answers of a model that can be said to answer with letters at all."""

HEALTHY_MASS = 0.5
"""Below this share of the base's mass on offered answers, a wrong answer is no answer."""

NO_ATTACK = "none"
"""In the place of the worst attack's name, where none shows more than is there without any."""

LEFT_OUT = "left out of this run"
"""Why an instrument of the battery was not used."""


@dataclass(frozen=True)
class Verdict:
    """The verdicts of one model state; None where the base is at chance or nothing was measured."""

    efficacy: float | None
    specificity: float | None
    coherence: float | None

    @property
    def harmonic(self) -> float | None:
        parts = (self.efficacy, self.specificity, self.coherence)
        return None if any(p is None for p in parts) else harmonic_mean([p for p in parts if p is not None])

    def to_json(self) -> dict:
        return {**asdict(self), "harmonic": self.harmonic}


def kept(score: float, base: float, chance: float) -> float | None:
    """Share of the base's score above chance that is still there; None when the base is not above chance."""
    if not base > chance:
        return None
    return min(1.0, max(0.0, (score - chance) / (base - chance)))


def harmonic_mean(parts: Sequence[float]) -> float:
    """Harmonic mean of non-negative numbers, 0 if any of them is 0."""
    if any(p <= 0 for p in parts):
        return 0.0
    return len(parts) / sum(1 / p for p in parts)


def is_above_chance(accuracy: float, n: int, chance: float) -> bool:
    """Whether chance lies below the 95 % interval of an accuracy over n questions."""
    return n > 0 and wilson(accuracy * n, n)[0] > chance


def fluency(loss: float, base_loss: float) -> float:
    """Ratio of perplexities base / edited on neutral text, at most 1, and 0 where the edited model computes no numbers.

    loss, base_loss: in nats per token.
    """
    if not math.isfinite(loss):
        return 0.0
    return min(1.0, math.exp(min(0.0, base_loss - loss)))


def coherence(loss: float, base_loss: float, mass: float, base_mass: float) -> float:
    """A local proxy of the paper's judged coherence: fluency on neutral text and mass on valid answers.

    A base that does not answer with letters itself cannot lose that habit: then fluency alone counts.
    """
    if base_mass < ANSWERING:
        return fluency(loss, base_loss)
    return harmonic_mean([fluency(loss, base_loss), min(1.0, mass / base_mass)])


def answering(was: float | None, now: float | None) -> str | None:
    """A warning if an edited model hardly answers any more: mass on the offered letters of the base and of the edited model."""
    if not was or now is None or now / was >= HEALTHY_MASS:
        return None
    return (f"on concept questions the edited model puts {now:.2f} of its probability on the offered letters "
            f"(base {was:.2f}): part of the loss is a loss of answering, not of knowledge")
