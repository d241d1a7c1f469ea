"""Issues about releases, opened by GitHub's own command line: title and body are arguments and files, never a script."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ember_hub.automation.github.summary import of_release
from ember_hub.errors import AutomationError

LABEL = "ember-watch"


def open_issues(decisions: Sequence[Mapping[str, Any]], scratch: Path, run_url: str = "") -> Iterator[str]:
    """Open one for each release that was erased or failed and has none yet; the titles of those that were opened.

    Raises:
        AutomationError: `gh` is not here, or GitHub refuses.
    """
    told = [d for d in decisions if d["decision"] in ("erased", "failed")]
    if not told:
        return
    _gh("label", "create", LABEL, "--force", "--description", "Releases of watched bases")
    there = {issue["title"] for issue in json.loads(_gh("issue", "list", "--label", LABEL, "--state", "open", "--limit", "500",
                                                        "--json", "title"))}
    for number, decision in enumerate(told):
        title = _title(decision)
        # A release that goes on failing is one issue, not one for each round.
        if title not in there:
            body = scratch / f"ember-issue-{number}.md"
            body.write_text(of_release(decision, run_url), encoding="utf-8")
            _gh("issue", "create", "--title", title, "--label", LABEL, "--body-file", str(body))
            there.add(title)
            yield title


def _title(decision: Mapping[str, Any]) -> str:
    commit = f"@{decision['commit'][:12]}" if decision["commit"] else ""
    told = "erased" if decision["decision"] == "erased" else "gate failed" if decision["gate_failed"] else "not erased"
    return f"{decision['concept']} · {decision['repo']}{commit}: {told}"


def _gh(*arguments: str) -> str:
    try:
        done = subprocess.run(["gh", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise AutomationError("the command `gh` is not on this runner",
                              hint="GitHub's own runners have it; or leave issues out with open-issues: false") from error
    if done.returncode:
        raise AutomationError(f"gh {' '.join(arguments[:2])}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
                              hint="the job needs `permissions: issues: write`, and the repository has to have issues")
    return done.stdout
