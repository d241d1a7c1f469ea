"""Reading a checkpoint: what is checked before any tensor is read, and rows without their tensor."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ember_hub.errors import CorruptCheckpoint, EmberHubError, ModelNotFound, ShapeMismatch, UnsupportedModel
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.comparison import compare

EMBEDDING = "model.embed_tokens.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
METADATA = {"format": "pt", "note": "ä"}
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4000000000\n"


def tensors(dtype: torch.dtype = torch.bfloat16, vocab: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        EMBEDDING: torch.randn(vocab, 8, generator=generator).to(dtype),
        DOWN: torch.randn(8, 16, generator=generator).to(dtype),
        "model.norm.weight": torch.randn(8, generator=generator),
        "model.scale": torch.tensor(3.5),
        "model.mask": torch.tensor([True, False, True]),
        "model.empty": torch.empty(0, 8),
    }


def single(folder: Path, dtype: torch.dtype = torch.bfloat16, vocab: int = 64) -> Path:
    save_file(tensors(dtype, vocab), folder / "model.safetensors", metadata=METADATA)
    return folder


def sharded(folder: Path, vocab: int = 64) -> Path:
    held_by_all = tensors(vocab=vocab)
    names = sorted(held_by_all)
    weight_map = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for shard in set(weight_map.values()):
        held = {name: tensor for name, tensor in held_by_all.items() if weight_map[name] == shard}
        save_file(held, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in held_by_all.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def raw_file(folder: Path, header: str | dict[str, object], data: bytes = b"") -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def error_of(folder: Path, kind: type[EmberHubError]) -> str:
    """Message and hint of the one error that opening this folder raises."""
    with pytest.raises(EmberHubError) as caught:
        Checkpoint.open(folder)
    assert type(caught.value) is kind
    assert caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("build", [single, lambda folder, dtype: sharded(folder)])
def test_every_tensor_reads_as_safetensors_reads_it(
    tmp_path: Path, dtype: torch.dtype, build: Callable[[Path, torch.dtype], Path]
) -> None:
    checkpoint = Checkpoint.open(build(tmp_path, dtype))
    theirs = {name: tensor for file in checkpoint.files for name, tensor in load_file(file.path).items()}
    assert set(checkpoint.tensors) == set(theirs)
    for name, tensor in theirs.items():
        ours = checkpoint.read(name)
        assert (ours.dtype, ours.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(ours, tensor)


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(single(tmp_path))
    places = list(checkpoint.tensors.values())
    assert [info.start for info in places[1:]] == [info.stop for info in places[:-1]]
    assert places[-1].stop == (tmp_path / "model.safetensors").stat().st_size
    assert checkpoint.files[0].metadata == METADATA


@pytest.mark.parametrize("ids", [[3], [0, 1, 2, 63], [9, 4, 5, 4], []])
def test_rows_are_those_of_the_tensor_in_the_order_asked(tmp_path: Path, ids: list[int]) -> None:
    checkpoint = Checkpoint.open(single(tmp_path))
    wanted = tensors()[EMBEDDING][ids]
    assert torch.equal(checkpoint.read_rows(EMBEDDING, ids), wanted)
    assert torch.equal(checkpoint.read_rows(EMBEDDING, torch.tensor(ids, dtype=torch.int64)), wanted)


@pytest.mark.parametrize("ids", [[64], [-1], [0, 100], [0.5], [[1, 2]]])
def test_rows_that_are_not_there_are_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ShapeMismatch) as caught:
        Checkpoint.open(single(tmp_path)).read_rows(EMBEDDING, ids)
    assert caught.value.hint


def test_a_single_number_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ShapeMismatch, match="no rows"):
        Checkpoint.open(single(tmp_path)).read_rows("model.scale", [0])


def test_an_unknown_tensor_names_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(ShapeMismatch) as caught:
        Checkpoint.open(single(tmp_path)).read("model.embed_token.weight")
    assert EMBEDDING in caught.value.hint


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    raw = tensors()[EMBEDDING].view(torch.uint8).numpy().tobytes()
    assert Checkpoint.open(single(tmp_path)).tensor_sha256(EMBEDDING) == hashlib.sha256(raw).hexdigest()


def test_a_snapshot_of_links_opens(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    single(tmp_path / "blobs")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/model.safetensors")
    checkpoint = Checkpoint.open(tmp_path / "snapshot")
    assert torch.equal(checkpoint.read(EMBEDDING), tensors()[EMBEDDING])


def test_a_truncated_file_tells_both_sizes(tmp_path: Path) -> None:
    path = single(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    message = error_of(tmp_path, CorruptCheckpoint)
    assert str(path) in message
    assert f"{len(whole):,}" in message
    assert f"{len(whole) - 7:,}" in message


@pytest.mark.parametrize("kept", [0, 5, 8, 40])
def test_a_file_cut_in_its_header_is_corrupt(tmp_path: Path, kept: int) -> None:
    path = single(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "header" in error_of(tmp_path, CorruptCheckpoint)


def entry(start: int, stop: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("no json here", "JSON"),
        ("[1, 2]", "JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, "instead of"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "instead of"),
        ({"a": entry(0, 12)}, "12 bytes"),
        ({"a": entry(-8, 0)}, "malformed"),
        ({"a": {"dtype": "F32"}}, "malformed"),
        ({"a": "text"}, "malformed"),
        ({"a": entry(0, 8), "__metadata__": {"format": 1}}, "metadata"),
        ({"a": entry(0, 8)}, "should have"),
    ],
)
def test_an_inconsistent_header_is_corrupt(tmp_path: Path, header: str | dict[str, object], told: str) -> None:
    raw_file(tmp_path, header, b"\0" * 20)
    assert told in error_of(tmp_path, CorruptCheckpoint)


def test_a_dtype_that_torch_lacks_is_unsupported(tmp_path: Path) -> None:
    raw_file(tmp_path, {"a": entry(0, 8, dtype="F6_E2M3")}, b"\0" * 8)
    assert "F6_E2M3" in error_of(tmp_path, UnsupportedModel)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "lacks 1 of 2 shards: model-00002-of-00002.safetensors" in error_of(tmp_path, CorruptCheckpoint)


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def test_an_index_that_names_a_tensor_its_shard_lacks_is_corrupt(tmp_path: Path) -> None:
    sharded(tmp_path)
    change_index(tmp_path, lambda weight_map: weight_map.update(ghost="model-00001-of-00002.safetensors"))
    assert "'ghost'" in error_of(tmp_path, CorruptCheckpoint)


def test_an_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    sharded(tmp_path)
    change_index(tmp_path, lambda weight_map: weight_map.update(ghost="../elsewhere.safetensors"))
    assert "outside" in error_of(tmp_path, CorruptCheckpoint)


def test_a_tensor_in_two_shards_is_corrupt(tmp_path: Path) -> None:
    sharded(tmp_path)
    for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        save_file(load_file(tmp_path / shard) | {"twin": torch.zeros(1)}, tmp_path / shard)
    assert "both" in error_of(tmp_path, CorruptCheckpoint)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"metadata": {}}'])
def test_a_broken_index_is_corrupt(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "index" in error_of(tmp_path, CorruptCheckpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_pointer_says_run_git_lfs_pull(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LFS_POINTER)
    assert "git lfs pull" in error_of(tmp_path, CorruptCheckpoint)


def test_a_link_to_a_blob_that_is_gone_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("../blobs/4d7a")
    assert "gone" in error_of(tmp_path, CorruptCheckpoint)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf"])
def test_other_weights_are_unsupported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    message = error_of(tmp_path, UnsupportedModel)
    assert name in message
    assert "save_pretrained" in message


def test_an_adapter_is_unsupported(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge" in error_of(tmp_path, UnsupportedModel)


def test_a_folder_without_weights_or_no_folder_is_not_a_model(tmp_path: Path) -> None:
    assert "neither" in error_of(tmp_path, ModelNotFound)
    assert "no folder" in error_of(tmp_path / "nowhere", ModelNotFound)


def test_a_file_that_shrinks_after_it_was_opened_is_corrupt(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(single(tmp_path))
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(600)
    for read in (checkpoint.read, checkpoint.tensor_sha256):
        with pytest.raises(CorruptCheckpoint, match="ended at byte"):
            read(EMBEDDING)


def test_comparison_sorts_tensors_by_what_happened_to_them(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    changed = tensors() | {"lm_head.weight": torch.ones(2, 2)}
    changed[EMBEDDING][7, 3] += 1
    changed[DOWN] = changed[DOWN].reshape(16, 8)
    del changed["model.norm.weight"]
    save_file(changed, after / "model.safetensors")
    proof = compare(Checkpoint.open(single(before)), Checkpoint.open(after))
    assert set(proof.changed) == {EMBEDDING, DOWN}
    assert set(proof.identical) == {"model.scale", "model.mask", "model.empty"}
    assert proof.added == ("lm_head.weight",)
    assert proof.removed == ("model.norm.weight",)
    for name, digest in proof.rewritten_sha256.items():
        assert digest == Checkpoint.open(after).tensor_sha256(name)
    for name, digest in proof.original_sha256.items():
        assert digest == Checkpoint.open(before).tensor_sha256(name)


def test_the_bytes_of_rows_are_those_of_their_values(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(single(tmp_path))
    rows = checkpoint.read_row_bytes(EMBEDDING, np.array([9, 4, 5, 4]))
    assert rows.shape == (4, checkpoint.info(EMBEDDING).row_size)
    assert rows.tobytes() == tensors()[EMBEDDING][[9, 4, 5, 4]].view(torch.uint8).numpy().tobytes()


def test_what_works_on_bytes_imports_no_heavy_library() -> None:
    rooms = ", ".join(f"ember_hub.source.{name}" for name in ("rewrite", "checkpoint", "safetensors_file", "naming", "ref"))
    script = f"import sys, {rooms}; sys.stdout.write(repr({{'torch', 'transformers', 'huggingface_hub'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()"
