"""What a report.json is made of: its JSON Schema, and whether a report is one that this version reads."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from ember_hub.errors import RunNotFound
from ember_hub.run import read_report

SCHEMA = 2


def report_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of today's report.json; more keys than it names may be there."""
    return json.loads((files("ember_hub.publish.report") / "report.schema.json").read_text(encoding="utf-8"))


def as_current(report: Any) -> dict[str, Any]:
    """The report, if it is one that this version reads.

    Raises:
        RunNotFound: it is no report, one of another version, or one that lacks a part or is damaged.
    """
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise RunNotFound(f"report.json has schema {schema!r}, and schema {SCHEMA} can be read",
                          hint="make the run again with this version, or read it with the one that made it")
    again = "type the command that made the run again: it writes the report anew"
    missing = [key for key in report_schema()["required"] if key not in report]
    if missing:
        raise RunNotFound(f"report.json lacks {', '.join(missing)}",
                          hint=again)
    wrong = next(Draft202012Validator(report_schema()).iter_errors(report), None)
    if wrong is not None:
        raise RunNotFound(f"report.json is damaged at {wrong.json_path}", hint=again)
    return report


def read_current(folder: Path) -> dict[str, Any]:
    """The report of a finished run, as `as_current` lets it through."""
    return as_current(read_report(folder))
