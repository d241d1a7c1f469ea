"""The result of an erasure as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ember_hub.pipeline import Outcome

ROWS = (
    ("concept questions it knew", "concept_known"),
    ("  probability of the answer", "concept_probability"),
    ("concept questions, all", "concept_all"),
    ("near-domain it knew", "near_domain_known"),
    ("general knowledge it knew", "general_known"),
    ("mass on valid answers, concept", "valid_mass_concept"),
    ("mass on valid answers, others", "valid_mass_other"),
    ("neutral text, nats per token", "neutral_loss"),
)
STAGES = (("before", "base"), ("after", "edited"), ("relearned (paper)", "attack:relearn-paper"),
          ("relearned (strong)", "attack:relearn-strong"))


def print_report(outcome: Outcome) -> None:
    """Before, after and relearned side by side, the controls, the verdicts, and where everything lies."""
    report = outcome.report
    for line in lines(report):
        click.echo(line)
    click.echo()
    for title, path in (("model", outcome.model), ("patch", outcome.patch),
                        ("card", _first(outcome.model, outcome.patch)),
                        ("figure", outcome.folder / "reports/figures/relearning.png"),
                        ("report", outcome.folder / "reports/report.json")):
        if path is not None and path.exists():
            click.echo(f"{title:<8} {path}")


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The table, line by line."""
    by = {(s["name"], s["stage"]): s for s in report["scores"]}
    stages = [(title, stage) for title, stage in STAGES if any(s["stage"] == stage for s in report["scores"])]
    yield _row("", [title for title, _ in stages])
    for title, name in ROWS:
        cells = [_cell(by.get((name, stage))) for _, stage in stages]
        if any(cells):
            yield _row(title, cells)
    yield ""
    controls = sorted({s["stage"] for s in report["scores"] if s["stage"].startswith("control:")})
    for stage in controls:
        score = by.get(("concept_known", stage))
        if score:
            yield _row(f"control: {stage.removeprefix('control:')}"[:44], [_cell(score)], width=46)
    yield ""
    for name in ("efficacy", "specificity", "coherence", "harmonic", "recovered"):
        value = report[name]
        yield f"{name:<12} {'not measured' if value is None else f'{value:.2f}'}"
    if report["ember"]:
        yield f"\nEMBER: {report['ember']['verdict']}"
    for warning in report["warnings"]:
        yield f"Note: {warning}"


def _row(title: str, cells: Sequence[str], width: int = 32) -> str:
    return (f"{title:<{width}}" + "".join(f"{cell:<22}" for cell in cells)).rstrip()


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _first(model: Any, patch: Any) -> Any:
    folder = model or patch
    return folder / "README.md" if folder else None
