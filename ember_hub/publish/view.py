"""What a report says of one published form. A patch may carry less than the run measured; its card must not claim more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EMBER_ONLY = "control:ember-only"
EVERYTHING = "everything"


def of_form(report: Mapping[str, Any], form: str) -> Mapping[str, Any]:
    """The report as it holds for the model, or for the patch alone.

    A patch that carries the embedding edit only was measured as the control `ember-only`: those scores take the place of the
    edited model's, and what was measured with the other methods (attacks, gates) is left out.
    """
    patch = report["out"].get("patch")
    if form != "patch" or not patch or patch["carries"] == EVERYTHING:
        return report
    scores = [s for s in report["scores"] if s["stage"] in ("base", EMBER_ONLY)]
    verdict = report.get("ember_alone") or {}
    return {
        **report,
        "scores": [s | {"stage": "edited"} if s["stage"] == EMBER_ONLY else s for s in scores],
        **{name: verdict.get(name) for name in ("efficacy", "specificity", "coherence", "harmonic")},
        "recovered": None, "recovered_interval": None, "worst_attack": None, "regained": {}, "curves": [], "gates": [],
        "attacks": [], "layers": {},
    }
