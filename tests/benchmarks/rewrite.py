"""What a streamed rewrite costs against plain copying of the same file, and how much memory it takes.

Both sides end on the disk: file and folder are synced. The sides take turns, and medians are compared.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.rewrite import Change, CopyOf, Rows, rewrite

EMBEDDING = "model.embed_tokens.weight"
ROWS = 200
_LEAST_RATIO = 0.6
_ALLOWANCE = 300 * 10**6
_CHILD = """
import sys
from pathlib import Path
from tests.benchmarks.rewrite import rewrite_once
rewrite_once(Path(sys.argv[1]), Path(sys.argv[2]))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
sys.stdout.write(str(int(peak.split()[1]) * 1024))
"""


def measure(quick: bool) -> dict[str, float | int | bool]:
    """Throughput (bytes written per second) of both sides, their ratio, and the peak memory of a rewrite.

    Args:
        quick: a file of 256 MB instead of 1.2 GB.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocab, layers, rounds = (32_000, 31, 5) if quick else (128_256, 160, 5)
        largest = _generate(folder / "base", vocab, layers)
        copied, rewritten = [], []
        rewrite_once(folder / "base", folder / "warm")
        shutil.rmtree(folder / "warm")
        for _ in range(rounds):
            copied.append(_throughput(_copy, folder / "base", folder / "copy"))
            rewritten.append(_throughput(rewrite_once, folder / "base", folder / "rewritten"))
        # Each round is compared with itself: other work on the machine then weighs on both sides.
        ratio = median(ours / theirs for ours, theirs in zip(rewritten, copied, strict=True))
        peak = _peak_memory(folder / "base", folder / "rewritten")
        return {
            "file_bytes": (folder / "base" / "model.safetensors").stat().st_size,
            "rounds": rounds,
            "copy_bytes_per_second": round(median(copied)),
            "rewrite_bytes_per_second": round(median(rewritten)),
            "throughput_ratio": round(ratio, 3),
            "is_fast_enough": ratio >= _LEAST_RATIO,
            "peak_bytes": peak,
            "peak_limit_bytes": largest + _ALLOWANCE,
            "is_small_enough": peak <= largest + _ALLOWANCE,
        }


def rewrite_once(source: Path, target: Path) -> None:
    """Replaces scattered embedding rows and gives the model a head of its own."""
    checkpoint = Checkpoint.open(source)
    vocab, d_model = checkpoint.tensors[EMBEDDING].shape
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(vocab, generator=generator)[:ROWS]
    rows = Rows(ids, torch.randn(ROWS, d_model, generator=generator))
    changes: dict[str, Change] = {EMBEDDING: rows, "lm_head.weight": CopyOf(EMBEDDING)}
    rewrite(checkpoint, target, changes, Quiet())


def _generate(folder: Path, vocab: int, layers: int) -> int:
    """Writes a random bf16 checkpoint of one file, a piece at a time; returns the bytes of its largest tensor."""
    folder.mkdir()
    shapes = {EMBEDDING: (vocab, 2048)} | {f"model.layers.{i}.mlp.weight": (1024, 2048) for i in range(layers)}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [end, end + rows * columns * 2]}
        end += rows * columns * 2
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        noise = os.urandom(2**22)
        for start in range(0, end, len(noise)):
            file.write(noise[: min(len(noise), end - start)])
        file.flush()
        os.fsync(file.fileno())
    return vocab * 2048 * 2


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    shutil.copyfile(source / "model.safetensors", target / "model.safetensors")
    for path in (target / "model.safetensors", target, target.parent):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _throughput(write: Callable[[Path, Path], None], source: Path, target: Path) -> float:
    started = time.perf_counter()
    write(source, target)
    seconds = time.perf_counter() - started
    size = (target / "model.safetensors").stat().st_size
    shutil.rmtree(target)
    return size / seconds


def _peak_memory(source: Path, target: Path) -> int:
    """Bytes of resident memory at the peak of a fresh process that rewrites once, imports included."""
    command = [sys.executable, "-c", _CHILD, str(source), str(target)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(told.stdout)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(quick="--quick" in sys.argv), indent=2) + "\n")
