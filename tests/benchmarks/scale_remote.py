"""Rows of the embedding by range, at the shapes of published models. Never in CI.

    python -m tests.benchmarks.scale_remote [--shape NAME]... [--rows 5000] [--delay 0.03] [--folder FOLDER]

The checkpoints are sparse and lie behind the loopback Hub, which redirects to a storage as the real one does; only the
rows that are asked for hold numbers, and they are compared at the end. A process of its own fetches scattered rows: once
into an empty cache, once more from the cache. On the smallest shape the same rows are also read one after the other,
with and without a delay in front of each answer: a network has one, the loopback has none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.ref import ModelRef
from ember_hub.source.remote import RemoteCheckpoint
from ember_hub.source.remote_connection import Connection, Traffic
from ember_hub.source.remote_file import RemoteFile
from tests.hub.calls import Reply
from tests.hub.server import LoopbackHub
from tests.sparse_checkpoints import EMBEDDING, SHAPES, fill_rows, write_sparse

SMALLEST = "gemma-2-2b"
_STORAGE = "/-/storage/"
_MOST_BYTES, _ALLOWANCE = 1.2, 64 * 10**6


def measure(folder: Path, name: str, rows: int, delay: float) -> dict[str, Any]:
    """What fetching the rows of one shape costs, and on the smallest what one row after the other would cost."""
    base = write_sparse(folder / name, name)
    ids = _ids(SHAPES[name].vocab, rows)
    fill_rows(base, ids.tolist())
    truth = Checkpoint.open(base).read_row_bytes(EMBEDDING, ids)
    with LoopbackHub(folder / "hub", redirects_large_files=True) as hub:
        commit = hub.add_repo(f"lab/{name}", base, in_place=True)
        ask = [hub.url, f"lab/{name}", commit, str(rows)]
        cold, warm = (_child(folder / "cache", "fetch", *ask) for _ in range(2))
        found = {"rows": rows, "bytes_of_the_rows": truth.nbytes, **cold, "from_the_cache": warm,
                 "bytes_ratio": round(cold["bytes"] / truth.nbytes, 3),
                 "are_few_bytes": cold["bytes"] <= _MOST_BYTES * truth.nbytes + _ALLOWANCE,
                 "are_right": cold["sha256"] == warm["sha256"] == hashlib.sha256(truth.tobytes()).hexdigest()}
        if name == SMALLEST:
            found["one_by_one"] = _child(folder / "none", "one_by_one", *ask)
            found["times_as_fast"] = round(found["one_by_one"]["seconds"] / cold["seconds"], 1)
            hub.change_next("GET", _STORAGE, lambda reply: _late(reply, delay), times=10**9)
            late, late_one_by_one = _child(folder / "late", "fetch", *ask), _child(folder / "none", "one_by_one", *ask)
            found |= {"delay": delay, "seconds_with_delay": late["seconds"],
                      "one_by_one_seconds_with_delay": late_one_by_one["seconds"],
                      "times_as_fast_with_delay": round(late_one_by_one["seconds"] / late["seconds"], 1)}
        assert hub.crashes == []
    return found


def fetch(endpoint: str, repo_id: str, commit: str, rows: str) -> dict[str, Any]:
    """As a command does it: open, read the header, fetch what is not kept."""
    started = time.perf_counter()
    weights = RemoteCheckpoint.open(repo_id, commit, connection=Connection(endpoint, "hf_test"))
    found = weights.read_row_bytes(EMBEDDING, _ids(weights.info(EMBEDDING).shape[0], int(rows)))
    return {"seconds": round(time.perf_counter() - started, 2), "bytes": weights.bytes_fetched, "requests": weights.requests,
            "sha256": hashlib.sha256(found).hexdigest()}


def one_by_one(endpoint: str, repo_id: str, commit: str, rows: str) -> dict[str, Any]:
    """A request for each row, each after the last."""
    connection, traffic = Connection(endpoint, "hf_test"), Traffic()
    info = RemoteCheckpoint.open(repo_id, commit, connection=connection).info(EMBEDDING)
    file = RemoteFile.find(ModelRef("hub", repo_id, commit), info.file.name, connection, traffic)
    assert file is not None
    started = time.perf_counter()
    for row in _ids(info.shape[0], int(rows)).tolist():
        file.read(info.start + row * info.row_size, info.start + (row + 1) * info.row_size)
    return {"seconds": round(time.perf_counter() - started, 2), "bytes": traffic.bytes, "requests": traffic.requests}


def _ids(vocab: int, rows: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(vocab, rows, replace=False))


def _late(reply: Reply, delay: float) -> Reply:
    time.sleep(delay)
    return replace(reply)


def _child(cache: Path, *what: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.scale_remote", "--child", *what], check=True, text=True,
                          stdout=subprocess.PIPE, env=os.environ | {"EMBER_HUB_CACHE": str(cache)})
    return json.loads(done.stdout)


def _run_child(what: str, *ask: str) -> dict[str, Any]:
    found = {"fetch": fetch, "one_by_one": one_by_one}[what](*ask)
    # `ru_maxrss` would start with what the parent had when it forked.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return found | {"peak_memory": int(peak.split()[1]) * 1024}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        sys.stdout.write(json.dumps(_run_child(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale_remote", description=__doc__)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="all of them unless given")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer, on the smallest shape")
    parser.add_argument("--folder", type=Path, help="where the sparse checkpoints lie meanwhile")
    given = parser.parse_args()
    for name in given.shape or SHAPES:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            sys.stdout.write(json.dumps({name: measure(Path(folder), name, given.rows, given.delay)}, indent=1) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
