"""What GitHub shows of a job when it is over, as Markdown. Names from models and packs are escaped on their way into it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ember_hub.automation.github.command import GATE_FAILED
from ember_hub.publish.markup import Safe, escape, table
from ember_hub.publish.report import content
from ember_hub.publish.report.markdown import brief

FIGURES = ("efficacy", "specificity", "coherence", "recovered")
_LONGEST_LABEL = 44


def of_erasure(report: Mapping[str, Any], pushed: Mapping[str, Mapping[str, Any]], code: int) -> str:
    """A finished erasure: where it went, its figure, its tables.

    GitHub shows no picture that lies on the runner, so the figure is drawn by GitHub itself, from text.
    """
    heading, base = content.title(report)
    state = "Done" if code == 0 else "A gate failed" if code == GATE_FAILED else f"Ended with exit code {code}"
    parts = [f"## {escape(heading)} {escape(base)}", f"{state}. {_where(pushed)}", _figure(report), brief(report),
             "Report, card, page and pictures are in the artifact of this run."]
    return "\n\n".join(part for part in parts if part) + "\n"


def of_failure(complaint: str) -> str:
    """An erasure that did not come to its end."""
    return "## Nothing was erased\n\n" + "\n".join(f"- {escape(line)}" for line in complaint.splitlines()) + "\n"


def of_decisions(decisions: Sequence[Mapping[str, Any]], complaint: str = "") -> str:
    """A round of watching, release by release."""
    rows = [[d["repo"], (d["commit"] or "")[:12], d["decision"], d["target"] or "–", d["reason"] or "–",
             *(_share(_figures_of(d).get(name)) for name in ("efficacy", "recovered"))] for d in decisions]
    ruled = table(["Base", "Commit", "", "Result", "Why", "Erased", "Brought back"], rows, left=5)
    parts = ["## Releases of watched bases", ruled or "No release was found.", escape(complaint) if complaint else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def of_release(decision: Mapping[str, Any], run_url: str = "") -> str:
    """What an issue says about one release: the new result beside the last one."""
    now, before = decision["result"] or {}, decision["before"] or {}
    rows = [[name, _share(before.get(name)), _share(now.get(name)), _change(before.get(name), now.get(name))] for name in FIGURES]
    compared = table(["", f"Before ({_commit(before)})", f"Now ({_commit(now)})", "Change"], rows) if now else ""
    told = {"erased": "A new release of a watched base was erased with the same recipe.",
            "failed": "A new release of a watched base could not be erased."}
    gate = "**A gate failed: the result is outside a limit of the recipe.**" if decision["gate_failed"] else ""
    facts = [f"- Base: {_link(decision['repo'])} at `{_plain(decision['commit'] or 'an unknown commit')}`",
             f"- Concept: {escape(decision['concept'])}",
             f"- Result: {_link(decision['target'])}" if decision["target"] and decision["decision"] == "erased" else "",
             f"- Why: {escape(decision['reason'])}" if decision["reason"] else "",
             f"- Workflow run: {run_url}" if run_url else ""]
    parts = [told.get(decision["decision"], ""), gate, "\n".join(fact for fact in facts if fact), compared]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures_of(decision: Mapping[str, Any]) -> Mapping[str, Any]:
    return decision["result"] or decision["before"] or {}


def _where(pushed: Mapping[str, Mapping[str, Any]]) -> str:
    places = [f"{form}: [{escape(there['repo'])}]({there['url']}) at `{_plain(there['commit'])[:12]}`"
              for form, there in pushed.items()]
    return f"Pushed {', '.join(places)}." if places else "Nothing was pushed."


def _figure(report: Mapping[str, Any]) -> str:
    """Known concept questions answered right: by the base, by this model, and by this model under each attack."""
    by = {(s["name"], s["stage"]): s["value"] for s in report["scores"]}
    bars = [(label, by.get(("concept_known", stage))) for label, stage in (("base", "base"), ("this model", "edited"))]
    attacked = [a for a in report["attacks"] if a["arms"].get("edited")]
    bars += [(a["title"], a["arms"]["edited"]["value"]) for a in sorted(attacked, key=lambda a: -(a["recovered"] or 0.0))]
    shown = [(label, value) for label, value in bars if value is not None]
    if not shown:
        return ""
    labels = ", ".join(f'"{_label(label)}"' for label, _ in shown)
    values = ", ".join(f"{value:.3f}" for _, value in shown)
    return ('```mermaid\nxychart-beta horizontal\n    title "Known concept questions answered right"\n'
            f'    x-axis [{labels}]\n    y-axis "share" 0 --> 1\n    bar [{values}]\n```')


def _label(text: str) -> str:
    return re.sub(r"[^\w ,.+’-]+", " ", text.replace("'", "’")).strip()[:_LONGEST_LABEL].strip() or "attack"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _change(before: float | None, now: float | None) -> str:
    return "–" if before is None or now is None else f"{now - before:+.2f}"


def _commit(figures: Mapping[str, Any]) -> str:
    return str(figures.get("commit") or "none")[:12]


def _link(repo: str) -> Safe:
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII)
    return Safe(f"[{escape(repo)}](https://huggingface.co/{repo})" if is_id else escape(repo))


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]", "", text)
