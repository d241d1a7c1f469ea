"""How sure the verdicts are: 95 % intervals of what is kept, and of what is made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ember_hub.evaluation.evidence import BASE, EDITED, Evidence, in_pairs
from ember_hub.evaluation.examination import PARTS, Part
from ember_hub.evaluation.reading import Reading
from ember_hub.evaluation.score import bootstrap, wilson
from ember_hub.evaluation.verdict import ANSWERING, harmonic_mean, kept

Interval = tuple[float, float]
MASS = ("valid_mass_concept", "valid_mass_other")


def kept_with_interval(before: Reading, after: Reading) -> tuple[float | None, Interval | None]:
    """What is shown after of what was shown before, each above its own chance, on what both were asked, with a 95 % interval.

    Both are None where nothing was asked of both, or nothing above chance was shown before.

    The resampled interval is too narrow where all answers agree, so it reaches at least as far as Wilson's of what is shown
    after, at the mean before.
    """
    chance = after.chance or 0.0
    base, now = in_pairs(before, after)
    base, now = base - (before.chance or 0.0), now - chance
    value = kept(float(now.mean()), float(base.mean()), 0.0) if base.size else None
    if value is None:
        return None, None
    resampled = _resampled_ratio(now, base)
    bounds = wilson(float((now + chance).sum()), len(now))
    low, high = (min(1.0, max(0.0, (bound - chance) / float(base.mean()))) for bound in bounds)
    return value, (min(low, resampled[0]), max(high, resampled[1]))


def verdict_intervals(evidence: Evidence, state: str = EDITED) -> dict[str, Interval | None]:
    """Of efficacy, specificity, coherence and their harmonic mean, by name; None where there is no verdict.

    A harmonic mean lies between that of all lower and that of all upper bounds, which is wider than 95 % asks for.
    """
    concept, near, general = (_kept_of(evidence, part, state) for part in PARTS)
    efficacy = concept and (1 - concept[1], 1 - concept[0])
    others = [bounds for bounds in (near, general) if bounds]
    specificity, coherence = _mean(others) if others else None, _coherence(evidence, state)
    parts = (efficacy, specificity, coherence)
    return {"efficacy": efficacy, "specificity": specificity, "coherence": coherence,
            "harmonic": _mean([p for p in parts if p]) if all(parts) else None}


def _kept_of(evidence: Evidence, part: Part, state: str) -> Interval | None:
    base, now = (evidence.reading(s, f"{part}_known") for s in (BASE, state))
    return None if base is None or now is None or evidence.is_at_chance(part) else kept_with_interval(base, now)[1]


def _coherence(evidence: Evidence, state: str) -> Interval | None:
    base, now = (evidence.reading(s, "neutral_loss") for s in (BASE, state))
    if base is None or now is None or not in_pairs(base, now)[0].size:
        return None
    was, is_now = in_pairs(base, now)
    # A model that computes no number on a sentence writes nothing there.
    losses = [was, np.where(np.isfinite(is_now), is_now, np.inf)]
    fluency = bootstrap(losses, lambda b, n: np.exp(np.minimum(0.0, b.mean(axis=1) - n.mean(axis=1))))
    pairs = [in_pairs(b, n) for name in MASS if (b := evidence.reading(BASE, name)) and (n := evidence.reading(state, name))]
    mass_was, mass = (np.concatenate([pair[i] for pair in pairs]) if pairs else np.zeros(0) for i in (0, 1))
    if not mass_was.size or mass_was.mean() < ANSWERING:
        return fluency
    return _mean([fluency, _resampled_ratio(mass, mass_was)])


def _resampled_ratio(now: np.ndarray, base: np.ndarray) -> Interval:
    """Of the means, between 0 and 1, the questions resampled in pairs."""
    return bootstrap([base, now], lambda b, n: np.clip(n.mean(axis=1) / np.maximum(b.mean(axis=1), 1e-9), 0, 1))


def _mean(bounds: Sequence[Interval]) -> Interval:
    low, high = (harmonic_mean([b[end] for b in bounds]) for end in (0, 1))
    return low, high
