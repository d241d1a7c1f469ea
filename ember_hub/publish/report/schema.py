"""What a report.json is made of: its JSON Schema, and reports of earlier schemas told in today's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ember_hub.errors import RunNotFound
from ember_hub.evaluation.verdict import kept

SCHEMA = 2


def report_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of today's report.json; more keys than it names may be there."""
    return json.loads((files("ember_hub.publish.report") / "report.schema.json").read_text(encoding="utf-8"))


def as_current(report: Any) -> dict[str, Any]:
    """The report in today's schema; what an older one did not measure is empty or None.

    Raises:
        RunNotFound: it is no report, one of a later version, or one that lacks a part.
    """
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema not in (1, SCHEMA):
        raise RunNotFound(f"report.json has schema {schema!r}, and schemas 1 to {SCHEMA} can be read",
                          hint="a later version of ember-hub may read it; or make the run again with this one")
    current = report if schema == SCHEMA else _from_first(report)
    missing = [key for key in report_schema()["required"] if key not in current]
    if missing:
        raise RunNotFound(f"report.json lacks {', '.join(missing)}",
                          hint="type the command that made the run again: it writes the report anew")
    return current


def _from_first(report: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 told two attacks by the names of its scores' stages, and the edited tokens without their magnitude."""
    scores = [{"better": "lower" if s["unit"] == "nats" else "higher", "p": None, **s} for s in report.get("scores", ())]
    attacks = _attacks(scores, report.get("recovered"), report.get("recovered_interval"))
    worst = next(({"name": a["name"], "title": a["title"]} for a in attacks if a["is_worst"]), None)
    ember = report.get("ember")
    return {"kind": "erasure", "audited": None, "battery": "quick", "ember_alone": None, "evaluations": [], "layers": {},
            **report, "schema": SCHEMA, "scores": scores, "attacks": attacks, "worst_attack": worst,
            "tokens": [{"mu": None, "tfidf": None, **token} for token in (ember["tokens"] if ember else ())]}


def _attacks(scores: list[dict[str, Any]], recovered: float | None, interval: list[float] | None) -> list[dict[str, Any]]:
    known = {s["stage"]: s for s in scores if s["name"] == "concept_known"}
    names = [stage.removeprefix("attack:") for stage in known if stage.startswith("attack:")]
    worst = max(names, key=lambda name: known[f"attack:{name}"]["value"], default=None)
    rows = []
    for name in names:
        arms = {("edited" if stage.startswith("attack:") else stage.removeprefix("control:").partition("+")[0]):
                {key: score[key] for key in ("value", "low", "high", "n", "chance")}
                for stage, score in known.items() if stage in (f"attack:{name}", stage.partition("+")[0] + f"+{name}")}
        base, edited = known.get("base"), arms["edited"]
        share = kept(edited["value"], base["value"], base["chance"]) if base and recovered is not None else None
        rows.append({"name": name, "title": f"{name.removeprefix('relearn-')} relearning", "reference": "arXiv 2606.03695",
                     "battery": "quick", "reproducible": True, "settings": {}, "not_measured": None,
                     "arms": arms, "recovered": recovered if name == worst else share,
                     "recovered_interval": interval if name == worst else None, "taught": None, "hands_over": False,
                     "restores_by_definition": False, "is_worst": name == worst and recovered is not None})
    return rows
