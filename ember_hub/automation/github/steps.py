"""The steps of the action that are more than a line: find what to cache, erase, watch, open issues."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ember_hub.automation.github import summary, words
from ember_hub.automation.github.command import GATE_FAILED, Ended, run
from ember_hub.automation.github.issues import open_issues
from ember_hub.automation.github.runner import Step
from ember_hub.errors import AutomationError, SourceError
from ember_hub.publish.markup import escape
from ember_hub.publish.report.schema import read_current
from ember_hub.source.gguf import cache_home
from ember_hub.source.ref import ModelRef

MOST_CACHED = 5 << 30
"""Bytes of weights that are kept between jobs; GitHub gives a repository 10 GB in all."""
_KEPT = ("reports/report.json", "reports/report.html", "reports/report.md", "reports/figures/*.png", "out/*/README.md", "run.toml",
         "pushed.json")


def cache(step: Step) -> None:
    """Outputs `path` and `key` of what is worth keeping between jobs; both empty where nothing is."""
    path, key = _cached(step) if step.asked("cache", "true") == "true" else ("", "")
    step.output({"path": path, "key": key})


def erase(step: Step) -> None:
    """Run the erasure, set the outputs, write the summary. A gate that fails is an output too: the last step fails for it."""
    on_job = words.needs_job(step)
    output = Path(step.asked("output") or step.scratch / "ember-runs")
    began = time.time()
    ended = run(step, words.for_job(step) if on_job else words.for_erase(step, output))
    if on_job:
        _tell_job(step, ended)
    else:
        _tell_run(step, ended, output, began)
    _require(step, ended)


def watch(step: Step) -> None:
    """One round of watching: outputs, a summary, and the file `decisions` that the issues are made of."""
    asked = words.for_watch(step)
    if asked is None:
        step.summarize(f"## Nothing is watched\n\nThere is no {words.CONFIG} in this repository.\n")
        step.output({"exit-code": 0, "erased": 0, "failed": 0})
        return
    ended = run(step, asked)
    decisions = _decisions(ended)
    path = step.scratch / "ember-decisions.jsonl"
    path.write_text(ended.answer, encoding="utf-8")
    counts = {kind: sum(d["decision"] == kind for d in decisions) for kind in ("erased", "failed")}
    folders = [d["run"] for d in decisions if d["run"] and Path(d["run"]).is_dir()]
    step.output({"exit-code": ended.code, "decisions": path, "artifact": "\n".join(map(_kept, folders)), **counts})
    step.summarize(summary.of_decisions(decisions, ended.complaint if not decisions else ""))
    _require(step, ended, "\n".join(f"{d['repo']}: {d['reason']}" for d in decisions if d["decision"] == "failed"))


def issues(step: Step) -> None:
    """Open an issue for each release that was erased or failed."""
    path = Path(step.asked("decisions"))
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for title in open_issues([json.loads(line) for line in lines], step.scratch, step.asked("run-url")):
        step.summarize(f"- Issue: {escape(title)}")


STEPS: Mapping[str, Callable[[Step], None]] = MappingProxyType(
    {"cache": cache, "erase": erase, "watch": watch, "issues": issues})


def _tell_run(step: Step, ended: Ended, output: Path, began: float) -> None:
    folder = _newest(output, began) if ended.code in (0, GATE_FAILED) else None
    if folder is None:
        step.output({"exit-code": ended.code, "passed": False})
        step.summarize(summary.of_failure(ended.complaint))
        return
    report, pushed = read_current(folder), _pushed(folder)
    first: dict[str, Any] = next(iter(pushed.values()), {})
    step.output({
        "exit-code": ended.code, "run": folder, "report": folder / "reports/report.json", "repo": first.get("repo"),
        "url": first.get("url"), "efficacy": report["efficacy"], "recovered": report["recovered"],
        "passed": all(gate["passed"] for gate in report["gates"]), "artifact": _kept(folder)})
    step.summarize(summary.of_erasure(report, pushed, ended.code))


def _tell_job(step: Step, ended: Ended) -> None:
    decisions = _decisions(ended)
    first: dict[str, Any] = decisions[0] if decisions else {}
    figures = first.get("result") or first.get("before") or {}
    step.output({"exit-code": ended.code, "run": first.get("run"), "report": first.get("report"), "repo": first.get("target"),
                 "efficacy": figures.get("efficacy"), "recovered": figures.get("recovered"),
                 "passed": figures.get("passed", False)})
    step.summarize(summary.of_decisions(decisions, ended.complaint))


def _require(step: Step, ended: Ended, reasons: str = "") -> None:
    """Show the error at the top of the job; the step itself goes on, so that what there is gets uploaded."""
    if ended.code:
        step.complain(reasons or ended.complaint)


def _newest(output: Path, began: float) -> Path | None:
    """The run folder whose report this command wrote; a report is written anew each time."""
    found = [(path.stat().st_mtime, path) for path in output.glob("*/*/reports/report.json")]
    # File systems keep times less finely than the clock.
    moment, path = max(found, default=(0.0, Path()))
    return path.parents[1] if moment >= began - 2 else None


def _kept(folder: Path | str) -> str:
    """Patterns of the files that are worth looking at, one a line."""
    return "\n".join(f"{folder}/{name}" for name in _KEPT)


def _pushed(folder: Path) -> dict[str, Any]:
    path = folder / "pushed.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _decisions(ended: Ended) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in ended.answer.split("\n") if line]
    except ValueError as error:
        raise AutomationError("`ember-hub watch --json` wrote a line that is no JSON",
                              hint="see the log of this step") from error


def _cached(step: Step) -> tuple[str, str]:
    """Rows that were read by range are always kept, whole downloads up to a size; a file or a folder is here already."""
    try:
        ref = ModelRef.parse(step.asked("model"))
    except SourceError:
        # The erasure itself will say what is wrong with it.
        return "", ""
    if ref.kind != "hub" or words.needs_job(step):
        return "", ""
    commit, size = _look_up(step, ref)
    if not commit:
        return "", ""
    key = f"ember-hub-{os.environ.get('RUNNER_OS', 'Linux')}-{re.sub(r'[^A-Za-z0-9._-]+', '--', ref.location)}-{commit}"
    if not words.loads_a_model(step):
        return str(cache_home()), f"{key}-rows"
    from huggingface_hub.constants import HF_HUB_CACHE

    if size > MOST_CACHED:
        step.summarize(f"Not cached: {size / 2**30:.1f} GiB of weights.")
        return "", ""
    return HF_HUB_CACHE, key


def _look_up(step: Step, ref: ModelRef) -> tuple[str, int]:
    """Commit and bytes of weights; empty when the Hub does not say, which the erasure will report with its reason."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi(token=step.asked("token") or None).model_info(ref.location, revision=ref.revision, files_metadata=True)
    except (HfHubHTTPError, httpx2.HTTPError, OSError):
        return "", 0
    return info.sha or "", sum(file.size or 0 for file in info.siblings or () if file.rfilename.endswith(".safetensors"))


