"""The action `ember-watch`, its shell steps run for real: from a new commit of a watched base to a patch and an issue about it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.github.runner import Finished, Runner
from tests.github.test_files import GITHUB
from tests.hub.server import LoopbackHub
from tests.toy_run import Toy

ACTION = GITHUB / "actions/ember-watch"
BASE, TARGET = "maker/toy-model", "tester/toy-model-ember-toy-inventors-patch"
# Stands for GitHub's own command line: it notes each call and keeps the issues in a file.
GH = """#!/usr/bin/env python3
import json, os, sys
place = os.environ["GH_NOTES"]
issues = json.load(open(place)) if os.path.exists(place) else []
if sys.argv[1:3] == ["issue", "list"]:
    print(json.dumps([{"title": issue["title"]} for issue in issues]))
elif sys.argv[1:3] == ["issue", "create"]:
    given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
    issues.append({"title": given["--title"], "body": open(given["--body-file"]).read(), "token": os.environ["GH_TOKEN"]})
    json.dump(issues, open(place, "w"))
"""


@pytest.fixture
def gh(connected: Runner, tmp_path: Path) -> Path:
    """Where the issues are kept."""
    program = tmp_path / "bin/gh"
    program.parent.mkdir()
    program.write_text(GH)
    program.chmod(0o755)
    notes = tmp_path / "issues.json"
    connected.environment = {**connected.environment, "GH_NOTES": str(notes), "BASH_ENV": str(tmp_path / "path.sh")}
    (tmp_path / "path.sh").write_text(f'PATH="{program.parent}:$PATH"\n')
    return notes


def watch(runner: Runner, **inputs: str) -> Finished:
    return runner.run(ACTION, {"package": "none", "python-version": "", "token": "hf_test", **inputs})


def configure(runner: Runner, toy: Toy, gates: str = "") -> None:
    path = runner.workspace / ".github/ember-watch.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'concept = "{toy.pack}"\nmethods = []\n{gates}\n[publish]\nform = "patch"\n'
                    f'[ember]\nsparsity = 0.1\nseeds = 2\n[watch]\nmodels = ["{BASE}"]\n')


def new_version(toy: Toy, folder: Path) -> Path:
    """The toy model as its maker would release it again."""
    shutil.copytree(toy.model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 1.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_from_a_new_commit_to_a_patch_with_its_card_and_an_issue_that_compares(
        hub: LoopbackHub, connected: Runner, gh: Path, toy: Toy, tmp_path: Path) -> None:
    configure(connected, toy)
    first = hub.add_repo(BASE, toy.model)
    done = watch(connected)
    assert done.failed is None, done.log + done.summary
    assert (done.outputs["erased"], done.outputs["failed"]) == ("1", "0")
    assert json.loads(hub.read(TARGET, "adapter_config.json"))["base_model_name_or_path"] == BASE
    assert f"base_model: {BASE}" in hub.read(TARGET, "README.md").decode()
    assert json.loads(hub.read(TARGET, "ember/report.json"))["model"]["commit"] == first
    fetched = hub.seen("GET", rf"^/{BASE}/resolve/.*\.safetensors")
    assert fetched
    assert all(request.range for request in fetched), "no weight file was downloaded"

    quiet = watch(connected)
    assert quiet.failed is None, quiet.log
    assert (quiet.outputs["erased"], quiet.outputs["failed"]) == ("0", "0")
    assert "it was erased already" in quiet.summary

    second = hub.add_repo(BASE, new_version(toy, tmp_path / "again"))
    done = watch(connected)
    assert done.failed is None, done.log + done.summary
    assert json.loads(hub.read(TARGET, "ember/report.json"))["model"]["commit"] == second
    one, two = json.loads(gh.read_text())
    assert one["title"] == f"toy-inventors · {BASE}@{first[:12]}: erased"
    assert f"Before ({first[:12]}) | Now ({second[:12]})" in two["body"]
    assert "https://github.com/someone/erasures/actions/runs/42" in two["body"]
    assert one["token"] == "gh_test"
    assert "hf_test" not in done.log + done.summary + gh.read_text()


def test_a_gate_that_fails_is_an_issue_and_a_failed_job_once(hub: LoopbackHub, connected: Runner, gh: Path, toy: Toy) -> None:
    configure(connected, toy, "gates = { recovered = 0.1 }")
    hub.add_repo(BASE, toy.model)
    done = watch(connected)
    assert done.failed == "Fail if one failed", done.log + done.summary
    assert done.outputs["failed"] == "1"
    assert set(hub.store.repositories["models", TARGET].head.files) == {".gitattributes"}, "only the claim's repository is there"
    (issue,) = json.loads(gh.read_text())
    assert issue["title"].endswith(": gate failed")
    assert "**A gate failed" in issue["body"]

    told = open_issues(environment(gh.parent / "bin", done.outputs["decisions"]) | {"GH_NOTES": str(gh), "GH_TOKEN": ""})
    assert told.returncode == 0, told.stderr
    assert json.loads(gh.read_text()) == [issue], "what is an open issue already is not told again"
    again = watch(connected)
    assert again.failed is None, "the same release with the same recipe is not tried again" + again.summary


def test_without_a_file_nothing_is_watched_and_a_file_that_was_named_has_to_be_there(runner: Runner) -> None:
    done = watch(runner)
    assert done.failed is None, done.log + done.summary
    assert "There is no .github/ember-watch.toml" in done.summary
    done = watch(runner, config="$(touch x);.toml")
    assert done.failed
    assert list(runner.workspace.iterdir()) == []


@pytest.mark.parametrize(("program", "says", "hint"), [
    ("#!/bin/sh\necho 'HTTP 403: no' >&2\nexit 1\n", "gh label create: HTTP 403: no", "issues: write"),
    (None, "`gh` is not on this runner", "open-issues: false"),
])
def test_an_issue_that_cannot_be_opened_is_an_error_with_a_way_out(tmp_path: Path, program: str | None, says: str,
                                                                   hint: str) -> None:
    if program:
        (tmp_path / "gh").write_text(program)
        (tmp_path / "gh").chmod(0o755)
    decision = {"repo": BASE, "commit": "1" * 40, "concept": "covid", "decision": "failed", "gate_failed": False}
    (tmp_path / "decisions").write_text(json.dumps(decision))
    done = open_issues(environment(tmp_path, str(tmp_path / "decisions")))
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("::error title=ember-hub::")
    assert says in done.stdout
    assert hint in done.stdout
    assert "Traceback" not in done.stderr


def environment(programs: Path, decisions: str) -> dict[str, str]:
    """That of the step that opens issues."""
    path = f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin" if (programs / "gh").exists() else str(programs)
    return {"PATH": path, "PYTHONPATH": str(GITHUB.parent), "INPUT_DECISIONS": decisions, "RUNNER_TEMP": str(programs)}


def open_issues(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ember_hub.automation.github", "issues"], env=variables, capture_output=True,
                          text=True, check=False)
