"""The result of an erasure as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ember_hub.evaluation.titles import columns, in_order, score_title, sentence, state_title

if TYPE_CHECKING:
    from ember_hub.pipeline import Outcome

ARMS = ("edited", "base", "never-known")
WIDTH = 42


def print_report(outcome: Outcome) -> None:
    """Before, after and relearned side by side, the controls, the verdicts, and where everything lies."""
    report = outcome.report
    for line in lines(report):
        click.echo(line)
    click.echo()
    for title, path in (("model", outcome.model), ("patch", outcome.patch),
                        ("card", _first(outcome.model, outcome.patch)),
                        ("page", outcome.folder / "reports/report.html"), ("report", outcome.folder / "reports/report.json")):
        if path is not None and path.exists():
            click.echo(f"{title:<8} {path}")


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The tables, line by line; a gate that failed comes first."""
    for gate in (g for g in report["gates"] if not g["passed"]):
        yield f"FAILED   {gate['name']} is {_gate(gate['value'])}, the limit is {gate['limit']:.4g}\n"
    if report["battery"] == "none":
        yield from _unmeasured(report)
        return
    by = {(s["name"], s["stage"]): s for s in report["scores"]}
    controls = columns(stage.removeprefix("control:") for _, stage in by if stage.startswith("control:") and "+" not in stage)
    stages = [("before", "base"), ("after", "edited"), *((state_title(state), f"control:{state}") for state in controls)]
    if by:
        yield _row("", [title for title, _ in stages])
    for name in in_order(name for name, stage in by if stage == "edited"):
        yield _row(score_title(name), [_cell(by.get((name, stage))) for _, stage in stages])
    yield from _attacks(report)
    yield ""
    bounds = {**(report["intervals"] or {}), "recovered": report["recovered_interval"]}
    for name in ("efficacy", "specificity", "coherence", "harmonic", "recovered"):
        low_high = bounds.get(name)
        yield f"{name:<12} {_value(report[name])}" + (f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else "") + (
            f", the worst case: {report['worst_attack']['title']}" if name == "recovered" and report["worst_attack"] else "")
    if report["ember"]:
        yield f"\nEMBER: {report['ember']['verdict']}"
    for warning in report["warnings"]:
        yield f"Note: {warning}"


def _unmeasured(report: Mapping[str, Any]) -> Iterator[str]:
    """What can be said of a result that nobody has asked a question: what changed, and what is not known."""
    ember = report["ember"]
    yield f"{ember['rows']} rows of the input embedding changed at strength {ember['strength']:g}, by {ember['features']} features"
    yield str(ember["verdict"])
    for warning in report["warnings"]:
        yield f"Note: {warning}"


def _attacks(report: Mapping[str, Any]) -> Iterator[str]:
    """What each attack brings back, the most first; those that were not measured with the reason."""
    measured = [row for row in report["attacks"] if not row["not_measured"]]
    if measured:
        yield ""
        yield _row("Under attack: concept, questions it knew", [*map(state_title, ARMS), "brought back"])
    for row in sorted(measured, key=lambda row: -(row["recovered"] or 0.0)):
        mark = " (hands the answers over)" if row["hands_over"] else " (by definition)" if row["restores_by_definition"] else ""
        yield _row(sentence(row["title"]), [*(_cell(row["arms"].get(arm)) for arm in ARMS), _value(row["recovered"]) + mark])
    for row in (*report["evaluations"], *report["attacks"]):
        if row["not_measured"]:
            yield f"not measured: {row['name']} ({row['not_measured']})"


def _gate(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _row(title: str, cells: Sequence[str]) -> str:
    return (f"{title[:WIDTH - 1]:<{WIDTH}}" + "".join(f"{cell:<22}" for cell in cells)).rstrip()


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _first(model: Any, patch: Any) -> Any:
    folder = model or patch
    return folder / "README.md" if folder else None
