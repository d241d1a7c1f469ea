"""What the figures show, in words: for readers who cannot see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def alt_text(report: Mapping[str, Any], name: str) -> str:
    """One or two sentences with the numbers that matter."""
    return {"attacks": _attacks, "relearning": _relearning, "layers": _layers, "tokens": _tokens}[name](report)


def _attacks(report: Mapping[str, Any]) -> str:
    rows = [a for a in report["attacks"] if "edited" in a["arms"]]
    counted = [a for a in rows if not a["hands_over"] and not a["restores_by_definition"]]
    first = sorted(counted, key=lambda a: -(a["recovered"] or 0.0))[:3]
    told = ", ".join(f"{a['title']} {a['arms']['edited']['value']:.2f}" for a in first)
    most = f" Of those that count, the most after {told}." if told else ""
    return (f"Bars: known concept questions that the edited model answers right under {len(rows)} attacks, beside the controls."
            f"{most} {_before(report)}")


def _relearning(report: Mapping[str, Any]) -> str:
    ends = "; ".join(f"{curve['level']} from {curve['value'][0]:.2f} to {curve['value'][-1]:.2f}"
                     for curve in report["curves"] if curve["arm"] == "edited")
    return ("Curves: known concept questions answered right while the edited model and the controls are trained. "
            f"The edited model under {ends}. {_before(report)}")


def _layers(report: Mapping[str, Any]) -> str:
    best = "; ".join(f"{name}: " + ", ".join(f"{state} {max(curve['value']):.2f}" for state, curve in states.items())
                     for name, states in report["layers"].items())
    return f"Curves: known concept questions answered right from each layer, by depth. The best layer by {best}."


def _tokens(report: Mapping[str, Any]) -> str:
    moved = [t for t in report["tokens"] if t["mu"] is not None]
    farthest = ", ".join(f"“{t['text'].strip()}”" for t in sorted(moved, key=lambda t: -t["mu"])[:5])
    return f"Dots: {len(moved):,} edited tokens by how far they moved and how specific they are. The farthest: {farthest}."


def _before(report: Mapping[str, Any]) -> str:
    base = next((s for s in report["scores"] if (s["name"], s["stage"]) == ("concept_known", "base")), None)
    return f"The base before: {base['value']:.2f}." if base else ""
