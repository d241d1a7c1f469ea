"""Runs the shell steps of a composite action on this machine as GitHub's runner does; steps with `uses:` are recorded.

Expressions: contexts with dots, texts, `==`, `!=`, `&&`, `||`, `always()`. Anything else is an error, not a guess.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

GITHUB = {"token": "gh_test", "server_url": "https://github.com", "repository": "someone/erasures", "run_id": "42"}
RUNNER = {"os": "Linux", "arch": "X64"}


@dataclass
class Finished:
    """What a job would show."""

    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    ran: list[str] = field(default_factory=list)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Steps with `uses:` that would run, with their inputs."""
    failed: str | None = None
    """Name of the step that failed."""


@dataclass
class Runner:
    """A machine of GitHub's: `workspace` is the checked-out repository of the caller, `temp` lasts as long as the job."""

    workspace: Path
    temp: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, action: Path, inputs: Mapping[str, str]) -> Finished:
        """Run the action in the folder `action` with what a workflow says under `with:`."""
        described = yaml.safe_load((action / "action.yml").read_text(encoding="utf-8"))
        assert described["runs"]["using"] == "composite"
        known = described["inputs"]
        assert inputs.keys() <= known.keys(), f"unknown inputs: {inputs.keys() - known.keys()}"
        assert all(name in inputs for name, about in known.items() if about.get("required")), "a required input is missing"
        contexts: dict[str, Any] = {"github": GITHUB, "runner": RUNNER, "env": {}, "steps": {}}
        contexts["inputs"] = {name: inputs[name] if name in inputs else expand(about.get("default", ""), contexts)
                              for name, about in known.items()}
        finished = Finished()
        for number, step in enumerate(described["runs"]["steps"]):
            self._step(action, step, number, contexts, finished)
        finished.outputs = {name: expand(about["value"], contexts) for name, about in described["outputs"].items()}
        return finished

    def _step(self, action: Path, step: Mapping[str, Any], number: int, contexts: dict[str, Any], finished: Finished) -> None:
        condition = str(step.get("if", "success()"))
        if (finished.failed and "always()" not in condition) or not evaluate(condition, contexts):
            return
        if "uses" in step:
            finished.used.append((step["uses"].split("@")[0], {k: expand(v, contexts) for k, v in step.get("with", {}).items()}))
            return
        assert step["shell"] == "bash"
        files = {name: self.temp / f"{name.lower()}-{number}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")}
        for path in files.values():
            path.write_text("")
        script = self.temp / f"step-{number}.sh"
        script.write_text(expand(step["run"], contexts))
        environment = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **self.environment,
            "GITHUB_ACTIONS": "true", "GITHUB_ACTION_PATH": str(action), "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
            "RUNNER_OS": RUNNER["os"], **contexts["env"], **{name: str(path) for name, path in files.items()},
            **{name: expand(value, contexts) for name, value in step.get("env", {}).items()}}
        done = subprocess.run(["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)], cwd=self.workspace,
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        finished.ran.append(step["name"])
        finished.log += done.stdout
        finished.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        contexts["env"] |= assigned(files["GITHUB_ENV"].read_text(encoding="utf-8"))
        contexts["steps"][step.get("id", "")] = {"outputs": assigned(files["GITHUB_OUTPUT"].read_text(encoding="utf-8"))}
        if done.returncode:
            finished.failed = step["name"]


def assigned(text: str) -> dict[str, str]:
    """`name=value` lines, and values between delimiters."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, several, end = re.fullmatch(r"([\w-]+)(=|<<)(.*)", line).groups()
        if several == "=":
            found[name] = end
        else:
            value = []
            while (line := next(lines)) != end:
                value.append(line)
            found[name] = "\n".join(value)
    return found


def expand(text: object, contexts: Mapping[str, Any]) -> str:
    """A value of the file with its expressions filled in."""
    return re.sub(r"\$\{\{(.+?)\}\}", lambda match: shown(evaluate(match[1], contexts)), str(text))


def shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def evaluate(text: str, contexts: Mapping[str, Any]) -> object:
    """The value of one expression; as on GitHub, what is not there is an empty text."""
    for operator in ("||", "&&"):
        first, found, rest = text.partition(operator)
        if found:
            left = evaluate(first, contexts)
            return left if bool(left) == (operator == "||") else evaluate(rest, contexts)
    for operator in ("==", "!="):
        first, found, rest = text.partition(operator)
        if found:
            return (evaluate(first, contexts) == evaluate(rest, contexts)) == (operator == "==")
    text = text.strip()
    if text in ("always()", "success()"):
        return True
    if literal := re.fullmatch(r"'([^']*)'", text):
        return literal[1]
    assert re.fullmatch(r"[a-z]+(\.[\w-]+)+", text), f"an expression that this runner does not know: {text}"
    value: Any = contexts
    for key in text.split("."):
        value = value.get(key, "") if isinstance(value, Mapping) else ""
    return value
