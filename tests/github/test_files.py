"""The workflows and actions pass the checkers that GitHub's users have, and keep the house's own rules for them."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

GITHUB = Path(__file__).parents[2] / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
ACTIONS = sorted(GITHUB.glob("actions/*/action.yml"))
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", [
    ["actionlint"], ["zizmor", "--offline", "--no-progress", "."],
    ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)],
    ["check-jsonschema", "--builtin-schema", "vendor.github-actions", *map(str, ACTIONS)],
], ids=["actionlint", "zizmor", "schema of workflows", "schema of actions"])
def test_the_checkers_find_nothing(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=GITHUB.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_that_watch_writes_passes_them_and_fits_the_one_it_calls(tmp_path: Path) -> None:
    template = files("ember_hub.automation").joinpath("templates/ember-watch.yml").read_text(encoding="utf-8")
    path = tmp_path / ".github/workflows/ember-watch.yml"
    path.parent.mkdir(parents=True)
    path.write_text(template.replace("__USES__", f"owner/ember-hub/.github/workflows/watch.yml@{'1' * 40}"))
    for command in (["actionlint", path], ["zizmor", "--offline", "--no-progress", path]):
        done = subprocess.run([BIN / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    # YAML reads the key `on` as true.
    called = yaml.safe_load((GITHUB / "workflows/watch.yml").read_text(encoding="utf-8"))[True]["workflow_call"]
    job = yaml.safe_load(path.read_text())["jobs"]["watch"]
    assert job["with"].keys() <= called["inputs"].keys()
    assert job["secrets"].keys() == called["secrets"].keys()
    assert job["permissions"] == {"contents": "read", "issues": "write"}


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda p: str(p.relative_to(GITHUB)))
def test_no_expression_is_part_of_a_script_and_every_other_action_is_pinned(path: Path) -> None:
    for step in steps(yaml.safe_load(path.read_text(encoding="utf-8"))):
        assert "${{" not in step.get("run", ""), step
        if "uses" in step and not step["uses"].startswith("$/"):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"]), step
            assert re.search(rf"{step['uses']} # v\d+\.\d+\.\d+$", path.read_text(encoding="utf-8"), re.MULTILINE), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_every_job_has_an_end_and_no_right_that_it_does_not_need(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 350, name
        rights = {right for right, level in job.get("permissions", {}).items() if level == "write"}
        assert rights <= {("release", "publish"): {"id-token"}, ("watch", "watch"): {"issues"}}.get((path.stem, name), set())


@pytest.mark.parametrize("name", ["erase", "watch"])
def test_a_reusable_workflow_passes_only_inputs_that_its_action_has(name: str) -> None:
    workflow = yaml.safe_load((GITHUB / f"workflows/{name}.yml").read_text(encoding="utf-8"))
    known = yaml.safe_load((GITHUB / f"actions/ember-{name}/action.yml").read_text(encoding="utf-8"))["inputs"]
    (job,) = workflow["jobs"].values()
    (step,) = (step for step in job["steps"] if step["uses"].startswith("$/"))
    assert step["uses"] == f"$/.github/actions/ember-{name}"
    assert step["with"].keys() <= known.keys()
    # YAML reads the key `on` as true.
    called = workflow[True]["workflow_call"]["inputs"]
    assert {text.split("inputs.")[1].split(" ")[0] for text in step["with"].values() if "inputs." in text} <= called.keys()


@pytest.mark.parametrize("path", ACTIONS, ids=lambda p: p.parent.name)
def test_every_input_of_an_action_is_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in yaml.safe_load(text)["inputs"]:
        assert re.search(rf"inputs\.{name}\b", text), name


def steps(described: dict[str, Any]) -> list[dict[str, Any]]:
    if "runs" in described:
        return described["runs"]["steps"]
    return [step for job in described["jobs"].values() for step in job["steps"]]
