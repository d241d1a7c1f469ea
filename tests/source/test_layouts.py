"""Any layout of shards: a rewrite changes what it was told to, and every other byte is where and what it was."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from ember_hub.source.comparison import compare, sha256_after
from ember_hub.source.rewrite import Change, CopyOf, RowBytes, Rows, Whole, rewrite
from ember_hub.source.safetensors_file import ITEM_SIZES

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3")
CODES = (*FLOATS, "I64", "U8", "I16")


@dataclass(frozen=True)
class Drawn:
    """A tensor of a random layout: bytes in which no number is infinite or none."""

    code: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, draw: st.DrawFn, code: str, shape: tuple[int, ...]) -> Drawn:
        size = math.prod(shape) * ITEM_SIZES[code]
        return cls(code, shape, harmless(size, draw(st.integers(0, 2**32 - 1))))


def harmless(size: int, seed: int) -> bytes:
    return (np.random.default_rng(seed).integers(0, 256, size, np.uint8) & 0x3F).tobytes()


@st.composite
def layouts(draw: st.DrawFn) -> list[dict[str, Drawn]]:
    """Shards, each with its tensors in the order of their bytes."""
    shards: list[dict[str, Drawn]] = [{} for _ in range(draw(st.integers(1, 4)))]
    names = draw(st.lists(st.text("abc.é_0", min_size=1, max_size=12), min_size=len(shards), max_size=9, unique=True))
    for number, name in enumerate(names):
        shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
        shard = shards[number] if number < len(shards) else draw(st.sampled_from(shards))
        shard[name] = Drawn.of(draw, draw(st.sampled_from(CODES)), shape)
    return shards


def write(folder: Path, shards: list[dict[str, Drawn]], is_single: bool, padding: int) -> Checkpoint:
    folder.mkdir()
    weight_map = {}
    for number, tensors in enumerate(shards):
        file = SINGLE_FILE if is_single else f"model-{number}.safetensors"
        entries: dict[str, Any] = {"__metadata__": {"format": "pt", "note": "ß"}}
        end = 0
        for name, tensor in tensors.items():
            entries[name] = {"dtype": tensor.code, "shape": tensor.shape, "data_offsets": [end, end := end + len(tensor.data)]}
            weight_map[name] = file
        header = json.dumps(entries, ensure_ascii=padding % 2 == 0).encode() + b" " * padding
        data = b"".join(tensor.data for tensor in tensors.values())
        (folder / file).write_bytes(len(header).to_bytes(8, "little") + header + data)
    if not is_single:
        index = {"metadata": {"total_size": 7, "by": "nobody"}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index))
    return Checkpoint.open(folder)


def changed(draw: st.DrawFn, checkpoint: Checkpoint, name: str, tensor: Drawn) -> tuple[Change, bytes]:
    """A change, and the bytes that the tensor has after it."""
    seed, info = draw(st.integers(0, 2**32 - 1)), checkpoint.info(name)
    kind = draw(st.sampled_from(["bytes", "rows", "whole"] if tensor.shape else ["whole"]))
    if kind == "whole":
        data = harmless(info.size, seed)
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(info.dtype) if data else torch.empty(0, dtype=info.dtype)
        return Whole(values.reshape(tensor.shape)), data
    ids = np.array(draw(st.lists(st.integers(0, tensor.shape[0] - 1), unique=True) if tensor.shape[0] else st.just([])), np.int64)
    rows = np.frombuffer(harmless(len(ids) * info.row_size, seed), np.uint8).reshape(len(ids), info.row_size)
    after = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], info.row_size).copy()
    after[ids] = rows
    if kind == "bytes":
        return RowBytes(ids, rows), after.tobytes()
    shape = (len(ids), *tensor.shape[1:])
    values = torch.from_numpy(rows.copy()).flatten().view(info.dtype).reshape(shape) if rows.size else torch.empty(
        shape, dtype=info.dtype)
    return Rows(torch.from_numpy(ids), values), after.tobytes()


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    found = {}
    for name, info in checkpoint.tensors.items():
        found[name] = info.file.read_bytes()[info.start : info.stop]
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_rewrite_changes_what_it_was_told_and_no_other_byte(data: st.DataObject) -> None:
    shards = data.draw(layouts())
    tensors = {name: tensor for shard in shards for name, tensor in shard.items()}
    with tempfile.TemporaryDirectory() as place:
        base = write(Path(place, "base"), shards, len(shards) == 1 and data.draw(st.booleans()), data.draw(st.integers(0, 9)))
        names = data.draw(st.lists(st.sampled_from(sorted(tensors)), unique=True, max_size=3))
        drawn = {name: changed(data.draw, base, name, tensors[name]) for name in names}
        changes: dict[str, Change] = {name: change for name, (change, _) in drawn.items()}
        origin = data.draw(st.none() | st.sampled_from(sorted(tensors)))
        if origin is not None:
            changes["a new tensor"] = CopyOf(origin)
        written = rewrite(base, Path(place, "out"), changes, Quiet())

        expected = {name: tensor.data for name, tensor in tensors.items()} | {name: after for name, (_, after) in drawn.items()}
        expected |= {"a new tensor": tensors[origin].data} if origin is not None else {}
        assert contents(written) == expected
        require_same_frame(base, written)
        found = compare(base, written)
        assert set(found.changed) == {name for name in tensors if expected[name] != tensors[name].data}
        assert set(found.added) == changes.keys() - tensors.keys()
        for name in names:
            assert written.tensor_sha256(name) == sha256_after(base.info(name), drawn[name][0])
        assert sorted(path.name for path in Path(place).iterdir()) == ["base", "out"]


def require_same_frame(base: Checkpoint, written: Checkpoint) -> None:
    """Files, order, dtypes, shapes, metadata and index are the base's, but for what was added."""
    assert [file.path.name for file in written.files] == [file.path.name for file in base.files]
    for ours, theirs in zip(written.files, base.files, strict=True):
        assert ours.metadata == theirs.metadata
        kept = [(info.name, info.code, info.shape) for info in ours.tensors.values() if info.name in theirs.tensors]
        assert kept == [(info.name, info.code, info.shape) for info in theirs.tensors.values()]
        if ours.tensors.keys() == theirs.tensors.keys():
            assert ours.header == theirs.header
    if base.index is not None:
        before, after = (json.loads(checkpoint.index.read_text()) for checkpoint in (base, written) if checkpoint.index)
        assert {name: file for name, file in after["weight_map"].items() if name in before["weight_map"]} == before["weight_map"]
        assert after["metadata"]["by"] == "nobody"
