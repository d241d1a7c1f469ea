"""`ember-hub push` on a finished run, as a user types it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ember_hub.publish.card import figures
from ember_hub.run import file_sha256
from tests.publish.example import example_report, write_run
from tests.toy_run import ember_hub

from .server import LoopbackHub

NAME = "tester/SmolLM2-135M-Instruct-ember-covid-19-pandemic"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHARDS = {"model-00001-of-00002.safetensors": b"edited" * 1000, "model-00002-of-00002.safetensors": b"the base's" * 1000}


@pytest.fixture
def run(hub: LoopbackHub, tmp_path: Path) -> Path:
    """A finished run with a full model only, whose base is a gated repository."""
    base = tmp_path / "base"
    base.mkdir()
    for name, content in (SHARDS | {"model-00001-of-00002.safetensors": b"whole" * 1000}).items():
        (base / name).write_bytes(content)
    commit = hub.add_repo(MODEL, base, gated=True)
    hub.grant(MODEL, "tester")
    report = example_report()
    report |= {"gates": [], "curves": [], "model": report["model"] | {"commit": commit, "gated": True}}
    folder = write_run(tmp_path / "run", report, {})
    (folder / "reports" / "figures").mkdir()
    for name in figures(report, "model"):
        (folder / "reports" / "figures" / f"{name}.png").write_bytes(b"drawn earlier")
    (folder / "out" / "model").mkdir(parents=True)
    for name, content in SHARDS.items():
        (folder / "out" / "model" / name).write_bytes(content)
    return folder


def answer_at_a_terminal(words: list[str], answer: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command with a person at the keyboard."""
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    try:
        return subprocess.run([sys.executable, "-m", "ember_hub.cli", *words], stdin=theirs, capture_output=True, text=True,
                              check=False, env=os.environ | environment)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_public_push_from_a_gated_base_asks_and_without_a_person_it_is_refused(hub, hub_environment, run):
    refused = ember_hub("push", str(run), environment=hub_environment)
    assert refused.returncode == 2
    assert f"Error: {MODEL} is gated, and {NAME} would be public" in refused.stderr
    assert "--yes" in refused.stderr
    no = answer_at_a_terminal(["push", str(run)], "n", hub_environment)
    assert no.returncode == 2
    assert hub.seen("POST", "") == []

    yes = answer_at_a_terminal(["push", str(run)], "y", hub_environment)
    assert yes.returncode == 0, yes.stderr
    assert "Push all the same?" in yes.stderr
    assert yes.stdout.splitlines()[-1] == f"{hub.url}/{NAME}"
    pushed = json.loads((run / "pushed.json").read_text())["model"]
    assert pushed["files"] == {path.relative_to(run / "out/model").as_posix(): file_sha256(path)
                               for path in (run / "out/model").rglob("*") if path.is_file()}
    assert pushed["copied"] == 10_000, "the base's own shard was not sent"


def test_a_push_that_fails_keeps_the_run_and_says_how_it_goes_on(hub, hub_environment, run):
    hub.fail_next("POST", "/commit/main", status=403)
    failed = ember_hub("push", str(run), "--repo", "tester/mine", "--yes", environment=hub_environment)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert f"the run is kept: `ember-hub push {run} --as full --repo tester/mine`" in failed.stderr
    assert not (run / "pushed.json").exists()

    done = ember_hub("push", str(run), "--as", "full", "--repo", "tester/mine", "--yes", "--tag", "v1", "--json",
                     environment=hub_environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == json.loads((run / "pushed.json").read_text())["model"]
    assert hub.store.repositories["models", "tester/mine"].tags == {"v1": said["commit"]}
    assert len(hub.seen("PUT", "/-/storage/")) == 1, "the edited shard was sent once, before the commit failed"


def test_the_repository_that_was_named_takes_the_only_form_and_of_two_the_patch_gets_a_suffix(hub, hub_environment, run):
    shutil.copytree(run / "out/model", run / "out/patch")
    both = ember_hub("push", str(run), "--repo", "tester/mine", "--yes", environment=hub_environment)
    assert both.returncode == 0, both.stderr
    assert both.stdout.split() == [f"{hub.url}/tester/mine", f"{hub.url}/tester/mine-patch"]
    shutil.rmtree(run / "out/model")
    alone = ember_hub("push", str(run), "--repo", "tester/alone", "--yes", environment=hub_environment)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.split() == [f"{hub.url}/tester/alone"]
