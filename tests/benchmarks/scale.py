"""At the size of Llama-3.1-8B: an EMBER-like edit of 200 rows against copying the one shard that it touches. Never in CI.

    python -m tests.benchmarks.scale rewrite [--folder FOLDER] [--rounds 5]

The checkpoint is sparse: 16 GB of holes and real rows where they are edited. Both sides copy the shard with the same
call of the kernel (copy_file_range, in steps of 64 MiB) and wait until the disk has it; a file system that does not
share blocks fills the holes of the copy, on both sides alike, so each side writes the 5 GB for real. The sides take
turns, and each round is compared with itself. Needs 12 GB of free disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ember_hub.progress import Quiet
from ember_hub.source.byte_ranges import copy_range, open_for_reading
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.output_folder import sync
from ember_hub.source.rewrite import RowBytes, rewrite
from tests.sparse_checkpoints import EMBEDDING, SHAPES, fill_rows, write_sparse

ROWS = 200
_MOST_TIME = 1.5
_MOST_MEMORY = 1.5e9


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Bytes written, peak memory and time of the rewrite, and of the export with its proof, against the copy of one shard."""
    shape = SHAPES["Llama-3.1-8B"]
    base = write_sparse(folder / "base", "Llama-3.1-8B")
    ids = np.sort(np.random.default_rng(0).choice(shape.vocab, ROWS, replace=False))
    fill_rows(base, ids.tolist())
    original = Checkpoint.open(base)
    shard = original.info(EMBEDDING).file
    sides: dict[str, Callable[[Path], None]] = {
        "copy": lambda out: _copy(shard, out), "rewrite": lambda out: rewrite_once(base, out)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        # Who goes second finds the disk busier: the order turns with every round.
        for name in (list(sides), list(reversed(sides)))[number % 2]:
            seconds[name].append(_seconds(sides[name], folder / "out"))
    rewrite_once(base, folder / "out")
    fresh = [file.path.name for file in Checkpoint.open(folder / "out").files if file.path.stat().st_nlink == 1]
    written = sum((folder / "out" / name).stat().st_size for name in fresh)
    shutil.rmtree(folder / "out")
    ratio = median(ours / theirs for ours, theirs in zip(seconds["rewrite"], seconds["copy"], strict=True))
    peaks = {what: _peak(what, base, folder / "out") for what in ("rewrite", "export")}
    return {
        "checkpoint_bytes": sum(file.size for file in original.files), "rows": ROWS, "rounds": rounds,
        "shards_written": fresh, "bytes_written": written, "bytes_of_the_shard": shard.stat().st_size,
        "seconds": {name: [round(each, 2) for each in of_side] for name, of_side in seconds.items()},
        "time_ratio": round(ratio, 3), "is_fast_enough": ratio <= _MOST_TIME,
        "rewrite_peak_bytes": peaks["rewrite"][0], "export_with_proof_peak_bytes": peaks["export"][0],
        "export_with_proof_seconds": peaks["export"][1], "is_small_enough": max(p for p, _ in peaks.values()) <= _MOST_MEMORY,
    }


def rewrite_once(base: Path, out: Path) -> None:
    """Moves the filled rows by a tenth of their size, as bytes and without torch."""
    checkpoint = Checkpoint.open(base)
    info = checkpoint.info(EMBEDDING)
    ids = np.sort(np.random.default_rng(0).choice(info.shape[0], ROWS, replace=False))
    rows = (checkpoint.read_row_bytes(EMBEDDING, ids).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    data = ((rows * 0.9).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    rewrite(checkpoint, out, {EMBEDDING: RowBytes(ids, data)}, Quiet())


def export_once(base: Path, out: Path) -> None:
    """The same edit through everything that `erase` does for a full model: torch, the export and its proof."""
    import torch

    from ember_hub.edits.edit import Edit, LowRankRows
    from ember_hub.publish.export import export_model
    from ember_hub.source.anatomy import anatomy_of_config

    anatomy = anatomy_of_config(base)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(anatomy.vocab, generator=generator)[:ROWS].sort().values
    edit = Edit({anatomy.embedding: LowRankRows(
        ids, torch.rand(ROWS, 8, generator=generator), torch.randn(anatomy.d_model, 8, generator=generator) / 100, 1.0)})
    export_model(base, anatomy, edit, out, Quiet())


def _copy(shard: Path, target: Path) -> None:
    target.mkdir()
    with open_for_reading(shard) as source, open(target / shard.name, "xb", buffering=0) as file:
        copy_range(source, file, (0, shard.stat().st_size), 0, lambda count: None)
    sync(target / shard.name, target, target.parent)


def _seconds(write: Callable[[Path], None], target: Path) -> float:
    started = time.perf_counter()
    write(target)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def _peak(what: str, base: Path, out: Path) -> tuple[int, float]:
    """Peak of resident bytes of a process of its own, imports included, and its seconds."""
    command = [sys.executable, "-m", __spec__.name, f"{what}-once", str(base), str(out)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    shutil.rmtree(out)
    peak, seconds = json.loads(told.stdout)
    return peak, seconds


def _once(what: Callable[[Path, Path], None], base: Path, out: Path) -> None:
    started = time.perf_counter()
    what(base, out)
    # Not getrusage: its peak is inherited from the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(json.dumps([int(peak.split()[1]) * 1024, round(time.perf_counter() - started, 2)]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rewrite", "rewrite-once", "export-once"))
    parser.add_argument("folders", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.what != "rewrite":
        _once({"rewrite-once": rewrite_once, "export-once": export_once}[given.what], *given.folders)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        sys.stdout.write(json.dumps(measure(Path(name), given.rounds), indent=1) + "\n")


if __name__ == "__main__":
    main()
