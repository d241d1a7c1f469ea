"""The action `ember-erase`, its shell steps run for real: what it does with inputs, what it leaves, and when it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.github.runner import Finished, Runner
from tests.github.test_files import GITHUB
from tests.toy_run import SETTINGS, Toy

ACTION = GITHUB / "actions/ember-erase"
INSTALLED = {"package": "none", "python-version": ""}
PICO = "\n".join([*SETTINGS[1::2], "verify.only=[\"questions\", \"neutral-text\"]"])


def erase(runner: Runner, inputs: Mapping[str, str]) -> Finished:
    return runner.run(ACTION, INSTALLED | dict(inputs))


def test_a_result_leaves_outputs_a_summary_and_an_artifact_and_a_failed_gate_fails_the_job_after_that(
        runner: Runner, toy: Toy) -> None:
    done = erase(runner, {"model": str(toy.model), "concept": str(toy.pack), "as": "full", "settings": PICO,
                          "gates": "efficacy=0.0 concept=0.5"})
    assert done.failed == "Fail if it failed", done.log
    assert done.outputs["report"], done.log
    report = json.loads(Path(done.outputs["report"]).read_text())
    assert done.outputs["passed"] == "false"
    assert done.outputs["efficacy"] == str(report["efficacy"])
    assert done.outputs["recovered"] == "", "no attack was tried"
    assert done.outputs["repo"] == ""
    assert "A gate failed" in done.summary
    assert "concept is" in done.summary
    assert "Nothing was pushed" in done.summary
    assert "```mermaid\nxychart-beta horizontal" in done.summary
    assert "::error title=ember-hub::Error: concept is" in done.log
    (artifact,) = (inputs for action, inputs in done.used if action == "actions/upload-artifact")
    found = [path for line in artifact["path"].splitlines() for path in Path("/").glob(line[1:])]
    assert {path.name for path in found} >= {"report.json", "report.html", "report.md", "README.md", "tokens.png"}


def test_inputs_never_reach_a_shell_and_cannot_set_an_output(runner: Runner) -> None:
    trap = "$(touch x) `touch x` '; touch x; ' \" && touch x | touch x > x\n::error::x\npassed=true\n${{ github.token }}"
    everything = ("model", "concept", "methods", "gates", "settings", "base-id", "device", "output", "token", "push")
    # What looks right up to the model's name goes farthest; the words of a list or of a choice are refused before.
    for names, says in ((everything, "Error: "), (("model", "concept"), "touch x"), (("battery", "as", "where"), "")):
        done = erase(runner, {"model": "./no/such/model", "concept": "covid", "where": "here"} | dict.fromkeys(names, trap))
        assert done.failed, names
        assert done.outputs["passed"] != "true", names
        assert "gh_test" not in done.log, names
        assert says in done.log
        assert "Traceback" not in done.log
        assert [path for path in runner.workspace.rglob("*") if path.is_file()] == [], names
