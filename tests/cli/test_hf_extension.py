"""`hf ember`: the Hub's own command line runs ours as its extension, and what a user gets is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def hf(tmp_path: Path) -> dict[str, str]:
    """An environment in which `hf` finds the extension, as `hf extensions install` would leave it."""
    folder = tmp_path / ".local/share/hf/extensions/hf-ember"
    folder.mkdir(parents=True)
    about = {"owner": "owner", "repo": "hf-ember", "repo_id": "owner/hf-ember", "short_name": "ember", "type": "python",
             "executable_path": str(SCRIPTS / "hf-ember"), "installed_at": "2026-01-01T00:00:00+00:00"}
    (folder / "manifest.json").write_text(json.dumps(about))
    return os.environ | {"HOME": str(tmp_path), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                         "HF_HUB_OFFLINE": "1"}


def run(program: str, *words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPTS / program, *words], capture_output=True, text=True, check=False, env=environment)


def test_hf_ember_is_the_same_command_under_its_own_name(hf: dict[str, str]) -> None:
    ours, theirs = run("ember-hub", "--help", environment=hf), run("hf", "ember", "--help", environment=hf)
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout == ours.stdout.replace("Usage: ember-hub ", "Usage: hf ember ")
    assert theirs.stdout.startswith("Usage: hf ember [OPTIONS] COMMAND")


@pytest.mark.parametrize(("words", "code"), [
    (("watch", "--concept", "covid"), 2),
    (("no-such-command",), 2),
    (("report", "no-such-run"), 1),
])
def test_errors_and_exit_codes_are_the_same(hf: dict[str, str], words: tuple[str, ...], code: int) -> None:
    ours, theirs = run("ember-hub", *words, environment=hf), run("hf", "ember", *words, environment=hf)
    assert (ours.returncode, theirs.returncode) == (code, code), theirs.stderr
    assert theirs.stderr == ours.stderr.replace("`ember-hub --help`", "`hf ember --help`")
    assert theirs.stderr.splitlines()[-1].startswith("Hint: ")
    assert theirs.stdout == ""
