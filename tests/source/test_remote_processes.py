"""The cache of ranged reads under processes that are killed, and under two at once."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.remote import RemoteCheckpoint
from tests.hub.calls import Reply
from tests.hub.conftest import hub  # noqa: F401  (fixture)
from tests.source.remote_models import EMBEDDING, connection_to

IDS = list(range(200, 700, 25))
READ = """
import hashlib, sys
from ember_hub.source.remote import RemoteCheckpoint
from ember_hub.source.remote_connection import Connection
weights = RemoteCheckpoint.open("lab/base", sys.argv[2], connection=Connection(sys.argv[1], "hf_test", parallel=int(sys.argv[3])))
print(hashlib.sha256(weights.read_row_bytes("model.embed_tokens.weight", list(range(200, 700, 25)))).hexdigest())
assert "torch" not in sys.modules
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable is the documented way to place the cache; nothing of the code is replaced.
    monkeypatch.setenv("EMBER_HUB_CACHE", str(tmp_path / "cache"))


def reader(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", READ, *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_what_a_killed_process_fetched_is_not_fetched_again(hub, llama_folder: Path) -> None:  # noqa: F811
    sha, children = hub.add_repo("lab/base", llama_folder), []
    local = Checkpoint.open(llama_folder)
    row, served = local.info(EMBEDDING).row_size, []

    def kill_at_the_ninth(reply: Reply) -> Reply:
        served.append(reply)
        if len(served) == 9:
            os.kill(children[0].pid, signal.SIGKILL)
        return replace(reply)

    hub.change_next("GET", "safetensors", kill_at_the_ninth, times=10**6)
    children.append(reader(hub.url, sha, 1))
    children[0].communicate()
    assert children[0].returncode == -signal.SIGKILL
    weights = RemoteCheckpoint.open("lab/base", sha, connection=connection_to(hub))
    assert weights.read_row_bytes(EMBEDDING, IDS).tobytes() == local.read_row_bytes(EMBEDDING, IDS).tobytes()
    # The header and seven rows had come; the eighth was on its way.
    assert weights.bytes_fetched == (len(IDS) - 7) * row


def test_two_processes_that_read_the_same_rows_do_not_disturb_each_other(hub, llama_folder: Path) -> None:  # noqa: F811
    sha = hub.add_repo("lab/base", llama_folder)
    children = [reader(hub.url, sha, 4) for _ in range(2)]
    answers = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    truth = Checkpoint.open(llama_folder).read_row_bytes(EMBEDDING, IDS).tobytes()
    assert {out.strip() for out, _ in answers} == {hashlib.sha256(truth).hexdigest()}
    weights = RemoteCheckpoint.open("lab/base", sha, connection=connection_to(hub))
    assert weights.read_row_bytes(EMBEDDING, IDS).tobytes() == truth
    assert weights.bytes_fetched == 0
