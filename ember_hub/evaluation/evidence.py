"""Everything that was measured in one audit: every state under every evaluation, and every attack on every state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ember_hub.evaluation.base import CONCEPT
from ember_hub.evaluation.examination import Part, Syllabus
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.evaluation.score import Score, paired_p
from ember_hub.evaluation.verdict import is_above_chance

BASE, EDITED, EMBER_ONLY, RANDOM, STRANGER = "base", "edited", "ember-only", "random-edit", "never-known"
"""Model states: the unedited base, the result, the embedding edit alone, a random edit of equal norm, and the base with a concept
that no model knows."""


@dataclass(frozen=True)
class Evidence:
    """What was measured, by model state.

    states: state, then evaluation. attacked: attack, then state.
    """

    syllabus: Syllabus
    states: Mapping[str, Mapping[str, Measured]]
    attacked: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)

    def known(self, part: Part) -> frozenset[str]:
        return self.syllabus.known["test"][part]

    def is_at_chance(self, part: Part) -> bool:
        """Whether the base shows no knowledge of a part: on all its questions it is not clearly above chance.

        A model without any still prefers some options in every wording, and so seems to know a few: what it knows counts for
        nothing then.
        """
        everything = self.reading(BASE, f"{part}_all")
        return everything is not None and not is_above_chance(everything.mean, len(everything.values), everything.chance or 0.0)

    def reading(self, state: str, name: str) -> Reading | None:
        """What was read off a state, by whichever evaluation did."""
        found = (measured.named(name) for measured in self.states.get(state, {}).values())
        return next((reading for reading in found if reading is not None), None)

    def under(self, attack: str, state: str) -> Reading | None:
        """Accuracy on the concept's known questions of a state under an attack; None where it was not measured."""
        measured = self.attacked.get(attack, {}).get(state)
        found = measured.named(CONCEPT) if measured else None
        return found if found and found.values else None


def stage_name(state: str, attack: str | None = None) -> str:
    """How a model state is called in a report: `edited`, `control:base+relearn-paper`, `attack:relearn-strong`."""
    if state == EDITED:
        return f"attack:{attack}" if attack else EDITED
    if state == BASE and not attack:
        return BASE
    return f"control:{state}+{attack}" if attack else f"control:{state}"


def scores(evidence: Evidence) -> list[Score]:
    """Every score of every state, the base first, each compared in pairs with the base, or with itself before the attack."""
    rows = []
    for state, evaluations in evidence.states.items():
        for reading in (r for measured in evaluations.values() for r in measured.readings if r.values):
            before = evidence.reading(BASE, reading.name) if state != BASE else None
            rows.append(_score(reading, stage_name(state), before))
    for attack, states in evidence.attacked.items():
        for state, measured in states.items():
            rows += [_score(reading, stage_name(state, attack), evidence.reading(state, reading.name))
                     for reading in measured.readings if reading.values]
    return rows


def _score(reading: Reading, stage: str, before: Reading | None) -> Score:
    score = replace(reading.score(stage), better=reading.better)
    if before is None or not before.is_asked_like(reading):
        return score
    pairs = in_pairs(before, reading)
    return replace(score, p=paired_p(*pairs))


def in_pairs(one: Reading, other: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Values of both readings for the items that both have."""
    shared = [item for item in one.values if item in other.values]
    return np.array([one.values[i] for i in shared]), np.array([other.values[i] for i in shared])
