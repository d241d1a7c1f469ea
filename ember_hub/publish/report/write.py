"""From a finished run's folder to the report that people look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ember_hub.errors import RunNotFound
from ember_hub.evaluation.figures import draw_figures
from ember_hub.publish.report.markdown import markdown
from ember_hub.publish.report.page import render_page
from ember_hub.publish.report.schema import read_current
from ember_hub.run import Run, disk_errors

PAGE, TEXT, FIGURES = "reports/report.html", "reports/report.md", "reports/figures"


@dataclass(frozen=True)
class Written:
    """Where page and Markdown lie."""

    page: Path
    text: Path


def write_report(folder: Path) -> Written:
    """Draw the figures of the finished run in `folder`, and write its page and Markdown beside report.json.

    Raises:
        RunNotFound: the folder holds no finished run, or files of it cannot be read.
        DiskError: they cannot be written.
    """
    report, run = read_current(folder), Run(folder)
    samples = {name: _samples(folder / "samples" / f"{name}.jsonl")
               for name in ("before", "after", "open-answers-base", "open-answers-edited")}
    with disk_errors(folder):
        figures = draw_figures(report, folder / FIGURES)
    page = render_page(report, figures, samples["before"], samples["after"], open_before=samples["open-answers-base"],
                       open_after=samples["open-answers-edited"])
    text = markdown(report, {name: f"figures/{path.name}" for name, path in figures.items()})
    return Written(run.write(PAGE, page), run.write(TEXT, text))


def _samples(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if all(isinstance(row, dict) for row in rows):
            return rows
        raise ValueError("not an object")
    except ValueError as error:
        raise RunNotFound(f"{path} holds a line that is no JSON object",
                          hint="type the command that made the run again: it writes the samples anew") from error
