"""Limits that a user sets on results: names that may be used, and whether they hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ember_hub.errors import ConfigError
from ember_hub.evaluation.base import Attack, Instrument
from ember_hub.evaluation.evidence import BASE, Evidence
from ember_hub.evaluation.examination import PARTS
from ember_hub.evaluation.report import kept_knowledge, kept_share
from ember_hub.evaluation.verdict import kept

VERDICTS = ("efficacy", "specificity", "coherence", "harmonic")
RECOVERED = "recovered"
BENCH = "bench_"
"""What the name of a score begins with that lm-evaluation-harness measured."""


def require_gates(limits: Iterable[str], instruments: Sequence[Instrument], tasks: Sequence[str] = (),
                  installed: Sequence[Instrument] = ()) -> None:
    """Refuse limits on what this battery does not measure, before anything is.

    Args:
        tasks: of lm-evaluation-harness that will be run; a limit names one as it is called, or as `bench_TASK`.
        installed: every instrument there is, to say which battery would measure it.

    Raises:
        ConfigError: no such result; the battery that has it or the nearest names are offered.
    """
    names = [RECOVERED, *VERDICTS, *PARTS, *_results(instruments), *tasks, *(f"{BENCH}{task}" for task in tasks)]
    for limit in limits:
        # A group of tasks may leave results of its parts: `bench_wmdp_bio`.
        if limit in names or limit.startswith(tuple(f"{BENCH}{task}_" for task in tasks)):
            continue
        for instrument in installed:
            if limit in _results([instrument]):
                raise ConfigError(f"{limit!r} is not measured in this battery",
                                  hint=f"add --battery {instrument.battery}, or leave out --only and --skip")
        nearest = difflib.get_close_matches(limit, names, n=4, cutoff=0.3) or [RECOVERED, *VERDICTS, *PARTS]
        raise ConfigError(f"no result is called {limit!r} in this battery", hint=f"did you mean: {', '.join(nearest)}?")


def _results(instruments: Sequence[Instrument]) -> list[str]:
    attacks = [f"{RECOVERED}.{i.name}" for i in instruments if isinstance(i, Attack)]
    return [*attacks, *(name for i in instruments for name in i.scores)]


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
    if name in PARTS:
        return kept_knowledge(evidence, name)
    own = kept_share(evidence, name)
    return _kept_of_task(name.removeprefix(BENCH), report["scores"]) if own is None else own


def _kept_of_task(task: str, scores: Sequence[Mapping[str, Any]]) -> float | None:
    """What is kept of the base's accuracy above chance on a task of lm-evaluation-harness."""
    found = {s["stage"]: s for s in scores if s["name"] == f"{BENCH}{task}"}
    base, now = found.pop(BASE, None), next(iter(found.values()), None)
    return kept(now["value"], base["value"], base["chance"] or 0.0) if base and now else None
