"""Parts of one remote file, from a Hub that does everything wrong that one can."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from hashlib import sha256
from pathlib import Path
from time import time

import pytest

from ember_hub.errors import CorruptCheckpoint, EmberHubError, NoRangedReads, SourceError
from ember_hub.source.ref import ModelRef
from ember_hub.source.remote_connection import Connection, Traffic
from ember_hub.source.remote_file import RemoteFile
from tests.hub.calls import Reply
from tests.hub.conftest import hub  # noqa: F401  (fixture)
from tests.hub.server import LoopbackHub
from tests.source.remote_models import connection_to

CONTENT = bytes(range(256)) * 1024
FILE = r"\.bin|/-/storage/"


@pytest.fixture
def open_file(hub: LoopbackHub, tmp_path: Path) -> Callable[..., RemoteFile]:  # noqa: F811
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "numbers.bin").write_bytes(CONTENT)

    def find(connection: Connection | None = None) -> RemoteFile:
        sha = hub.add_repo("lab/numbers", tmp_path / "model")
        file = RemoteFile.find(ModelRef("hub", "lab/numbers", sha), "numbers.bin", connection or connection_to(hub), Traffic())
        assert file is not None
        return file
    return find


def test_a_part_is_what_lies_there(hub, open_file) -> None:  # noqa: F811
    file = open_file()
    assert (file.size, file.etag) == (len(CONTENT), sha256(CONTENT).hexdigest())
    assert file.read(1000, 5000) == CONTENT[1000:5000]
    assert file.read(0, len(CONTENT)) == CONTENT
    assert file.read_whole() == CONTENT


def test_a_file_that_is_not_there_is_none(hub, open_file) -> None:  # noqa: F811
    open_file()
    sha = hub.store.repositories["models", "lab/numbers"].head.oid
    assert RemoteFile.find(ModelRef("hub", "lab/numbers", sha), "other.bin", connection_to(hub), Traffic()) is None


def test_the_storage_never_sees_the_token(hub, open_file) -> None:  # noqa: F811
    hub.redirects_large_files = True
    open_file().read(10, 20)
    assert [(request.method, request.token) for request in hub.requests] == [("HEAD", "hf_test"), ("GET", None)]


@pytest.mark.parametrize("break_it", [
    lambda it: it.drop_next("GET", FILE, times=3),
    lambda it: it.drop_next("GET", FILE, after_bytes=70_000, times=3),
    lambda it: it.fail_next("GET", FILE, status=503, times=2),
    lambda it: it.fail_next("GET", FILE, status=429, headers={"Retry-After": "0"}, times=5),
    lambda it: it.fail_next("GET", FILE, status=429, headers={"Retry-After": formatdate(time() - 5, usegmt=True)}),
    lambda it: it.fail_next("GET", FILE, status=429, headers={"RateLimit": '"resolvers";r=0;t=0'}),
    lambda it: it.expire_addresses(),
    lambda it: (it.expire_addresses(), it.fail_next("HEAD", FILE, status=500)),
], ids=["dropped", "dropped in the middle", "503", "Retry-After", "Retry-After with a date", "RateLimit", "address expired",
        "address expired, Hub busy"])
def test_a_passing_failure_is_tried_again(hub, open_file, break_it: Callable[[LoopbackHub], object]) -> None:  # noqa: F811
    hub.redirects_large_files = True
    file = open_file()
    break_it(hub)
    assert file.read(0, 200_000) == CONTENT[:200_000]


def test_a_part_that_broke_off_goes_on_after_what_came(hub, open_file) -> None:  # noqa: F811
    file = open_file()
    hub.drop_next("GET", FILE, after_bytes=100_000)
    assert file.read(0, 200_000) == CONTENT[:200_000]
    first, second = hub.seen("GET", FILE)
    assert first.range == "bytes=0-199999"
    assert 0 < int(second.range[6:].split("-")[0]) <= 100_000


def test_an_address_that_expired_is_asked_for_once_by_all(hub, open_file) -> None:  # noqa: F811
    hub.redirects_large_files = True
    file = open_file()
    hub.expire_addresses()
    threads = [threading.Thread(target=file.read, args=(0, 1000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.seen("HEAD", FILE)) == 2


def test_failures_that_stay_are_told_and_not_tried_for_ever(hub, open_file) -> None:  # noqa: F811
    file = open_file(connection_to(hub, tries=3))
    hub.fail_next("GET", FILE, status=500, times=99)
    with pytest.raises(SourceError, match="the server answers 500") as caught:
        file.read(0, 10)
    assert "same command again" in caught.value.hint
    assert len(hub.seen("GET", FILE)) == 3


def test_a_server_that_wants_a_long_pause_is_left_alone(hub, open_file) -> None:  # noqa: F811
    file = open_file()
    hub.fail_next("GET", FILE, status=429, headers={"Retry-After": "7200"})
    with pytest.raises(SourceError, match="7,200 s") as caught:
        file.read(0, 10)
    assert "wait" in caught.value.hint


def test_a_reader_that_was_stopped_does_not_wait(hub, open_file) -> None:  # noqa: F811
    file, stopped = open_file(), threading.Event()
    stopped.set()
    hub.fail_next("GET", FILE, status=429, headers={"Retry-After": "600"})
    with pytest.raises(SourceError):
        file.read(0, 10, stopped)


def changed(**headers: str) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, headers={**reply.headers, **headers})


@pytest.mark.parametrize(("change", "error", "match"), [
    (lambda reply: replace(reply, status=200), NoRangedReads, "answers 200"),
    (lambda reply: replace(reply, status=416), NoRangedReads, "answers 416"),
    (changed(**{"Content-Range": f"bytes 0-99/{len(CONTENT)}"}), NoRangedReads, "for bytes 100-199"),
    (changed(**{"Content-Range": "rows 1-2"}), NoRangedReads, "for bytes 100-199"),
    (lambda reply: replace(reply, length=reply.length + 9), NoRangedReads, "more than was asked for"),
    (changed(**{"Content-Range": "bytes 100-199/12345"}), CorruptCheckpoint, "changed while it was read: it has 12,345 bytes"),
    (changed(**{"X-Repo-Commit": "0" * 40}), CorruptCheckpoint, "changed while it was read: the server answers for commit 000"),
], ids=["the whole", "416", "another part", "no part", "too much", "another size", "another commit"])
def test_an_answer_that_is_not_the_part_is_refused(hub, open_file, change: Callable[[Reply], Reply],  # noqa: F811
                                                  error: type[EmberHubError], match: str) -> None:
    file = open_file()
    hub.change_next("GET", FILE, change)
    with pytest.raises(error, match=match) as caught:
        file.read(100, 200)
    assert ("hf download lab/numbers" if error is NoRangedReads else "same command again") in caught.value.hint
    assert len(hub.seen("GET", FILE)) == 1


def test_a_part_that_is_too_short_is_completed(hub, open_file) -> None:  # noqa: F811
    file = open_file()
    hub.change_next("GET", FILE, lambda reply: replace(reply, length=reply.length - 30))
    assert file.read(100, 200) == CONTENT[100:200]
    assert [request.range for request in hub.seen("GET", FILE)] == ["bytes=100-199", "bytes=170-199"]


def test_a_storage_that_gives_another_version_is_found_out(hub, open_file) -> None:  # noqa: F811
    hub.redirects_large_files = True
    file = open_file()
    file.read(0, 10)
    hub.change_next("GET", FILE, changed(ETag='"another"'))
    with pytest.raises(CorruptCheckpoint, match="calls it another now"):
        file.read(10, 20)


def test_a_new_address_for_another_version_is_found_out(hub, open_file) -> None:  # noqa: F811
    hub.redirects_large_files = True
    file = open_file()
    hub.expire_addresses()
    hub.change_next("HEAD", FILE, changed(**{"X-Linked-Etag": '"another"'}))
    with pytest.raises(CorruptCheckpoint, match="is another now"):
        file.read(0, 10)


@pytest.mark.parametrize(("change", "error", "match"), [
    (changed(**{"X-Repo-Commit": "0" * 40}), CorruptCheckpoint, "for commit 000"),
    (lambda reply: replace(reply, status=302, headers={**reply.headers, "Location": "http://["}), SourceError, "no usable address"),
], ids=["another commit", "an address that is none"])
def test_a_hub_that_answers_wrongly_about_a_file_is_refused(hub, open_file, change: Callable[[Reply], Reply],  # noqa: F811
                                                            error: type[EmberHubError], match: str) -> None:
    hub.change_next("HEAD", FILE, change)
    with pytest.raises(error, match=match) as caught:
        open_file().read(0, 10)
    assert caught.value.hint
