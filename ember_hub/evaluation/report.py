"""What follows from the evidence: verdicts, what was kept and regained, curves, and warnings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ember_hub.errors import BaselineAtChance
from ember_hub.evaluation.base import CONCEPT
from ember_hub.evaluation.evidence import BASE, EDITED, Evidence, in_pairs
from ember_hub.evaluation.examination import PARTS, Part
from ember_hub.evaluation.score import proportion
from ember_hub.evaluation.shares import MASS
from ember_hub.evaluation.verdict import Verdict, answering, coherence, harmonic_mean, kept


def verdict(evidence: Evidence, state: str = EDITED) -> Verdict:
    """Efficacy, specificity and coherence of one state, from accuracies on known questions of the test split."""
    concept, near, general = (kept_knowledge(evidence, part, state) for part in PARTS)
    others = [s for s in (near, general) if s is not None]
    loss, base_loss = (_mean(evidence, s, "neutral_loss") for s in (state, BASE))
    return Verdict(
        efficacy=None if concept is None else 1 - concept,
        specificity=harmonic_mean(others) if others else None,
        coherence=None if loss is None or base_loss is None else coherence(
            loss, base_loss, _mass(evidence, state), _mass(evidence, BASE)),
    )


def kept_share(evidence: Evidence, name: str, state: str = EDITED) -> float | None:
    """What a state keeps of the base's value of a reading: above chance for accuracies, as a ratio otherwise, at most 1.

    For readings that are better lower, the ratio is the other way round; nats are compared as perplexities.
    """
    base, now = evidence.reading(BASE, name), evidence.reading(state, name)
    if base is None or now is None:
        return None
    then, value = (float(v.mean()) for v in in_pairs(base, now))
    if base.unit == "nats":
        return min(1.0, float(np.exp(min(0.0, then - value if base.better == "lower" else value - then))))
    if base.better == "lower":
        return min(1.0, (1 - value) / (1 - then)) if then < 1 else None
    return kept(value, then, base.chance or 0.0)


def kept_knowledge(evidence: Evidence, part: Part, state: str = EDITED) -> float | None:
    """What is kept of the base's accuracy above chance on what it knows; None where it shows no knowledge."""
    return None if evidence.is_at_chance(part) else kept_share(evidence, f"{part}_known", state)


def _mean(evidence: Evidence, state: str, name: str) -> float | None:
    reading = evidence.reading(state, name)
    return reading.mean if reading and reading.values else None


def _mass(evidence: Evidence, state: str) -> float:
    values = [v for name in MASS if (r := evidence.reading(state, name))
              for v in r.values.values()]
    return float(np.mean(values)) if values else 0.0


def regained(evidence: Evidence) -> dict[str, dict[str, float]]:
    """For each state and attack: accuracy on known concept questions under the attack, less that before it."""
    table: dict[str, dict[str, float]] = {}
    for attack, states in evidence.attacked.items():
        for state in states:
            before, after = evidence.reading(state, CONCEPT), evidence.under(attack, state)
            if before and after and before.is_asked_like(after) and (pairs := in_pairs(before, after))[0].size:
                table.setdefault(state, {})[attack] = round(float(pairs[1].mean() - pairs[0].mean()), 4)
    return table


def curves(evidence: Evidence) -> list[dict[str, Any]]:
    """Relearning curves with intervals, as the figure draws them; epoch 0 is the state before the attack."""
    rows = []
    for attack, states in evidence.attacked.items():
        for state, measured in states.items():
            before, later = evidence.reading(state, CONCEPT), measured.details.get("curve", ())
            known = [{"epoch": 0, "values": list(before.values.values())}] if before and later else []
            points = [(p["epoch"], proportion(CONCEPT, "", "test", p["values"], None)) for p in (*known, *later) if p["values"]]
            if points:
                rows.append({"arm": state, "level": attack, "epochs": [epoch for epoch, _ in points],
                             **{key: [getattr(score, key) for _, score in points] for key in ("value", "low", "high")}})
    return rows


def layers(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Accuracy by layer, for the attacks that look inside, as the figure draws it."""
    return {attack: {state: {"value": m.details["layers"], "low": m.details["low"], "high": m.details["high"],
                             "chance": m.details["chance"]} for state, m in states.items() if "layers" in m.details}
            for attack, states in evidence.attacked.items() if any("layers" in m.details for m in states.values())}


def warnings(evidence: Evidence) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    for part in PARTS:
        everything = evidence.reading(BASE, f"{part}_all")
        if everything is not None and evidence.is_at_chance(part):
            found.append(
                f"{BaselineAtChance.__name__}: on all {len(everything.values)} {part.replace('_', '-')} questions the base is "
                f"right in {everything.mean:.2f}, not clearly above chance ({everything.chance:.2f}); those it seems to know "
                f"({len(evidence.known(part))}) may be luck, and nothing is claimed about them")
    remark = answering(*(_mean(evidence, state, "valid_mass_concept") for state in (BASE, EDITED)))
    if remark:
        found.append(remark)
    small = len(evidence.known("concept"))
    if 0 < small < 30:
        found.append(f"only {small} concept questions of the test split are known to the base: the intervals are wide")
    return found
