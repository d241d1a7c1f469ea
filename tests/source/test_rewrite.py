"""Rewriting a checkpoint: exactly the named tensors change, and a failure leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ember_hub.errors import CorruptCheckpoint, DiskError, EditError, EmberHubError, ShapeMismatch
from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import INDEX_FILE, Checkpoint, read_weight_map
from ember_hub.source.comparison import compare
from ember_hub.source.rewrite import Change, CopyOf, RowBytes, Rows, Whole, copy_companions, rewrite
from tests.source.test_checkpoint import DOWN, EMBEDDING, LFS_POINTER, METADATA, tensors
from tests.source.test_checkpoint import sharded as sharded_model
from tests.source.test_checkpoint import single as single_file_model

IDS = torch.tensor([60, 3, 4, 5, 17])


def new_rows() -> Rows:
    return Rows(IDS, torch.randn(len(IDS), 8, generator=torch.Generator().manual_seed(1)))


def single(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    folder.mkdir()
    return Checkpoint.open(single_file_model(folder, dtype))


def sharded(folder: Path) -> Checkpoint:
    folder.mkdir()
    return Checkpoint.open(sharded_model(folder))


@contextmanager
def nothing_left_in(folder: Path) -> Iterator[None]:
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_change_and_no_other_byte_does(tmp_path: Path, dtype: torch.dtype) -> None:
    original = single(tmp_path / "base", dtype)
    change = new_rows()
    written = rewrite(original, tmp_path / "out", {EMBEDDING: change}, Quiet())
    expected = tensors(dtype)[EMBEDDING].index_copy(0, IDS, change.values.to(dtype))
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING], expected)
    proof = compare(original, written)
    assert (proof.changed, proof.added, proof.removed) == ((EMBEDDING,), (), ())
    assert set(proof.identical) == set(tensors()) - {EMBEDDING}
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "base"))
    start = original.tensors[EMBEDDING].start
    row = original.tensors[EMBEDDING].row_size
    moved = {(position - start) // row for position in range(len(theirs)) if ours[position] != theirs[position]}
    assert len(ours) == len(theirs)
    assert moved == set(IDS.tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_as_bytes_write_what_rows_as_values_write(tmp_path: Path, dtype: torch.dtype) -> None:
    original, values = single(tmp_path / "base", dtype), new_rows()
    data = values.values.to(dtype).view(torch.uint8).numpy()
    rewrite(original, tmp_path / "values", {EMBEDDING: values}, Quiet())
    rewrite(original, tmp_path / "bytes", {EMBEDDING: RowBytes(IDS.numpy(), data)}, Quiet())
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("values", "bytes")]
    assert files[0] == files[1]
    data[3, -data.shape[1] // 8 :] = 0xFF
    with nothing_left_in(tmp_path), pytest.raises(EditError, match="not finite"):
        rewrite(original, tmp_path / "out", {EMBEDDING: RowBytes(IDS.numpy(), data)}, Quiet())


def test_without_changes_every_file_stays_the_same(tmp_path: Path) -> None:
    rewrite(sharded(tmp_path / "base"), tmp_path / "out", {}, Quiet())
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("base", "out")]
    assert files[0] == files[1]


def test_a_whole_tensor_is_replaced_even_from_a_transposed_view(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    values = torch.randn(16, 8, dtype=torch.float64).t()
    written = rewrite(original, tmp_path / "out", {DOWN: Whole(values)}, Quiet())
    assert torch.equal(written.read(DOWN), values.to(torch.bfloat16))
    assert compare(original, written).changed == (DOWN,)


def test_values_larger_than_a_chunk_are_written_whole(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    held = {"a": torch.zeros(3), "big": torch.zeros(5000, 1024), "c": torch.ones(3)}
    save_file(held, tmp_path / "base" / "model.safetensors")
    values = torch.randn(4500, 1024)
    ids = torch.randperm(5000)[:4500]
    original = Checkpoint.open(tmp_path / "base")
    rows = rewrite(original, tmp_path / "rows", {"big": Rows(ids, values)}, Quiet())
    assert torch.equal(rows.read("big"), torch.zeros(5000, 1024).index_copy(0, ids, values))
    whole = rewrite(original, tmp_path / "whole", {"big": Whole(rows.read("big"))}, Quiet())
    assert compare(rows, whole).changed == ()
    assert compare(original, whole).changed == ("big",)


def test_a_tied_model_gets_a_head_equal_to_its_original_embedding(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    written = rewrite(original, tmp_path / "out", {"lm_head.weight": CopyOf(EMBEDDING), EMBEDDING: new_rows()}, Quiet())
    proof = compare(original, written)
    assert (proof.changed, proof.added) == ((EMBEDDING,), ("lm_head.weight",))
    assert proof.rewritten_sha256["lm_head.weight"] == proof.original_sha256[EMBEDDING]
    assert list(written.tensors) == [*original.tensors, "lm_head.weight"]
    assert (written.files[0].data_start - original.files[0].data_start) % 4096 == 0
    assert written.files[0].metadata == METADATA
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("lm_head.weight"), tensors()[EMBEDDING])
        assert torch.equal(file.get_tensor(DOWN), tensors()[DOWN])


def test_shards_keep_their_layout_and_the_index_learns_the_new_tensor(tmp_path: Path) -> None:
    original = sharded(tmp_path / "base")
    changes: dict[str, Change] = {EMBEDDING: new_rows(), "head": CopyOf("model.scale")}
    written = rewrite(original, tmp_path / "out", changes, Quiet())
    index = json.loads((tmp_path / "out" / INDEX_FILE).read_text())
    home = original.tensors["model.scale"].file.name
    assert index["weight_map"] == read_weight_map(tmp_path / "base" / INDEX_FILE) | {"head": home}
    assert list(index["weight_map"]) == sorted(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(info.size for info in written.tensors.values())
    for ours, theirs in zip(written.files, original.files, strict=True):
        old, new = json.loads(theirs.header), json.loads(ours.header)
        assert ours.path.name == theirs.path.name
        assert list(new.items())[: len(old)] == list(old.items())


def test_a_copied_tensor_goes_where_no_shard_outgrows_the_largest(tmp_path: Path) -> None:
    def home(folder: str, **sizes: int) -> str:
        (tmp_path / folder).mkdir()
        for name, size in sizes.items():
            save_file({name: torch.zeros(size)}, tmp_path / folder / f"{name}.safetensors")
        index = {"weight_map": {name: f"{name}.safetensors" for name in sizes}}
        (tmp_path / folder / INDEX_FILE).write_text(json.dumps(index))
        written = rewrite(Checkpoint.open(tmp_path / folder), tmp_path / f"{folder}-out", {"copy": CopyOf("origin")}, Quiet())
        assert torch.equal(written.read("copy"), torch.zeros(sizes["origin"]))
        return written.info("copy").file.stem

    assert home("roomy", origin=1000, small=500, large=9000) == "origin"
    assert home("other", large=9000, origin=8000, small=10, smaller=5) == "smaller"
    assert home("full", origin=9000, large=9000) == "origin"


def test_a_shard_without_changes_is_not_written_again(tmp_path: Path) -> None:
    original = sharded(tmp_path / "base")
    written = rewrite(original, tmp_path / "out", {EMBEDDING: new_rows()}, Quiet())
    proof = compare(original, written)
    (untouched,) = (file.path.name for file in original.files if EMBEDDING not in file.tensors)
    assert proof.same_files == (untouched,)
    # Hard-linked here; a file system with reflinks has two files, which are then read to be proven the same.
    if proof.shared_files:
        assert proof.shared_files == (untouched,)
        assert set(proof.rewritten_sha256) == set(written.files[original.files[0].path.name == untouched].tensors)
    assert (proof.changed, len(proof.identical)) == ((EMBEDDING,), len(original.tensors) - 1)
    (tmp_path / "out" / untouched).unlink()
    assert torch.equal(original.read(DOWN), tensors()[DOWN])


def test_a_link_in_a_snapshot_is_shared_as_the_file_it_leads_to(tmp_path: Path) -> None:
    original = sharded(tmp_path / "blobs")
    shutil.copytree(tmp_path / "blobs", tmp_path / "snapshot")
    for file in original.files:
        (tmp_path / "snapshot" / file.path.name).unlink()
        (tmp_path / "snapshot" / file.path.name).symlink_to(f"../blobs/{file.path.name}")
    written = rewrite(Checkpoint.open(tmp_path / "snapshot"), tmp_path / "out", {}, Quiet())
    assert not any(file.path.is_symlink() for file in written.files)
    assert compare(original, written).changed == ()
    shutil.rmtree(tmp_path / "blobs")
    assert torch.equal(written.read(DOWN), tensors()[DOWN])


def test_on_another_disk_a_shard_is_copied(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    original = sharded(tmp_path / "base")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        proof = compare(original, rewrite(original, Path(folder) / "out", {}, Quiet()))
        assert proof.shared_files == ()
        assert len(proof.same_files) == len(original.files)


def test_links_become_regular_files_with_normal_permissions(tmp_path: Path) -> None:
    single(tmp_path / "blobs")
    (tmp_path / "blobs" / "config.json").write_text("{}")
    (tmp_path / "snapshot").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "blobs" / name).chmod(0o400)
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    rewrite(Checkpoint.open(tmp_path / "snapshot"), tmp_path / "out", {EMBEDDING: new_rows()}, Quiet())
    mask = os.umask(0)
    os.umask(mask)
    for path in (tmp_path / "out").iterdir():
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_companions_are_all_a_model_needs_but_weights_and_card(tmp_path: Path) -> None:
    wanted = ["LICENSE", "chat_template.jinja", "code/modeling.py", "config.json", "more/tool.jinja", "tokenizer.model"]
    left = ["README.md", ".gitattributes", ".git/config", ".cache/a.py", "__pycache__/a.py", "onnx/config.json"]
    left += ["pytorch_model.bin", "a.gguf", "a.h5", "a.msgpack", "onnx/a.onnx", "consolidated.safetensors", "a.PTH"]
    left += ["model.safetensors.index.json"]
    for name in [*wanted, *left]:
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text(f"I am {name}")
    assert sorted(copy_companions(tmp_path / "base", tmp_path / "out")) == sorted(wanted)
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == set(wanted)
    assert (tmp_path / "out" / "code" / "modeling.py").read_text() == "I am code/modeling.py"


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (EMBEDDING, Rows(torch.tensor([64]), torch.zeros(1, 8)), "out of range"),
        (EMBEDDING, Rows(torch.tensor([-1]), torch.zeros(1, 8)), "out of range"),
        (EMBEDDING, Rows(torch.tensor([3, 3]), torch.zeros(2, 8)), "twice"),
        (EMBEDDING, Rows(torch.tensor([3]), torch.zeros(1, 9)), "expected"),
        (EMBEDDING, Rows(torch.ones(64, dtype=torch.bool), torch.zeros(64, 8)), "whole numbers"),
        (EMBEDDING, Rows(torch.tensor([3]), torch.zeros(1, 8, dtype=torch.int32)), "int32"),
        (EMBEDDING, RowBytes(np.array([64]), np.zeros((1, 16), np.uint8)), "out of range"),
        (EMBEDDING, RowBytes(np.array([3, 3]), np.zeros((2, 16), np.uint8)), "twice"),
        (EMBEDDING, RowBytes(np.array([3]), np.zeros((1, 8), np.uint8)), "expected"),
        (EMBEDDING, RowBytes(np.array([3]), np.zeros((1, 16), np.float16)), "float16"),
        (DOWN, Whole(torch.zeros(16, 8)), "expected"),
        ("nothing", Whole(torch.zeros(8)), "no tensor"),
        ("lm_head.weight", CopyOf("nothing"), "no tensor"),
        (DOWN, CopyOf(EMBEDDING), "already has"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, change: Change, told: str
) -> None:
    original = single(tmp_path / "base")
    with nothing_left_in(tmp_path), pytest.raises(ShapeMismatch, match=told) as caught:
        rewrite(original, tmp_path / "out", {name: change}, Quiet())
    assert caught.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_are_not_finite_in_the_tensor_are_refused(tmp_path: Path, value: float) -> None:
    original = single(tmp_path / "base", torch.float16)
    with nothing_left_in(tmp_path), pytest.raises(EditError, match="not finite") as caught:
        rewrite(original, tmp_path / "out", {EMBEDDING: Rows(IDS, torch.full((5, 8), value))}, Quiet())
    assert "strength" in caught.value.hint


def untie(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))


def refusal(original: Checkpoint, out: Path, kind: type[EmberHubError] = DiskError) -> str:
    with nothing_left_in(original.folder.parent), pytest.raises(kind) as caught:
        rewrite(original, out, {EMBEDDING: new_rows()}, Quiet())
    assert caught.value.hint
    return caught.value.message


def test_a_place_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    (tmp_path / "file").write_text("not a folder")
    assert "GB needed" in refusal(original, tmp_path / "file" / "deep" / "out").partition("cannot be written")[2]


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    assert "exists already" in refusal(original, tmp_path / "base")
    (tmp_path / "file").write_text("mine")
    assert "exists already" in refusal(original, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert EMBEDDING in rewrite(original, tmp_path / "empty", {}, Quiet()).tensors


def test_a_model_larger_than_the_free_space_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    size = (shutil.disk_usage(tmp_path).free // 4 + 2**28) * 4
    header = json.dumps({"huge": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with open(tmp_path / "base" / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    huge = Rows(torch.tensor([7]), torch.ones(1))
    with nothing_left_in(tmp_path), pytest.raises(DiskError, match=r"no space.* GB needed, .* GB free") as caught:
        rewrite(Checkpoint.open(tmp_path / "base"), tmp_path / "new" / "out", {"huge": huge}, Quiet())
    assert "free some space" in caught.value.hint


LIMITED = """
import resource, sys
import numpy as np
from ember_hub.errors import DiskError
from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.rewrite import RowBytes, rewrite
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
row = RowBytes(np.array([3]), np.zeros((1, 16), np.uint8))
try:
    rewrite(Checkpoint.open(sys.argv[1]), sys.argv[2], {"model.embed_tokens.weight": row}, Quiet())
except DiskError as error:
    sys.stdout.write(f"{error.message} | {error.hint}")
"""


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    with nothing_left_in(tmp_path):
        command = [sys.executable, "-W", "error", "-c", LIMITED, str(original.folder), str(tmp_path / "a" / "out")]
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "GB needed" in told.stdout.partition("no space for")[2]


KILLED = """
import os, signal, sys
from contextlib import contextmanager
import numpy as np
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.rewrite import CopyOf, RowBytes, rewrite
class Killing:
    @contextmanager
    def steps(self, title, total):
        yield lambda done: os.kill(os.getpid(), signal.SIGKILL)
row = RowBytes(np.array([3]), np.zeros((1, 16), np.uint8))
rewrite(Checkpoint.open(sys.argv[1]), sys.argv[2], {"model.embed_tokens.weight": row}, Killing())
"""


def test_a_killed_run_leaves_nothing_that_loads_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    original = sharded(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    command = [sys.executable, "-c", KILLED, str(original.folder), str(tmp_path / "out")]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    (left,) = (path for path in tmp_path.iterdir() if path.name != "base")
    assert left.name.startswith(".out.partial-")
    assert not (left / "config.json").exists()
    with pytest.raises(EmberHubError):
        Checkpoint.open(left)
    rewrite(original, tmp_path / "out", {EMBEDDING: new_rows()}, Quiet())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_two_runs_into_one_place_do_not_remove_each_others_work(tmp_path: Path) -> None:
    original = sharded(tmp_path / "base")

    def another(folder: Path) -> None:
        (tmp_path / ".out.partial-7").mkdir()
        with pytest.raises(DiskError, match="cannot be written"):
            rewrite(original, tmp_path / "out", {}, Quiet())
        assert folder.is_dir()

    rewrite(original, tmp_path / "out", {EMBEDDING: new_rows()}, Quiet(), finish=another)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_what_cannot_be_proven_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def refuse(written: Checkpoint) -> None:
        assert not (written.folder / "config.json").exists()
        raise ValueError("not what was meant")

    original = single(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    with nothing_left_in(tmp_path), pytest.raises(ValueError, match="not what was meant"):
        rewrite(original, tmp_path / "out", {EMBEDDING: new_rows()}, Quiet(), prove=refuse)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupt(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        raise error

    original = single(tmp_path / "base")
    with nothing_left_in(tmp_path), pytest.raises(error):
        rewrite(original, tmp_path / "new" / "out", {EMBEDDING: new_rows()}, Quiet(), finish=interrupt)


def test_an_original_that_shrinks_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    with open(tmp_path / "base" / "model.safetensors", "r+b") as file:
        file.truncate(700)
    assert "ended at byte" in refusal(original, tmp_path / "out", CorruptCheckpoint)


def test_a_companion_that_is_a_pointer_or_gone_is_refused(tmp_path: Path) -> None:
    original = single(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text(LFS_POINTER)
    assert "pointer" in refusal(original, tmp_path / "out", CorruptCheckpoint)
    (tmp_path / "base" / "tokenizer.json").unlink()
    (tmp_path / "base" / "tokenizer.json").symlink_to("../blobs/4d7a")
    assert "gone" in refusal(original, tmp_path / "out", CorruptCheckpoint)


def test_progress_adds_up_to_the_bytes_written(tmp_path: Path) -> None:
    told: list[int] = []

    class Counting(Quiet):
        @contextmanager
        def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
            told.append(-total)
            yield told.append

    changes: dict[str, Change] = {EMBEDDING: new_rows(), DOWN: Whole(torch.zeros(8, 16)), "head": CopyOf(EMBEDDING)}
    written = rewrite(single(tmp_path / "base"), tmp_path / "out", changes, Counting())
    assert sum(told) == -written.files[0].data_start


def test_a_rewritten_tied_model_loads_with_its_own_head(tmp_path: Path, tied_llama_folder: Path) -> None:
    original = Checkpoint.open(tied_llama_folder)
    d_model = original.tensors[EMBEDDING].shape[1]

    rows = Rows(torch.tensor([5, 9]), torch.ones(2, d_model))
    changes: dict[str, Change] = {EMBEDDING: rows, "lm_head.weight": CopyOf(EMBEDDING)}
    rewrite(original, tmp_path / "out", changes, Quiet(), finish=untie)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=original.tensors[EMBEDDING].dtype)
    assert torch.equal(model.lm_head.weight, original.read(EMBEDDING))
    assert torch.equal(model.get_input_embeddings().weight[[5, 9]], torch.ones(2, d_model))
