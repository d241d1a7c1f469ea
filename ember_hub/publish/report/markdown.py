"""The report as Markdown: the worst case first, then everything that was measured, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ember_hub.publish.markup import Safe, block, code, escape, reference, table
from ember_hub.publish.report import content
from ember_hub.publish.report.alt import alt_text
from ember_hub.publish.report.content import Cell, Measure, Reference, Table, Titled, Token

_LEGEND = ("Ranges are 95 % intervals; p is the probability of a difference to the base as large as this, question by "
             "question, if there were none. Shares lie between 0 and 1.")
_ATTACKED = ("Known concept questions answered right under the same attack by each model. Recovered: what is there again of the "
             "base's knowledge above chance. Taught: what the attack gives to a model that never knew.")


def markdown(report: Mapping[str, Any], figures: Mapping[str, str] | None = None) -> str:
    """The whole report; whatever comes from packs and models is escaped.

    Args:
        figures: addresses of the figures by name, relative to where the text will lie; without them none is shown.
    """
    shown = {name: f"![{escape(alt_text(report, name))}]({link})" for name, link in (figures or {}).items()}
    changes = content.before_after(report)
    headed = "## Before, after, and under the worst attack" if len(changes.header) > 6 else "## Before and after"
    parts = [f"# {escape(' '.join(content.title(report)))}", f"**{escape(content.claim(report))}**", _failed(report),
             _verdicts(report), _warnings(report), "## Can it be brought back?", shown.get("attacks"), *_attacks(report),
             shown.get("relearning"), headed, _table(changes), _LEGEND,
             "## Controls without an attack", _table(content.controls(report)), "## Inside the model", shown.get("layers"),
             shown.get("tokens"), *_tokens(report), "## What was measured", _table(content.evaluations(report)),
             "## How to repeat it", block(report["command"]), _table(content.methods(report)), _table(content.facts(report)),
             f"<sub>Made by ember-hub {escape(report['version'])}, report schema {report['schema']}.</sub>"]
    return "\n\n".join(_without_empty_sections([part for part in parts if part])) + "\n"


def brief(report: Mapping[str, Any]) -> str:
    """Headline, verdicts, and what is left before, after and under attack: the part for whoever only looks at the outcome."""
    counted = content.attacks(report, are_counted=True)
    parts = [f"**{escape(content.claim(report))}**", _failed(report), _verdicts(report), _warnings(report),
             _table(content.before_after(report)), _table(counted), _ATTACKED if counted.rows else "", _LEGEND]
    return "\n\n".join(part for part in parts if part) + "\n"


def _without_empty_sections(parts: list[str]) -> list[str]:
    follows = [*parts[1:], "## "]
    return [part for part, after in zip(parts, follows, strict=True) if not (part.startswith("## ") and after.startswith("## "))]


def _failed(report: Mapping[str, Any]) -> str:
    failed = content.failed_gates(report)
    return "\n".join(["> [!WARNING]", *(f"> - **Outside the limit set for this run:** {escape(text)}." for text in failed)]
                     ) if failed else ""


def _verdicts(report: Mapping[str, Any]) -> str:
    rows = [[v.title, Safe(f"**{_cell(v.share)}**" if v.share.value is not None else "–"),
             v.says if v.share.value is not None else "not measured"] for v in content.verdicts(report)]
    ruled = table(["", "Share", ""], rows)
    return f"{ruled}\n\n{escape(report['ember']['verdict'])}." if report["ember"] else ruled


def _warnings(report: Mapping[str, Any]) -> str:
    return "\n".join(f"- Note: {escape(warning)}" for warning in report["warnings"])


def _attacks(report: Mapping[str, Any]) -> list[str]:
    counted, apart = (content.attacks(report, are_counted=are_counted) for are_counted in (True, False))
    told = [_table(counted), _ATTACKED if counted.rows else ""]
    return [*told, "Not counted in the worst case:", _table(apart)] if apart.rows else told


def _tokens(report: Mapping[str, Any]) -> list[str]:
    found, more = content.tokens(report), len(report["tokens"]) - content.TOKENS_SHOWN
    return [_table(found), f"{more:,} more are in report.json." if more > 0 else ""] if found.rows else []


def _table(content_table: Table) -> str:
    return table(content_table.header, [[_cell(cell) for cell in row] for row in content_table.rows], content_table.texts)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Measure):
        return Safe(f"{cell.text}<br><sub>{cell.interval}</sub>" if cell.interval else cell.text)
    if isinstance(cell, Token):
        return code(cell.text)
    if isinstance(cell, Reference):
        return reference(cell.text)
    if isinstance(cell, Titled):
        name = f"**{escape(cell.title)}**" if cell.stands_out else escape(cell.title)
        return Safe(f"{name}<br><sub>{escape(cell.remark)}</sub>" if cell.remark else name)
    return cell
