"""All scores of a run in one place: base, edited, controls, and each of them under attack, with what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ember_hub.errors import BaselineAtChance
from ember_hub.evaluation.examination import PARTS, Measurement, Part, Syllabus, known_values
from ember_hub.evaluation.score import Score, bootstrap, mean, proportion
from ember_hub.evaluation.verdict import Verdict, coherence, harmonic_mean, is_above_chance, kept

EDITED = "edited"
BASE = "base"
HEALTHY_MASS = 0.5
"""Below this share of the base's mass on offered answers, a wrong answer is no answer."""


@dataclass(frozen=True)
class Point:
    """One point of a relearning curve: known concept questions after some epochs."""

    epoch: int
    values: Sequence[float]


@dataclass(frozen=True)
class Relearned:
    """One arm under one level of the attack."""

    arm: str
    level: str
    measured: Measurement
    curve: Sequence[Point]


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured in a run."""

    syllabus: Syllabus
    arms: Mapping[str, Measurement]
    """By arm: `base`, `edited`, and the controls."""
    relearned: Sequence[Relearned] = ()

    def known(self, part: Part) -> frozenset[str]:
        return self.syllabus.known["test"][part]


def stage_name(arm: str, level: str | None = None) -> str:
    """How a model state is called in a report: `edited`, `control:base+relearn-paper`, `attack:relearn-strong`."""
    attack = f"relearn-{level}" if level else None
    if arm == EDITED:
        return f"attack:{attack}" if attack else EDITED
    if arm == BASE and not attack:
        return BASE
    return f"control:{arm}+{attack}" if attack else f"control:{arm}"


def scores(evidence: Evidence) -> list[Score]:
    """Every score of every state, the base first."""
    rows = []
    for arm, measured in evidence.arms.items():
        rows += _state_scores(evidence, stage_name(arm), measured)
    for attack in evidence.relearned:
        rows += _state_scores(evidence, stage_name(attack.arm, attack.level), attack.measured)
    return rows


def _state_scores(evidence: Evidence, stage: str, measured: Measurement) -> list[Score]:
    rows = []
    for part in (p for p in PARTS if p in measured.answers):
        answers = measured.answers[part]
        chance = float(np.mean([a.chance for a in answers])) if answers else None
        ids = evidence.known(part)
        if ids:
            rows.append(proportion(f"{part}_known", stage, "test", known_values(measured, part, ids, "accuracy"), chance))
            rows.append(mean(f"{part}_probability", stage, "test", known_values(measured, part, ids, "probability"),
                             "probability", chance))
        rows.append(proportion(f"{part}_all", stage, "test", [a.accuracy for a in answers], chance))
    others = [m for part in PARTS if part != "concept" for m in measured.mass.get(part, ())]
    for name, values in (("valid_mass_concept", measured.mass.get("concept", ())), ("valid_mass_other", others)):
        if values:
            rows.append(mean(name, stage, "test", values, "mass"))
    if measured.losses:
        rows.append(mean("neutral_loss", stage, "test", measured.losses, "nats"))
    if measured.divergences:
        rows.append(mean("neutral_kl", stage, "test", measured.divergences, "nats"))
    return rows


def verdict(evidence: Evidence, arm: str = EDITED) -> Verdict:
    """Efficacy, specificity and coherence of one arm, from accuracies on known questions of the test split."""
    base, now = evidence.arms[BASE], evidence.arms[arm]
    concept, near, general = (_share(evidence, part, now) for part in PARTS)
    others = [s for s in (near, general) if s is not None]
    mass, base_mass = (float(np.mean([v for part in PARTS for v in m.mass[part]])) for m in (now, base))
    return Verdict(
        efficacy=None if concept is None else 1 - concept,
        specificity=harmonic_mean(others) if others else None,
        coherence=coherence(float(np.mean(now.losses)), float(np.mean(base.losses)), mass, base_mass),
    )


def _share(evidence: Evidence, part: Part, measured: Measurement) -> float | None:
    """What is kept of the base's accuracy above chance on what it knows; None where it shows no knowledge.

    A model without any still prefers some options in every wording, and so seems to know a few: what it knows counts only if
    its accuracy on all questions is clearly above chance.
    """
    ids, base = evidence.known(part), evidence.arms[BASE]
    then, now = (known_values(m, part, ids, "accuracy") for m in (base, measured))
    everything = [a.accuracy for a in base.answers[part]]
    chance = _chance(evidence, part)
    if not then or not is_above_chance(float(np.mean(everything)), len(everything), chance):
        return None
    return kept(float(np.mean(now)), float(np.mean(then)), chance)


def _chance(evidence: Evidence, part: Part) -> float:
    return float(np.mean([a.chance for a in evidence.arms[BASE].answers[part]]))


def recovered(evidence: Evidence) -> tuple[float, tuple[float, float]] | None:
    """Share of the base's knowledge that the edited model shows after the worst attack, with a paired 95 % interval."""
    attacks = [a for a in evidence.relearned if a.arm == EDITED]
    if not attacks or _share(evidence, "concept", evidence.arms[BASE]) is None:
        return None
    ids, chance = evidence.known("concept"), _chance(evidence, "concept")
    base = known_values(evidence.arms[BASE], "concept", ids, "accuracy")
    worst = max(attacks, key=lambda a: sum(known_values(a.measured, "concept", ids, "accuracy")))
    after = known_values(worst.measured, "concept", ids, "accuracy")
    value = kept(float(np.mean(after)), float(np.mean(base)), chance)

    def share(then: np.ndarray, now: np.ndarray) -> np.ndarray:
        above = np.maximum(then.mean(axis=1) - chance, 1e-9)
        return np.clip((now.mean(axis=1) - chance) / above, 0, 1)

    return (value or 0.0), bootstrap([base, after], share)


def regained(evidence: Evidence) -> dict[str, dict[str, float]]:
    """For each arm and level: accuracy on known concept questions after the attack, less that before it."""
    ids = evidence.known("concept")
    table: dict[str, dict[str, float]] = {}
    if not ids:
        return table
    for attack in evidence.relearned:
        before, after = (float(np.mean(known_values(m, "concept", ids, "accuracy")))
                         for m in (evidence.arms[attack.arm], attack.measured))
        table.setdefault(attack.arm, {})[f"relearn-{attack.level}"] = round(after - before, 4)
    return table


def curves(evidence: Evidence) -> list[dict]:
    """Relearning curves with intervals, as the figure draws them."""
    rows = []
    for attack in evidence.relearned:
        points = [proportion("concept_known", "", "test", p.values, None) for p in attack.curve]
        if points and points[0].n:
            rows.append({"arm": attack.arm, "level": f"relearn-{attack.level}", "epochs": [p.epoch for p in attack.curve],
                         "value": [p.value for p in points], "low": [p.low for p in points], "high": [p.high for p in points]})
    return rows


def warnings(evidence: Evidence) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    base, edited = evidence.arms[BASE], evidence.arms[EDITED]
    for part in PARTS:
        if _share(evidence, part, base) is None:
            accuracy = float(np.mean([a.accuracy for a in base.answers[part]]))
            name, count = part.replace("_", "-"), len(base.answers[part])
            found.append(
                f"{BaselineAtChance.__name__}: on all {count} {name} questions the base is right in {accuracy:.2f}, not clearly "
                f"above chance ({_chance(evidence, part):.2f}); those it seems to know ({len(evidence.known(part))}) may be luck, "
                f"and nothing is claimed about them")
    was, now = (float(np.mean(m.mass["concept"])) for m in (base, edited))
    if was > 0 and now / was < HEALTHY_MASS:
        found.append(f"on concept questions the edited model puts {now:.2f} of its probability on the offered letters "
                     f"(base {was:.2f}): part of the loss is a loss of answering, not of knowledge")
    small = len(evidence.known("concept"))
    if 0 < small < 30:
        found.append(f"only {small} concept questions of the test split are known to the base: the intervals are wide")
    return found


def gate_rows(limits: Mapping[str, float], report: Mapping) -> list[dict]:
    """Each limit against what was measured. `recovered` must stay below its limit, every other value above."""
    rows = []
    for name, limit in limits.items():
        value = report.get(name)
        passed = value is not None and (value <= limit if name == "recovered" else value >= limit)
        rows.append({"name": name, "limit": limit, "value": value, "passed": passed})
    return rows
