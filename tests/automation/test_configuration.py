"""What is watched, from a file and the command line; and the workflow that is written from it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ember_hub.automation.configuration import configure
from ember_hub.automation.releases import Watch, seconds, targets
from ember_hub.automation.work import Recipe
from ember_hub.automation.workflow import CONFIG, WORKFLOW, workflow_files, write
from ember_hub.errors import AutomationError, ConfigError
from ember_hub.settings import resolve
from tests.automation.world import recipe

TOML = """
concept = "covid"
methods = ["rmu"]
[rmu]
steps = 150
[watch]
orgs = ["maker"]
max_parameters = "3B"
where = "jobs"
[watch.job]
flavor = "t4-small"
"""
SOURCE = "owner/ember-hub@" + "a" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "watch.toml").write_text(TOML)
    return tmp_path / "watch.toml"


def test_the_command_line_wins_over_the_file(file: Path) -> None:
    found = configure(file, {"max_parameters": "1B"}, {"timeout": "1h"}, None)
    assert (found.watch.orgs, found.watch.parameters, found.where) == (("maker",), 10**9, "jobs")
    assert (found.terms.flavor, found.terms.timeout) == ("t4-small", "1h")


@pytest.mark.parametrize(("given", "says", "hint"), [
    ({}, "nothing is watched", "--org"),
    ({"orgs": ("a/b",)}, "'a/b' is no user or organization", "its name"),
    ({"models": ("$(touch x)",)}, "is not the id of a repository", "org/name"),
    ({"models": ("name",)}, "is not the id of a repository", "org/name"),
    ({"orgs": ("a",), "name": "("}, "no regular expression", "name=REGEX"),
    ({"orgs": ("a",), "max_parameters": "ten"}, "no number of parameters", "10B"),
    ({"orgs": ("a",), "since": "7"}, "no length of time", "7d"),
    ({"orgs": ("a",), "limit": 0}, "limit = 0", "--help"),
    ({"orgs": ("a",), "claim": "0h"}, "'0h' is no length of time", "6h"),
    ({"orgs": ("a",), "org": ["x"]}, "no setting watch.org", "orgs"),
    ({"orgs": 7}, "watch.orgs = 7", "--help"),
])
def test_a_wrong_watch_is_a_usage_error(given: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configure(None, given, {}, None)
    assert says in raised.value.message
    assert hint in raised.value.hint
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(("text", "says"), [
    ("watch = 3", "watch is no table"), ('[watch]\norgs = ["a"]\njob = 3', "watch.job is no table"),
    ('[watch]\norgs = ["a"]\nwhere = "moon"', "where = 'moon'"), ('[watch]\norgs = ["a"]\n[watch.job]\nflavour = "x"', "flavour"),
    ('[watch]\norgs = ["a"]\nwhere = "jobs"\nclaim = "1h"', "expires before a Job of 6h ends"),
])
def test_a_wrong_file_is_a_usage_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        configure(tmp_path / "w.toml", {}, {}, None)
    assert says in raised.value.message
    assert raised.value.hint


def test_lengths_of_time_and_names_of_targets() -> None:
    assert [seconds(text) for text in ("90s", "30m", "1.5h", "7d")] == [90, 1800, 5400, 604800]
    assert targets("me", "lab/Pico", "covid", "both") == ("me/Pico-ember-covid", "me/Pico-ember-covid-patch")
    assert targets("me", "lab/Pico", "covid", "patch") == ("me/Pico-ember-covid-patch",)
    long = targets("m" * 40, "lab/" + "P" * 90, "covid", "both")
    assert max(map(len, long)) <= 96
    assert long[1] == f"{long[0]}-patch"
    assert Watch(orgs=("lab",)).covers("lab/x")
    assert not Watch(orgs=("lab",)).covers("labs/x")


def test_a_workflow_watches_what_the_file_said(file: Path, tmp_path: Path) -> None:
    found = configure(file, {}, {}, None)
    mine = Recipe.of(resolve({"model": ""}, config=file, environment={}))
    contents = workflow_files(found, mine, SOURCE)
    written = write(tmp_path, contents, overwrite=False)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {WORKFLOW, CONFIG}

    assert configure(tmp_path / CONFIG, {}, {}, None) == found
    again = Recipe.of(resolve({"model": ""}, config=tmp_path / CONFIG, environment={}))
    assert again.digest == mine.digest
    assert tomllib.loads(contents[CONFIG])["concept"] == "covid"
    job = yaml.safe_load(contents[WORKFLOW])["jobs"]["watch"]
    assert job["uses"] == "owner/ember-hub/.github/workflows/watch.yml@" + "a" * 40
    assert job["with"] == {"config": CONFIG}

    assert write(tmp_path, contents, overwrite=False) == []
    (tmp_path / WORKFLOW).write_text("name: mine\n")
    (tmp_path / CONFIG).unlink()
    with pytest.raises(AutomationError, match="another content") as raised:
        write(tmp_path, contents, overwrite=False)
    assert "--yes" in raised.value.hint
    assert not (tmp_path / CONFIG).exists(), "all or nothing"
    assert len(write(tmp_path, contents, overwrite=True)) == 2
    assert not list(tmp_path.rglob("*.partial-*"))


def test_the_workflow_has_no_findings(file: Path, tmp_path: Path) -> None:
    found = configure(file, {}, {}, None)
    write(tmp_path, workflow_files(found, recipe(), SOURCE), overwrite=False)
    for check in (["check-jsonschema", "--builtin-schema", "vendor.github-workflows"], ["zizmor", "--offline", "--quiet"],
                  ["actionlint"]):
        done = subprocess.run([Path(sys.executable).with_name(check[0]), *check[1:], tmp_path / WORKFLOW], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", ["ember-hub", "owner/ember-hub", "owner/ember-hub@$(x)", "owner/ember-hub@a b",
                                    "a/b@c\n    run: x"])
def test_a_source_that_is_none_is_refused(file: Path, source: str) -> None:
    with pytest.raises(ConfigError) as raised:
        workflow_files(configure(file, {}, {}, None), recipe(), source)
    assert "--uses" in raised.value.hint


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".github").write_text("a file")
    for folder, says in ((tmp_path / "nowhere", "no folder"), (tmp_path, "cannot be written to")):
        with pytest.raises(AutomationError, match=says) as raised:
            write(folder, {WORKFLOW: "x"}, overwrite=False)
        assert raised.value.hint
