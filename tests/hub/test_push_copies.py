"""What a push does not send: what the Hub can copy from the base, what it has already, what an earlier try uploaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .pushing import BASE, REPO, content_of, published, stored, write_result
from .server import LoopbackHub

SHARDS = {f"model-0000{i}-of-00003.safetensors": bytes([i]) * 10_000 * i for i in (1, 2, 3)}
EDITED = {"model-00001-of-00003.safetensors": b"edited" * 1000}
MIB = 1 << 20


@pytest.fixture
def base(hub: LoopbackHub, tmp_path: Path) -> str:
    """The commit of a base in three shards, beside which a small file is the same as in the result."""
    return hub.add_repo(BASE, write_result(tmp_path / "base", SHARDS))


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    return write_result(tmp_path / "edited", SHARDS | EDITED)


def test_shards_that_are_the_bases_are_copied_on_the_hub_in_the_same_commit(hub, publish, base, edited):
    (Path(edited).parent / "newer").mkdir()
    hub.add_repo(BASE, Path(edited).parent / "newer")
    seen = publish(edited, source=(BASE, base))

    assert published(hub) == content_of(edited)
    assert len(hub.seen("POST", "/commit/main")) == 1
    assert [request.path.split("/")[-1] for request in hub.seen("PUT", "/-/storage/")] == [
        seen["files"]["model-00001-of-00003.safetensors"]]
    assert hub.seen("GET", "/resolve/") == [], "nothing is downloaded either"
    assert (seen["copied"], seen["present"]) == (50_000, 0)
    assert seen["sent"] == sum(request.bytes_in for request in hub.requests)
    assert seen["bytes"] == sum(map(len, content_of(edited).values()))
    assert seen["said"][-1] == f"7 files · 0.1 MiB: 0.0 sent, 0.0 copied on the Hub, 0.0 there before · {hub.url}/{REPO}"

    again = publish(edited, source=(BASE, base))
    assert (again["copied"], again["present"], again["sent"]) == (0, again["bytes"], 0)


def test_a_copy_on_disk_is_looked_up_in_the_newest_commit_of_its_repository(hub, publish, base, edited):
    assert publish(edited, source=(BASE, None))["copied"] == 50_000


def test_a_new_shard_for_a_repository_that_has_the_others_is_all_that_is_sent(hub, publish, base, edited, tmp_path):
    publish(edited, source=(BASE, base))
    before = stored(hub)
    other = write_result(tmp_path / "other", SHARDS | {"model-00001-of-00003.safetensors": b"stronger" * 1000})

    seen = publish(other, source=(BASE, base))

    assert stored(hub) - before == 8000
    assert seen["present"] == seen["bytes"] - 8000
    assert published(hub) == content_of(other)


def other_region(hub: LoopbackHub) -> None:
    hub.store.repositories["models", BASE].region = "eu"


def no_xet(hub: LoopbackHub) -> None:
    hub.store.repositories["models", BASE].has_xet = False


def refused(hub: LoopbackHub) -> None:
    hub.fail_next("POST", f"/api/models/{BASE}/lfs-files/duplicate", status=403)


def gone(hub: LoopbackHub) -> None:
    del hub.store.repositories["models", BASE]


def gone_in_between(hub: LoopbackHub) -> None:
    hub.fail_next("POST", f"/api/models/{BASE}/paths-info/", status=404, headers={"X-Error-Code": "RepoNotFound"})


def gated(hub: LoopbackHub) -> None:
    hub.store.repositories["models", BASE].is_gated = True


@pytest.mark.parametrize(("obstacle", "says"), [
    (other_region, "Failed to duplicate files"), (no_xet, None), (refused, "403 Forbidden"), (gone, "404 Client Error"),
    (gone_in_between, "404 Client Error"), (gated, "403 Client Error")])
def test_what_the_hub_does_not_copy_is_uploaded_in_the_same_single_commit(hub, publish, base, edited, obstacle, says):
    obstacle(hub)
    seen = publish(edited, source=(BASE, base), yes=True)

    assert published(hub) == content_of(edited)
    assert len(hub.seen("POST", f"{REPO}/commit/main")) == 1
    assert (seen["copied"], stored(hub)) == (0, 56_000)
    assert says is None or (f"the Hub copies nothing from {BASE} ({says}" in seen["said"][0]
                            and seen["said"][0].endswith("files are uploaded"))


def test_an_interrupted_push_sends_only_what_is_not_stored_yet(hub, publish, tmp_path):
    shards = {f"model-0000{i}-of-00003.safetensors": bytes([i]) * 9 * MIB for i in (1, 2, 3)}
    large = write_result(tmp_path / "large", shards)
    # Two shards arrive; then the connection breaks until the client gives up, as when the process is killed there.
    hub.fail_next("POST", "/info/lfs/objects/batch", status=401, skip=2)

    broken = publish(large)
    assert broken["error"] == "PushRejected"
    assert stored(hub) == 18 * MIB
    assert published(hub) == {}, "never a half state"

    seen = publish(large)
    assert stored(hub) == 27 * MIB
    assert seen["sent"] < 9.1 * MIB
    assert published(hub) == content_of(large)


def test_a_patch_asks_the_base_for_nothing(hub, publish, base, tmp_path):
    patch = write_result(tmp_path / "patch", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"rows"})
    publish(patch, form="patch", source=(BASE, base))

    assert hub.seen("GET", f"/api/models/{BASE}/tree") == []
    assert json.loads(hub.read(f"{REPO}-patch", "adapter_config.json")) == {}
