"""Head and embedding of a tied model: taken apart in a checkpoint folder, and put together again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ember_hub.source.byte_ranges import copy_range, open_for_reading, write_at
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.naming import config_parts, says_tied
from ember_hub.source.safetensors_file import SafetensorsFile

CONFIG = "config.json"
_ALIGNMENT = 8
_TOTALS = ("total_size", "total_parameters")


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the same model with a head of its own; what a multimodal one nests is told the same."""
    parts = {name: part | {"tie_word_embeddings": False} for name, part in config_parts(config)
             if not name or name == "text_config" or "tie_word_embeddings" in part}
    return parts.pop("") | parts


def read_config(folder: Path) -> str:
    """The text of a model's config.json.

    Raises:
        ModelNotFound, CorruptCheckpoint, DiskError: there is none that can be read.
    """
    # Looks for more than is asked here: afterwards it is known to be an object in UTF-8.
    says_tied(folder)
    return (folder / CONFIG).read_text("utf-8")


def declare_untied(folder: Path) -> None:
    """Say in config.json that the head is a tensor of its own."""
    path = folder / CONFIG
    path.write_text(json.dumps(untied(json.loads(path.read_text("utf-8"))), indent=2, ensure_ascii=False) + "\n", "utf-8")


def drop_tensor(folder: Path, name: str) -> None:
    """Take a tensor out of a checkpoint folder; every other byte of its file stays."""
    checkpoint = Checkpoint.open(folder)
    info = checkpoint.info(name)
    file = next(file for file in checkpoint.files if file.path == info.file)
    _drop_from_file(file, name)
    if checkpoint.index is not None:
        content = json.loads(checkpoint.index.read_text("utf-8"))
        del content["weight_map"][name]
        totals = content.get("metadata") or {}
        for key, amount in zip(_TOTALS, (info.size, info.size // info.itemsize), strict=True):
            if isinstance(totals.get(key), int | float):
                totals[key] -= amount
        _replace(checkpoint.index, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _drop_from_file(file: SafetensorsFile, name: str) -> None:
    gone = file.tensors[name]
    entries = json.loads(file.header)
    del entries[name]
    for other, entry in entries.items():
        if other != "__metadata__" and file.tensors[other].start >= gone.stop:
            entry["data_offsets"] = [offset - gone.size for offset in entry["data_offsets"]]
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    start = 8 + len(header)
    partial = file.path.with_name(f".{file.path.name}.partial-{os.getpid()}")
    with open_for_reading(file.path) as source, open(partial, "xb", buffering=0) as target:
        write_at(target.fileno(), len(header).to_bytes(8, "little") + header, 0)
        copy_range(source, target, (file.data_start, gone.start), start, lambda count: None)
        copy_range(source, target, (gone.stop, file.size), start + gone.start - file.data_start, lambda count: None)
    # The file itself may be a hard link to somebody's: it is replaced, never written into.
    partial.replace(file.path)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
