"""What a report says of one published form. A patch may carry less than the run measured; its card must not claim more.

And what it says where there is no number: why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ember_hub.evaluation.verdict import answering, is_above_chance

EMBER_ONLY = "control:ember-only"
EVERYTHING = "everything"
AT_CHANCE = "the base is at chance"


def of_form(report: Mapping[str, Any], form: str) -> Mapping[str, Any]:
    """The report as it holds for the model, or for the patch alone.

    A patch that carries the embedding edit only was measured as the control `ember-only`: those scores take the place of the
    edited model's, and what was measured with the other methods (attacks, gates that hold) is left out. A gate that failed stays:
    whoever pushed anyway pushed both.
    """
    if not carries_less(report, form):
        return report
    scores = [s for s in report["scores"] if s["stage"] in ("base", EMBER_ONLY)]
    verdict = report.get("ember_alone") or {}
    return {
        **report,
        "scores": [s | {"stage": "edited"} if s["stage"] == EMBER_ONLY else s for s in scores],
        **{name: verdict.get(name) for name in ("efficacy", "specificity", "coherence", "harmonic")},
        "intervals": report["ember_alone_intervals"],
        "recovered": None, "recovered_interval": None, "worst_attack": None, "regained": {}, "curves": [],
        "gates": [gate for gate in report["gates"] if not gate["passed"]], "attacks": [], "layers": {},
        "warnings": _warnings_of_ember_alone(report),
    }


def carries_less(report: Mapping[str, Any], form: str) -> bool:
    """Whether this form carries the embedding edit only, beside a model that has more."""
    patch = report["out"].get("patch")
    return form == "patch" and bool(patch) and patch["carries"] != EVERYTHING


def reason(report: Mapping[str, Any], name: str) -> str:
    """Why a verdict has no value."""
    chance = [part for part in report["known"] if _is_at_chance(report, part)]
    if name == "coherence":
        return "ordinary text was not read"
    if name == "recovered" and all(row["not_measured"] for row in report["attacks"]):
        return "no attack was run"
    if "concept" in chance or (chance and name in ("specificity", "harmonic")):
        return AT_CHANCE
    return "no attack that counts was run" if name == "recovered" else "its questions were not asked"


def _is_at_chance(report: Mapping[str, Any], part: str) -> bool:
    asked = (s for s in report["scores"] if (s["name"], s["stage"]) == (f"{part}_all", "base"))
    return any(not is_above_chance(s["value"], s["n"], s["chance"] or 0.0) for s in asked)


def _warnings_of_ember_alone(report: Mapping[str, Any]) -> list[str]:
    """The run's warnings, with the one that depends on the model state drawn anew for this one."""
    mass = {s["stage"]: s["value"] for s in report["scores"] if s["name"] == "valid_mass_concept"}
    of_model, own = (answering(mass.get("base"), mass.get(stage)) for stage in ("edited", EMBER_ONLY))
    return [*(w for w in report["warnings"] if w != of_model), *([own] if own else [])]
