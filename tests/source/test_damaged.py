"""Whatever a file claims: an error with a way out, before anything is written, in no more memory than the files have bytes."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ember_hub.errors import CorruptCheckpoint, DiskError, EmberHubError
from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from ember_hub.source.comparison import compare
from ember_hub.source.rewrite import RowBytes, rewrite
from tests.source.test_checkpoint import EMBEDDING, entry, raw_file, sharded, single

ROOM = 2**18
"""What the interpreter takes for a refusal: messages, traces."""
DATA = 2**23
"""Bytes of tensors, beside which the needs of the interpreter and of four buffers do not show."""
VOCAB = DATA // 16
"""Rows of an embedding of so many bytes."""


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Once through everything, so that nothing is imported while memory is measured."""
    place = tmp_path_factory.mktemp("warm")
    checkpoint = Checkpoint.open(single(place, vocab=VOCAB))
    rows = {EMBEDDING: RowBytes(np.array([3]), checkpoint.read_row_bytes(EMBEDDING, [3]))}
    compare(checkpoint, rewrite(checkpoint, place / "out", rows, Quiet()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (single(tmp_path_factory.mktemp("whole"), vocab=VOCAB) / SINGLE_FILE).read_bytes()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded(tmp_path_factory.mktemp("sharded"), vocab=VOCAB)


def survives(folder: Path) -> bool:
    """Whether the folder is read, compared and rewritten; else it was refused with a hint, and nothing was written."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    before = sorted(folder.parent.iterdir())
    tracemalloc.start()
    try:
        checkpoint = Checkpoint.open(folder)
        rows = {EMBEDDING: RowBytes(np.array([3]), checkpoint.read_row_bytes(EMBEDDING, [3]))}
        written = rewrite(checkpoint, folder.parent / "out", rows, Quiet())
        refused = "" if not compare(checkpoint, written).changed else "changed"
    except EmberHubError as error:
        refused = f"{error.message}: {error.hint}"
        assert sorted(folder.parent.iterdir()) == before
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert refused != "changed"
    assert peak <= size
    assert len(refused.encode()) < 2000
    return not refused


def damaged(data: bytes, flips: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(data)
    for place, bit in flips:
        changed[place % len(changed)] ^= 1 << bit
    return bytes(changed[: len(changed) - cut])


flips = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 7)), max_size=4)


@settings(max_examples=100, deadline=None)
@given(flips, st.sampled_from([0, 0, 0, 1, 9, 500]))
def test_flipped_bits_and_missing_ends_never_crash(whole: bytes, places: list[tuple[int, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "base")
        folder.mkdir()
        (folder / SINGLE_FILE).write_bytes(damaged(whole, places, cut))
        assert not (survives(folder) and cut)


@settings(max_examples=40, deadline=None)
@given(flips, st.sampled_from([0, 0, 1, 40]))
def test_a_damaged_index_never_crashes(index: Path, places: list[tuple[int, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "base")
        folder.mkdir()
        for path in index.iterdir():
            (folder / path.name).write_bytes(damaged(path.read_bytes(), places, cut) if path.name == INDEX_FILE
                                             else path.read_bytes())
        survives(folder)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12)
lies = st.fixed_dictionaries({}, optional={
    "dtype": st.sampled_from(["F32", "BF16", "F4", "", "bf16"]) | json_values,
    "shape": st.lists(st.sampled_from([0, 1, 2, 64, DATA // 4, 2**31, 2**63, 2**64, -1]), max_size=5) | json_values,
    "data_offsets": st.lists(st.sampled_from([0, 8, DATA, -8, 2**63]), max_size=3) | json_values})


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", EMBEDDING, "__metadata__", "\ud800"]), lies | json_values, max_size=3))
@example({"a": entry(0, 0, (0, 2**62, 2**62))})
@example({"a": entry(0, 0, (1,) * 70)})
@example({"a": entry(0, 8), "b": entry(0, 8)})
@example({"a": entry(0, 8) | {"dtype": "x" * 5000}})
def test_a_header_that_says_anything_never_crashes(header: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "base")
        folder.mkdir()
        raw_file(folder, header, b"\0" * DATA)
        survives(folder)


def refusal(folder: Path, kind: type[EmberHubError] = CorruptCheckpoint) -> str:
    with pytest.raises(kind) as caught:
        Checkpoint.open(folder)
    assert caught.value.hint
    return caught.value.message


def test_a_header_that_claims_20_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / SINGLE_FILE).open("wb") as file:
        file.write((20 * 10**9).to_bytes(8, "little"))
        file.truncate(21 * 10**9)
    tracemalloc.start()
    assert "20,000,000,000 bytes" in refusal(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < ROOM
    tracemalloc.stop()


GROWING = {"lists": ("[],", "[]"), "objects": ("{},", "{}"), "numbers": ("300,", "1"), "words": ('"ab",', '"c"')}
"""What takes the most memory for its length, once parsed."""


@pytest.mark.parametrize("kind", GROWING)
def test_text_made_to_exhaust_the_reader_is_read_beside_enough_data_only(tmp_path: Path, kind: str) -> None:
    part, last = GROWING[kind]
    header = '{"a": [' + part * (2**20 // len(part)) + last + "]}"
    raw_file(tmp_path, header)
    assert peak_of_refusal(tmp_path, "announces a header") < ROOM
    os.truncate(tmp_path / SINGLE_FILE, 32 * len(header))
    assert peak_of_refusal(tmp_path, "malformed entry") <= 32 * len(header)
    (tmp_path / SINGLE_FILE).rename(tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / INDEX_FILE).write_text(header)
    assert peak_of_refusal(tmp_path, "maps no tensor") <= 32 * len(header)
    os.truncate(tmp_path / "model-00001-of-00001.safetensors", 2**20)
    assert peak_of_refusal(tmp_path, "no index") < ROOM


def peak_of_refusal(folder: Path, told: str) -> int:
    """Most bytes that were held while the folder was refused."""
    tracemalloc.start()
    try:
        assert told in refusal(folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_index_of_20_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / INDEX_FILE).open("wb") as file:
        file.truncate(20 * 10**9)
    assert "no index" in refusal(tmp_path)


@pytest.mark.parametrize("header", ["[" * 100_000, '{"a": ' * 40_000, '{"a": {"dtype": "F32", "shape": [' + "9" * 5000 + "]}}"])
def test_a_header_made_to_exhaust_the_reader_is_refused(tmp_path: Path, header: str) -> None:
    raw_file(tmp_path, header)
    assert "not a JSON object" in refusal(tmp_path)
    (tmp_path / SINGLE_FILE).unlink()
    (tmp_path / INDEX_FILE).write_text(header)
    assert "not a JSON object" in refusal(tmp_path)


def test_a_shape_of_many_numbers_is_not_multiplied_to_the_end(tmp_path: Path) -> None:
    raw_file(tmp_path, {"a": entry(0, 8, (999_999_937,) * 20_000)})
    assert "malformed" in refusal(tmp_path)


@pytest.mark.parametrize("shard", ["", "..", ".", "a/b", "\ud800", "a\0b", "x" * 5000])
def test_an_index_may_name_no_shard_that_is_no_file_name(tmp_path: Path, shard: str) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": shard}}))
    refusal(tmp_path).encode()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(("make", "kind"), [(loop, CorruptCheckpoint), (os.mkfifo, DiskError), (Path.mkdir, DiskError),
                                            (lambda path: path.symlink_to("/dev/zero"), DiskError)],
                         ids=["a link to itself", "a pipe", "a folder", "a device"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, make: Callable[[Path], None],
                                                    kind: type[EmberHubError]) -> None:
    make(tmp_path / SINGLE_FILE)
    refusal(tmp_path, kind)


def test_a_folder_behind_links_reads_and_writes_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    single(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "more").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place").symlink_to("elsewhere")
    checkpoint = Checkpoint.open(tmp_path / "link")
    written = rewrite(checkpoint, tmp_path / "place" / "out", {}, Quiet())
    assert not compare(checkpoint, written).changed
    assert sorted(path.name for path in (tmp_path / "elsewhere" / "out").iterdir()) == [SINGLE_FILE]
