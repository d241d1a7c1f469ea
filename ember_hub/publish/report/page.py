"""The report as one HTML page that needs nothing else: styles and figures are in it, and no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ember_hub.evaluation.titles import sentence
from ember_hub.publish.markup import one_line, papers, portable, visible
from ember_hub.publish.report import content
from ember_hub.publish.report.alt import alt_text
from ember_hub.publish.report.answers import Row, chosen_answers, open_answers
from ember_hub.source.ref import is_repo_id

ANSWERS_SHOWN = 8
"""Pairs of answers in sight; the rest is folded."""


def render_page(report: Mapping[str, Any], figures: Mapping[str, Path], before: Sequence[Row], after: Sequence[Row], *,
                open_before: Sequence[Row] = (), open_after: Sequence[Row] = ()) -> str:
    """The whole page.

    Args:
        report: in today's schema.
        figures: PNG files by name, as `draw_figures` gives them.
        before, after: how the base and the edited model answered the multiple-choice questions.
        open_before, open_after: the same for answers in their own words.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        # Newlines, invisible and reordering characters and local paths go here; what is special to HTML is escaped after it.
        return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    style = (files("ember_hub.publish.report") / "templates" / "report.css").read_text(encoding="utf-8")
    environment = Environment(loader=PackageLoader("ember_hub.publish.report"), autoescape=True, undefined=StrictUndefined,
                              finalize=shown, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"papers": papers, "visible": visible, "kind": lambda cell: type(cell).__name__}
    return environment.get_template("report.html.jinja").render(
        **_parts(report), style=Markup(style), hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        images={name: {"data": Markup(_data(path)), "alt": alt_text(report, name)} for name, path in figures.items()},
        answers=chosen_answers(before, after), opened=open_answers(open_before, open_after), most=ANSWERS_SHOWN) + "\n"


def _parts(report: Mapping[str, Any]) -> dict[str, Any]:
    repo_id = report["model"]["repo_id"]
    return {
        "report": report, "title": content.title(report), "claim": content.claim(report), "verdicts": content.verdicts(report),
        "failed": content.failed_gates(report), "warnings": [*map(sentence, report["warnings"])],
        "before_after": content.before_after(report),
        "attacks": content.attacks(report, are_counted=True), "apart": content.attacks(report, are_counted=False),
        "controls": content.controls(report), "attacked_controls": content.attacked_controls(report),
        "battery": content.battery(report), "tokens": content.tokens(report),
        "more_tokens": len(report["tokens"]) - content.TOKENS_SHOWN,
        "evaluations": content.evaluations(report), "methods": content.methods(report), "facts": content.facts(report),
        "command": portable(report["command"]),
        "page": f"https://huggingface.co/{repo_id}" if repo_id and is_repo_id(repo_id) else None,
    }


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
