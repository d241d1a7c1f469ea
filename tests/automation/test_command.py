"""`ember-hub watch` as it is typed: from a commit on the Hub to an edited patch on the Hub, and what is refused before."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ember_hub.cli.main import cli
from ember_hub.errors import UsageError
from tests.automation.test_webhook import payload
from tests.hub.server import LoopbackHub
from tests.toy_run import SETTINGS, Toy, ember_hub

BASE, TARGET = "maker/toy-model", "tester/toy-model-ember-toy-inventors-patch"


def watch(toy: Toy, output: Path) -> list[str]:
    return ["watch", "--concept", str(toy.pack), "--method", "none", "--as", "patch", "--output", str(output), *SETTINGS,
            "--here", "--push", "--json"]


def test_from_a_new_commit_to_a_patch_and_then_nothing_more(hub: LoopbackHub, hub_environment: dict[str, str], toy: Toy,
                                                           tmp_path: Path) -> None:
    commit = hub.add_repo(BASE, toy.model)
    done = ember_hub(*watch(toy, tmp_path), "--model", BASE, environment=hub_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["schema"], line["decision"], line["repo"], line["commit"], line["target"]) == (1, "erased", BASE, commit, TARGET)
    assert json.loads(Path(line["report"]).read_text())["model"]["commit"] == commit
    assert json.loads(hub.read(TARGET, "ember/report.json"))["model"]["commit"] == commit
    assert hub.read(TARGET, "adapter_config.json")
    assert set(hub.store.repositories["models", TARGET].branches) == {"main"}

    # Another machine, told by a webhook, has nothing left to do.
    told = hub_environment | {"WEBHOOK_PAYLOAD": payload(BASE), "WEBHOOK_SECRET": "s", "EMBER_WEBHOOK_SECRET": "s",
                              "HF_HOME": str(tmp_path / "other")}
    again = ember_hub(*watch(toy, tmp_path / "other"), "--org", "maker", "--from-webhook", environment=told)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["decision"] == "done"
    wrong = ember_hub(*watch(toy, tmp_path), "--org", "maker", "--from-webhook",
                      environment=told | {"EMBER_WEBHOOK_SECRET": "t"})
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "Error: WEBHOOK_SECRET is not the secret of this Job" in wrong.stderr


def test_a_failure_is_a_line_and_an_exit_code(hub: LoopbackHub, hub_environment: dict[str, str]) -> None:
    done = ember_hub("watch", "--concept", "covid", "--here", "--push", "--model", BASE, environment=hub_environment)
    assert done.returncode == 1
    assert done.stdout.startswith(f"failed   {BASE} · there is no repository {BASE} on the Hub")
    assert "Traceback" not in done.stderr


def test_a_workflow_is_written_and_what_a_webhook_cannot_do_is_said(tmp_path: Path) -> None:
    words = ["watch", "--org", "maker", "--concept", "covid", "--method", "none", "--as", "patch", "--setup", "workflow",
             "--uses", "owner/ember-hub@v0", "--repo-folder", str(tmp_path)]
    shown = CliRunner().invoke(cli, [*words, "--dry-run"])
    assert (shown.exit_code, list(tmp_path.iterdir())) == (0, [])
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0
    assert [Path(line).name for line in done.stdout.splitlines()] == ["ember-watch.yml", "ember-watch.toml"]
    assert "cannot call GitHub" in done.stderr
    assert 'orgs = [\n    "maker",\n]' in (tmp_path / ".github/ember-watch.toml").read_text()


@pytest.mark.parametrize(("words", "says", "hint"), [
    (["--model", "a/b"], "--push, or --dry-run", ""),
    (["--push", "--once"], "nothing is watched", "--org"),
    (["--model", "a/b", "--push", "--filter", "size=3"], "no filter", "name=REGEX"),
    (["--model", "a/b", "--push", "--every", "6"], "no length of time", "6h"),
    (["--model", "a/b", "--push", "--once", "--every", "6h", "--here"], "four ways", ""),
    (["--model", "a/b", "--push", "--method", "rmu"], "no GPU here", ""),
    (["--model", "a/b", "--push", "--set", "rmu.step"], "no assignment", "section.key=value"),
    (["--model", "a/b", "--setup", "workflow"], "add --uses", ""),
])
def test_a_wrong_word_is_a_usage_error_before_the_hub_is_asked(words: list[str], says: str, hint: str) -> None:
    with pytest.raises((click.UsageError, UsageError)) as raised:
        cli.main(["watch", "--concept", "covid", *words], standalone_mode=False)
    assert raised.value.exit_code == 2
    assert says in str(raised.value)
    assert hint in getattr(raised.value, "hint", "")
