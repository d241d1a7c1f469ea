"""What is kept of remote files, and what of it is believed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from ember_hub.errors import DiskError
from ember_hub.source.remote_cache import KeptParts

CONTENT = bytes(range(200))


@pytest.fixture
def kept(tmp_path: Path) -> KeptParts:
    return KeptParts(tmp_path / "parts" / "data", len(CONTENT))


def taken(kept: KeptParts, *starts: int, length: int = 10) -> list[bytes | None]:
    out = np.zeros((len(starts), length), dtype=np.uint8)
    found = kept.take(np.array(starts, dtype=np.int64), out)
    return [row.tobytes() if there else None for row, there in zip(out, found, strict=True)]


def test_slices_come_back_from_inside_the_parts_that_were_kept(kept: KeptParts) -> None:
    assert taken(kept, 0) == [None]
    kept.keep(20, CONTENT[20:60])
    kept.keep(100, CONTENT[100:110])
    assert taken(kept, 10, 20, 45, 50, 51, 100) == [None, CONTENT[20:30], CONTENT[45:55], CONTENT[50:60], None, CONTENT[100:110]]


def test_two_readers_of_one_file_keep_for_each_other(kept: KeptParts, tmp_path: Path) -> None:
    other = KeptParts(tmp_path / "parts" / "data", len(CONTENT))
    kept.keep(0, CONTENT[:30])
    other.keep(10, CONTENT[10:50])
    assert taken(kept, 0, 40) == taken(other, 0, 40) == [CONTENT[:10], CONTENT[40:50]]


@pytest.mark.parametrize("line", ["", "0 10", "0 10 zz", "10 0 " + "0" * 64, "0 999999999999 " + "0" * 64, "-1 5 x",
                                  "0 10 " + "0" * 64, "\N{SNOWMAN} 1 2"])
def test_a_journal_that_was_torn_or_lies_is_not_believed(kept: KeptParts, tmp_path: Path, line: str) -> None:
    kept.keep(50, CONTENT[50:70])
    journal = tmp_path / "parts" / "data.journal"
    journal.write_bytes(line.encode() + b"\n" + journal.read_bytes() + line.encode())
    assert taken(kept, 0, 50) == [None, CONTENT[50:60]]


@pytest.mark.parametrize("size", [0, 55, 69])
def test_bytes_that_are_gone_are_not_believed(kept: KeptParts, tmp_path: Path, size: int) -> None:
    kept.keep(50, CONTENT[50:70])
    with (tmp_path / "parts" / "data").open("r+b") as file:
        file.truncate(size)
    assert taken(kept, 50) == [None]
    kept.keep(50, CONTENT[50:70])
    assert taken(kept, 50) == [CONTENT[50:60]], "kept anew"


def test_the_cache_takes_no_more_disk_than_was_kept(kept: KeptParts, tmp_path: Path) -> None:
    far = KeptParts(tmp_path / "parts" / "data", 10**12)
    far.keep(10**11, CONTENT)
    assert (tmp_path / "parts" / "data").stat().st_blocks * 512 < 10**6


def test_room_is_asked_for_before_anything_is_fetched(kept: KeptParts) -> None:
    with pytest.raises(DiskError, match="GB free") as caught:
        kept.require_room(10**18)
    assert "EMBER_HUB_CACHE" in caught.value.hint


def test_what_was_unused_longest_makes_room_and_nothing_else_does(tmp_path: Path) -> None:
    files = {name: KeptParts(tmp_path / name / "data", 1 << 16, limit=5 << 16) for name in ("old", "read", "new", "mine")}
    (tmp_path / "not-ours").mkdir()
    for age, (name, kept) in zip((9, 8, 0, 7), files.items(), strict=True):
        kept.keep(0, bytes(1 << 16))
        os.utime(tmp_path / name / "data.journal", (time.time() - age * 3600,) * 2)
    assert taken(files["read"], 0) == [bytes(10)]
    files["mine"].require_room(1 << 16)
    left = {name for name in files if (tmp_path / name).exists()}
    assert left == {"read", "new", "mine"}, "the journals take a block each, so one file had to go"
    files["mine"].require_room(5 << 16)
    assert {path.name for path in tmp_path.iterdir()} == {"read", "new", "mine", "not-ours"}, "what is in use stays"
    assert taken(files["old"], 0) == [None]


def test_no_name_from_the_hub_leads_out_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable is the documented way to place the cache; nothing of the code is replaced.
    monkeypatch.setenv("EMBER_HUB_CACHE", str(tmp_path))
    for name in ("../../../etc/passwd", "a/..", "", "x" * 999, "\0/\n"):
        KeptParts.of(name, 10, "commit").keep(0, b"0123456789")
    assert len(list((tmp_path / "parts").glob("*/data"))) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"parts"}
