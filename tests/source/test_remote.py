"""Rows of a repository's tensors: the same as from its folder, and nothing more than that is fetched."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ember_hub.errors import (
    CorruptCheckpoint,
    DiskError,
    EmberHubError,
    GatedModel,
    ModelNotFound,
    NoRangedReads,
    ShapeMismatch,
    UnsupportedModel,
)
from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from ember_hub.source.remote import RemoteCheckpoint, plan_parts
from ember_hub.source.weights import require_plain_numbers
from tests.hub.conftest import hub  # noqa: F401  (fixture)
from tests.hub.server import LoopbackHub
from tests.models import pico_llama
from tests.source.remote_models import EMBEDDING, connection_to, tensor, write_safetensors

IDS = [700, 303, 305, 304, 303, 400]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The variable is the documented way to place the cache; nothing of the code is replaced.
    monkeypatch.setenv("EMBER_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def serve(hub: LoopbackHub) -> Callable[..., RemoteCheckpoint]:  # noqa: F811
    """Publishes a folder and opens it from there."""
    def publish(folder: Path, **about: bool) -> RemoteCheckpoint:
        return RemoteCheckpoint.open("lab/base", hub.add_repo("lab/base", folder, **about), connection=connection_to(hub))
    return publish


@pytest.mark.parametrize("redirects", [False, True], ids=["from the Hub", "from a storage"])
@pytest.mark.parametrize("folder", ["llama_folder", "sharded_llama_folder"])
def test_rows_are_the_same_as_from_the_folder_and_little_else_is_fetched(hub, serve, redirects: bool,  # noqa: F811
                                                                        folder: str, request: pytest.FixtureRequest) -> None:
    hub.redirects_large_files = redirects
    local = Checkpoint.open(request.getfixturevalue(folder))
    remote = serve(local.folder)
    assert set(remote.tensors) == set(local.tensors)
    assert torch.equal(remote.read_rows(EMBEDDING, torch.tensor(IDS)), local.read_rows(EMBEDDING, IDS))
    assert np.array_equal(remote.read_row_bytes(EMBEDDING, IDS), local.read_row_bytes(EMBEDDING, IDS))
    asked = [request.range for request in hub.requests if request.method == "GET" and ".json" not in request.path]
    assert asked[0] == "bytes=0-32767", "one header, of the one shard that holds the embedding"
    row = remote.info(EMBEDDING).row_size
    widths = sorted(int(stop) - int(start) + 1 for start, stop in (span[6:].split("-") for span in asked[1:]))
    assert widths == [row, row, 3 * row], "neighbours come together"
    assert remote.bytes_fetched == sum(r.bytes_out for r in hub.requests if r.method == "GET" and r.status == 206) + sum(
        r.bytes_out for r in hub.seen("GET", INDEX_FILE))
    assert remote.requests == len(hub.requests)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_rows_keep_the_type_they_are_stored_in(serve, tmp_path: Path, dtype: torch.dtype) -> None:
    local = Checkpoint.open(pico_llama(tmp_path / "model", dtype=dtype))
    rows = serve(local.folder).read_rows(EMBEDDING, IDS)
    assert rows.dtype == dtype
    assert torch.equal(rows, local.read_rows(EMBEDDING, IDS))


def test_nothing_is_fetched_twice_not_even_by_another_process(hub, serve, llama_folder: Path) -> None:  # noqa: F811
    remote = serve(llama_folder)
    first = remote.read_rows(EMBEDDING, IDS)
    before = remote.bytes_fetched
    assert torch.equal(remote.read_rows(EMBEDDING, IDS), first)
    assert remote.bytes_fetched == before
    fresh = RemoteCheckpoint.open("lab/base", hub.store.repositories["models", "lab/base"].head.oid,
                                  connection=connection_to(hub))
    assert torch.equal(fresh.read_rows(EMBEDDING, [*IDS, 500]), Checkpoint.open(llama_folder).read_rows(EMBEDDING, [*IDS, 500]))
    assert (fresh.bytes_fetched, fresh.requests) == (fresh.info(EMBEDDING).row_size, 2), "the new row, and a look at the version"


def test_a_read_that_failed_half_way_goes_on_where_it_was(hub, llama_folder: Path) -> None:  # noqa: F811
    sha = hub.add_repo("lab/base", llama_folder)
    ids = list(range(200, 700, 50))
    one_by_one = connection_to(hub, parallel=1, tries=1)
    remote = RemoteCheckpoint.open("lab/base", sha, connection=one_by_one)
    row, start = remote.info(EMBEDDING).row_size, remote.info(EMBEDDING).start
    hub.change_next("GET", "safetensors", lambda reply: reply, times=6)
    hub.drop_next("GET", "safetensors")
    with pytest.raises(EmberHubError, match="cannot be read") as caught:
        remote.read_rows(EMBEDDING, ids)
    assert "what was fetched is kept" in caught.value.hint
    assert torch.equal(remote.read_rows(EMBEDDING, ids), Checkpoint.open(llama_folder).read_rows(EMBEDDING, ids))
    came = [request.range for request in hub.requests if request.bytes_out == row]
    assert sorted(came) == [f"bytes={start + i * row}-{start + (i + 1) * row - 1}" for i in ids], "each row once"


def test_what_became_damaged_in_the_cache_is_fetched_again(hub, serve, llama_folder: Path, cache: Path) -> None:  # noqa: F811
    remote = serve(llama_folder)
    first = remote.read_rows(EMBEDDING, IDS)
    (data,) = cache.rglob("data")
    info = remote.info(EMBEDDING)
    with data.open("r+b") as file:
        file.seek(info.start + 304 * info.row_size)
        file.write(b"\xff\xff\xff\xff")
    before = remote.bytes_fetched
    assert torch.equal(remote.read_rows(EMBEDDING, IDS), first)
    assert remote.bytes_fetched - before == 3 * info.row_size, "the damaged part alone"


def test_progress_counts_the_rows_that_are_fetched_and_not_those_that_are_there(hub, llama_folder: Path) -> None:  # noqa: F811
    told: list[tuple[str, int, int]] = []

    class Listener(Quiet):
        @contextmanager
        def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
            counted: list[int] = []
            yield counted.append
            told.append((title, total, sum(counted)))

    sha = hub.add_repo("lab/base", llama_folder)
    remote = RemoteCheckpoint.open("lab/base", sha, Listener(), connection_to(hub))
    for ids in (IDS, [*IDS, 500, 502], IDS):
        remote.read_rows(EMBEDDING, ids)
    assert told == [(f"reading rows of {EMBEDDING}", 5, 5), (f"reading rows of {EMBEDDING}", 2, 2)]


def test_names_are_known_before_any_header_is_read(hub, serve, sharded_llama_folder: Path) -> None:  # noqa: F811
    remote = serve(sharded_llama_folder)
    assert len(remote.tensors) == 30
    assert not [request for request in hub.requests if request.range]
    with pytest.raises(ShapeMismatch, match=r"no tensor 'model\.embed_token\.weight'") as caught:
        remote.read_rows("model.embed_token.weight", [1])
    assert EMBEDDING in caught.value.hint
    with pytest.raises(ShapeMismatch, match="out of range"):
        remote.read_rows(EMBEDDING, [768])
    assert remote.read_rows(EMBEDDING, []).shape == (0, 48)


def test_a_gated_repository_needs_a_token_that_was_granted(hub, llama_folder: Path) -> None:  # noqa: F811
    sha = hub.add_repo("lab/gated", llama_folder, gated=True)
    with pytest.raises(GatedModel) as caught:
        RemoteCheckpoint.open("lab/gated", sha, connection=connection_to(hub, token="hf_other"))
    assert "accept the licence" in caught.value.hint
    hub.grant("lab/gated", "other")
    granted = RemoteCheckpoint.open("lab/gated", sha, connection=connection_to(hub, token="hf_other"))
    assert granted.read_rows(EMBEDDING, [1]).shape == (1, 48)


def test_a_private_repository_is_read_by_its_owner_only(hub, llama_folder: Path) -> None:  # noqa: F811
    sha = hub.add_repo("tester/private", llama_folder, private=True)
    with pytest.raises(ModelNotFound, match="or it is private") as caught:
        RemoteCheckpoint.open("tester/private", sha, connection=connection_to(hub, token="hf_other"))
    assert "hf auth login" in caught.value.hint
    own = RemoteCheckpoint.open("tester/private", sha, connection=connection_to(hub))
    assert own.read_rows(EMBEDDING, [1]).shape == (1, 48)


def test_an_older_commit_is_read_as_it_was(hub, llama_folder: Path, tied_llama_folder: Path) -> None:  # noqa: F811
    first = hub.add_repo("lab/base", llama_folder)
    hub.add_repo("lab/base", tied_llama_folder)
    assert "lm_head.weight" in RemoteCheckpoint.open("lab/base", first, connection=connection_to(hub)).tensors


def test_an_embedding_that_is_quantized_is_refused(serve, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model" / SINGLE_FILE, {"wte": tensor((4, 8), 0, 32, "F8_E4M3")}, bytes(32))
    info = serve(tmp_path / "model").info("wte")
    with pytest.raises(UnsupportedModel, match="F8_E4M3") as caught:
        require_plain_numbers(info)
    assert "original checkpoint" in caught.value.hint


def test_a_repository_without_safetensors_is_refused(serve, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\0" * 64)
    with pytest.raises(ModelNotFound) as caught:
        serve(tmp_path / "model")
    assert "safetensors" in caught.value.hint


HEADER = {"wte": tensor((4, 8), 0, 128)}


@pytest.mark.parametrize(("header", "announced", "match"), [
    (HEADER, 20 * 10**9, "announces a header of 20,000,000,000 bytes"),
    (HEADER, 2**63, "announces a header"),
    (HEADER, 5000, "announces a header of 5,000 bytes"),
    (b"[" * 300, None, "not a JSON object"),
    ({"wte": tensor((4, 9), 0, 128)}, None, "needs 144"),
    ({"wte": tensor((4, 8), 64, 192)}, None, "starts at byte"),
    ({"wte": tensor((8, 8), 0, 256)}, None, "should have"),
    ({"wte": tensor((4, 8), 0, 128), "other": tensor((4, 8), 0, 128)}, None, "starts at byte"),
], ids=["20 GB", "2**63", "longer than the file", "no JSON", "shape", "gap", "beyond the end", "overlap"])
def test_a_header_that_lies_is_refused_before_it_is_believed(hub, serve, tmp_path: Path, header: object,  # noqa: F811
                                                            announced: int | None, match: str) -> None:
    file = write_safetensors(tmp_path / "model" / SINGLE_FILE, header, bytes(128), announced=announced)
    with pytest.raises(CorruptCheckpoint, match=match) as caught:
        serve(file.parent)
    assert "repository itself is damaged" in caught.value.hint
    assert sum(request.bytes_out for request in hub.requests if request.method == "GET") <= file.stat().st_size


@pytest.mark.parametrize(("change", "match"), [
    (lambda index: index["weight_map"].update({"lost.weight": "model-00001-of-00005.safetensors"}), "does not hold it"),
    (lambda index: index["weight_map"].update({"lost.weight": "model-00009-of-00005.safetensors"}), "lacks"),
    (lambda index: index["weight_map"].update({"lost.weight": "../../secrets.safetensors"}), "outside its folder"),
    (lambda index: index.update(weight_map={}), "maps no tensor"),
    (lambda index: index.pop("weight_map"), "not a safetensors index"),
], ids=["wrong shard", "no such shard", "outside", "empty", "no map"])
def test_an_index_that_lies_is_refused(serve, sharded_llama_folder: Path, tmp_path: Path, change: Callable[[dict], object],
                                       match: str) -> None:
    folder = shutil.copytree(sharded_llama_folder, tmp_path / "model")
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index)
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CorruptCheckpoint, match=match) as caught:
        serve(folder).info("lost.weight")
    assert caught.value.hint


def test_a_server_without_ranges_is_told_with_the_way_out(hub, llama_folder: Path) -> None:  # noqa: F811
    sha = hub.add_repo("lab/base", llama_folder)
    hub.ignores_ranges = True
    with pytest.raises(NoRangedReads, match="answers 200") as caught:
        RemoteCheckpoint.open("lab/base", sha, connection=connection_to(hub))
    assert "hf download lab/base" in caught.value.hint


def test_a_cache_that_cannot_be_made_is_told(serve, llama_folder: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(DiskError) as caught:
        serve(llama_folder)
    assert "EMBER_HUB_CACHE" in caught.value.hint


@given(ids=st.sets(st.integers(0, 3000), min_size=1), row_size=st.sampled_from([1, 96, 4608, 32768, 5 * 2**20]))
def test_parts_hold_each_row_once_and_waste_little(ids: set[int], row_size: int) -> None:
    wanted = np.array(sorted(ids))
    parts = plan_parts(wanted, row_size)
    fetched = [row for first, last in parts for row in range(first, last + 1)]
    assert ids <= set(fetched)
    assert fetched == sorted(set(fetched))
    assert len(fetched) <= 1.1 * len(ids)
    assert max(last - first + 1 for first, last in parts) * row_size <= max(4 * 2**20, row_size)


def test_a_damaged_file_never_crashes_or_fetches_more_than_it_is_long(hub, tmp_path: Path) -> None:  # noqa: F811
    dice = random.Random(0)
    header = HEADER | {"__metadata__": {"format": "pt"}}
    whole = write_safetensors(tmp_path / "model" / SINGLE_FILE, header, bytes(128)).read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            damaged[dice.randrange(len(damaged) - 128)] = dice.randrange(256)
        damaged = damaged[: dice.choice([len(damaged)] * 4 + [dice.randrange(1, len(damaged))])]
        (tmp_path / "model" / SINGLE_FILE).write_bytes(damaged)
        sha, seen = hub.add_repo("lab/base", tmp_path / "model"), len(hub.requests)
        with suppress(EmberHubError):
            weights = RemoteCheckpoint.open("lab/base", sha, connection=connection_to(hub))
            for name, info in weights.tensors.items():
                weights.read_row_bytes(name, range(info.shape[0]) if info.shape else [])
        assert sum(request.bytes_out for request in hub.requests[seen:] if request.method == "GET") <= len(damaged) + 200
