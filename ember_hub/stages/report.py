"""The report of a run or an audit, with its samples and figures, made anew from the run folder each time."""

from __future__ import annotations

from typing import Any

from ember_hub.evaluation.evaluations.questions import Questions
from ember_hub.evaluation.evidence import BASE, EDITED, Evidence
from ember_hub.publish.report.write import write_report as write_page
from ember_hub.run import Run
from ember_hub.stages.document import REPORT, compose
from ember_hub.stages.tokens import describe_tokens
from ember_hub.stages.verify import evidence
from ember_hub.stages.workshop import Workshop


def write_report(shop: Workshop, files: dict[str, Any]) -> dict[str, Any]:
    """Compose the report and write it with everything that shows it.

    Args:
        files: what was written for publishing, as the report says it; empty for an audit.
    """
    describe_tokens(shop)
    found = evidence(shop)
    report = compose(shop, found, files)
    shop.run.write_json(REPORT, report)
    _write_samples(shop.run, found)
    page = write_page(shop.run.folder)
    shop.say("report", f"{len(report['scores'])} scores · {page.page}")
    return report


def _write_samples(run: Run, found: Evidence) -> None:
    """The answers behind the numbers: multiple choice as before and after, everything else by instrument and state."""
    for state, moment in ((BASE, "before"), (EDITED, "after")):
        for name, measured in found.states[state].items():
            if measured.samples:
                run.write_jsonl(f"samples/{moment if name == Questions.name else f'{name}-{state}'}.jsonl", list(measured.samples))
        for attack, states in found.attacked.items():
            if state in states and states[state].samples:
                run.write_jsonl(f"samples/{attack}-{state}.jsonl", list(states[state].samples))
