"""Evidence made by hand: forty questions, of which the base knows the first twenty."""

from __future__ import annotations

from collections.abc import Mapping

from ember_hub.evaluation.evidence import Evidence
from ember_hub.evaluation.examination import PARTS, Syllabus
from ember_hub.evaluation.reading import Measured, Reading

COUNT = 40
KNOWN = tuple(f"q{i}" for i in range(20))


def state(right: int, others: int = 30, mass: float = 0.9, loss: float = 3.0) -> dict[str, Measured]:
    """A model state that answers the first `right` concept questions, and the first `others` of every other part."""
    readings = []
    for part in PARTS:
        values = {f"q{i}": float(i < (right if part == "concept" else others)) for i in range(COUNT)}
        readings += [Reading(f"{part}_known", "accuracy", {q: values[q] for q in KNOWN}, 0.25),
                     Reading(f"{part}_all", "accuracy", values, 0.25)]
    masses = [Reading(name, "mass", {str(i): mass for i in range(8)}) for name in ("valid_mass_concept", "valid_mass_other")]
    loss_ = Reading("neutral_loss", "nats", {str(i): loss for i in range(10)}, better="lower")
    return {"questions": Measured((*readings, *masses)), "neutral-text": Measured((loss_,))}


def under_attack(right: int, chance: float = 0.25) -> Measured:
    """The first `right` of the known concept questions, answered under an attack."""
    return Measured((Reading("concept_known", "accuracy", {q: float(i < right) for i, q in enumerate(KNOWN)}, chance),))


def evidence(base: Mapping[str, Measured], edited: Mapping[str, Measured],
             attacked: Mapping[str, Mapping[str, Measured]] | None = None) -> Evidence:
    known = {part: frozenset(KNOWN) for part in PARTS}
    return Evidence(Syllabus("answer", {"tune": known, "test": known}), {"base": base, "edited": edited}, attacked or {})
