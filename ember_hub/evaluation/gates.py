"""Limits that a user sets on results: names that may be used, and whether they hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ember_hub.errors import ConfigError
from ember_hub.evaluation.base import Attack, Instrument
from ember_hub.evaluation.evidence import Evidence
from ember_hub.evaluation.examination import PARTS
from ember_hub.evaluation.report import kept_knowledge, kept_share

VERDICTS = ("efficacy", "specificity", "coherence", "harmonic")
RECOVERED = "recovered"


def require_gates(limits: Iterable[str], instruments: Sequence[Instrument]) -> None:
    """Refuse limits on what this battery does not measure, before anything is.

    Raises:
        ConfigError: no such result; the nearest names are offered.
    """
    attacks = [f"{RECOVERED}.{i.name}" for i in instruments if isinstance(i, Attack)]
    names = [RECOVERED, *VERDICTS, *PARTS, *attacks, *(name for i in instruments for name in i.scores)]
    for limit in limits:
        if limit not in names:
            nearest = difflib.get_close_matches(limit, names, n=4, cutoff=0.3) or [RECOVERED, *VERDICTS, *PARTS]
            raise ConfigError(f"no result is called {limit!r} in this battery", hint=f"did you mean: {', '.join(nearest)}?")


def gate_rows(limits: Mapping[str, float], report: Mapping[str, Any], evidence: Evidence) -> list[dict[str, Any]]:
    """Each limit against what was measured, those that fail first.

    `recovered` and `recovered.ATTACK` must stay below their limits; verdicts, and the share that is kept of a part of the questions
    (`near_domain`) or of any other score (`mmlu`, `neutral_loss`), above. What was not measured has failed.
    """
    rows = []
    for name, limit in limits.items():
        value, is_most = _value(name, report, evidence), name.partition(".")[0] == RECOVERED
        passed = value is not None and (value <= limit if is_most else value >= limit)
        rows.append({"name": name, "limit": limit, "value": None if value is None else round(value, 4), "passed": passed})
    return sorted(rows, key=lambda row: row["passed"])


def _value(name: str, report: Mapping[str, Any], evidence: Evidence) -> float | None:
    head, _, attack = name.partition(".")
    if head == RECOVERED:
        rows = {row["name"]: row["recovered"] for row in report["attacks"]}
        return rows.get(attack) if attack else report[RECOVERED]
    if name in VERDICTS:
        return report[name]
    return kept_knowledge(evidence, name) if name in PARTS else kept_share(evidence, name)
