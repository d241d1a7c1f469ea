"""What the Hub reads from safetensors headers for a model's page: the number of its parameters, by type."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from .store import Commit, Store

LARGEST_HEADER = 100 << 20


def parameters(store: Store, commit: Commit) -> dict[str, int]:
    """Parameters by type over all safetensors files; empty when there is none that can be read."""
    found: Counter[str] = Counter()
    for path, file in commit.files.items():
        if path.endswith(".safetensors"):
            found.update(_of_file(store.path(file.sha256)))
    return dict(found)


def _of_file(path: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if length < LARGEST_HEADER else {}
        except ValueError:
            return found
    for name, tensor in header.items():
        if name != "__metadata__":
            found[tensor["dtype"]] += math.prod(tensor["shape"])
    return found
