"""A patch folder is read with distrust: what contradicts itself is refused in one line, and nothing is allocated for it."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ember_hub.errors import EmberHubError
from ember_hub.patches.apply import apply
from ember_hub.patches.convert import to_lora_embed
from ember_hub.patches.folder import FILES, PATCH_FILE, save
from ember_hub.patches.patch import Patch
from ember_hub.patches.storage import RawTensor, write_tensors
from ember_hub.progress import Quiet

ROOM = 2**18
"""What the interpreter takes beside the bytes of a patch: the JSON as objects, messages, traces."""
SCALARS = st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
                        max_leaves=4)


def said(**changes: Any) -> Callable[[Path], None]:
    """A damage: other entries in ember_patch.json."""
    def damage(folder: Path) -> None:
        content = json.loads((folder / PATCH_FILE).read_text())
        (folder / PATCH_FILE).write_text(json.dumps(content | changes))
    return damage


def rewritten(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A damage: other tensors in one of the files, the rest of the patch unchanged."""
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, metadata={"format": "pt"})
    return damage


def first_row(value: float) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: next(iter(tensors.values()))[0].fill_(value)


def cut_short(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def claims_a_large_header(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes((20 * 10**9).to_bytes(8, "little") + path.read_bytes()[8:])


DAMAGES: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "an id beyond the vocabulary": (said(token_ids=[5, 768]), "ids 0 to 767; out of range: 768"),
    "a negative id": (said(token_ids=[-1, 5]), "out of range: -1"),
    "an id twice": (said(token_ids=[5] * 36), "other tokens than it says|other tokens|undoes another"),
    "an id that is no number": (said(token_ids=[5, "seven"]), "no whole number: 'seven'"),
    "an id that is a fraction": (said(token_ids=[5.0]), "no whole number: 5.0"),
    "an impossible vocabulary": (said(vocab=10**15), "'vocab'"),
    "no head that is text": (said(head=7), "'head'"),
    "text that cannot be shown": (said(tensor="\x1b[2J\ud800"), "'tensor'"),
    "another schema": (said(schema=2), "schema 2"),
    "another type": (said(dtype="float8"), "'dtype'"),
    "another hash": (said(new_rows_sha256="0" * 64), "undoes another patch|hash differs"),
    "rows that are not numbers": (rewritten("adapter_model.safetensors", first_row(np.nan)), r"tokens \[5\] hold values"),
    "other rows": (rewritten("adapter_model.safetensors", first_row(1.0)), "hash differs"),
    "other original rows": (rewritten("undo.safetensors", lambda tensors: tensors["rows"].fill_(1.0)), "undo"),
    "rows of another width": (rewritten("adapter_model.safetensors", lambda tensors: tensors.update(
        {name: rows[:, :-1].contiguous() for name, rows in tensors.items()})), r"expected F32 \[36, 48\]"),
    "a file cut short": (cut_short, "should have"),
    "a header of 20 GB": (claims_a_large_header, "header of 20,000,000,000 bytes"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no file"),
    "no description": (lambda folder: (folder / PATCH_FILE).unlink(), "is no patch"),
    "an empty description": (lambda folder: (folder / PATCH_FILE).write_text("[]"), "not an object"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_patch_is_refused_before_anything_is_written(damage: str, damaged: Callable[[str], Path], bases: dict[str, Path],
                                                              tmp_path: Path) -> None:
    harm, says = DAMAGES[damage]
    folder = damaged("untied")
    harm(folder)
    with pytest.raises(EmberHubError, match=says) as refused:
        apply(Patch.open(folder), bases["untied"], tmp_path / "out", Quiet())
    assert refused.value.hint
    assert "\n" not in refused.value.message
    assert not (tmp_path / "out").exists()


def test_files_are_those_that_the_library_writes(patches: dict[str, Path], tmp_path: Path) -> None:
    """Written by hand, but byte for byte what safetensors makes of the same tensors."""
    for kind in ("untied", "tied-bf16"):
        path = patches[kind] / "adapter_model.safetensors"
        save_file(load_file(path), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
        assert (tmp_path / "theirs.safetensors").read_bytes() == path.read_bytes()
    wide = {"b": RawTensor("I64", (1,), np.array([3])), "a": RawTensor("BF16", (2, 1), np.zeros(4, np.uint8))}
    write_tensors(tmp_path / "ours.safetensors", wide, {"format": "pt"})
    save_file(load_file(tmp_path / "ours.safetensors"), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "theirs.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()


def test_a_patch_is_read_through_a_link(patches: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(patches["tied"], target_is_directory=True)
    assert Patch.open(tmp_path / "link").new_sha256 == Patch.open(patches["tied"]).new_sha256


@pytest.fixture(scope="module")
def victims(patches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    place = tmp_path_factory.mktemp("victims")
    save(to_lora_embed(Patch.open(patches["tied"])).patch, place / "lora", companions_of=patches["tied"])
    return patches["untied"], patches["tied-bf16"], place / "lora"


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_leads_to_anything_but_an_error_with_a_hint(data: st.DataObject, victims: tuple[Path, ...],
                                                            tmp_path_factory: pytest.TempPathFactory) -> None:
    victim = data.draw(st.sampled_from(victims))
    folder = tmp_path_factory.mktemp("fuzz") / "patch"
    folder.mkdir()
    names = [name for name in FILES if (victim / name).exists()]
    for name in names:
        shutil.copyfile(victim / name, folder / name)
    path = folder / data.draw(st.sampled_from(names))
    harm(path, data)
    size = sum(file.stat().st_size for file in folder.iterdir())
    tracemalloc.start()
    try:
        told = str(len(Patch.open(folder)))
    except EmberHubError as error:
        told = f"{error.message}, {error.hint}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert told == "36" or len(told.encode().splitlines()) == 1
    assert peak < size + ROOM


def harm(path: Path, data: st.DataObject) -> None:
    """One bit flipped, the end cut off, bytes put in, or for JSON another value somewhere."""
    content = path.read_bytes()
    kinds = ["flip", "cut", "insert"] + (["value", "value"] if path.suffix == ".json" else ["length"])
    kind = data.draw(st.sampled_from(kinds))
    at = data.draw(st.integers(0, min(len(content) - 1, 4000)))
    if kind == "value":
        told = json.loads(content)
        place = told["base"] if "base" in told and data.draw(st.booleans()) else told
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ANYTHING)
        content = json.dumps(told).encode()
    elif kind == "length":
        content = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + content[8:]
    elif kind == "flip":
        content = content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1:]
    elif kind == "cut":
        content = content[:at]
    else:
        content = content[:at] + data.draw(st.binary(min_size=1, max_size=9)) + content[at:]
    path.write_bytes(content)
