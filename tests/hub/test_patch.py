"""Patches that lie on the Hub: read without their weights' base, and held against its newest commit, by the real client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ember_hub.edits import store
from ember_hub.patches.patch import Patch
from ember_hub.publish.patch import make_patch
from ember_hub.source.anatomy import anatomy_of_config
from tests.publish.edits import base_of, ember_edit
from tests.toy_run import ember_hub

from .server import LoopbackHub

BASE, PATCH = "lab/pico", "tester/pico-ember-patch"


@pytest.fixture
def published(hub: LoopbackHub, llama_folder: Path, tmp_path: Path) -> Path:
    """A base and its patch, as folders and on the Hub."""
    hub.add_repo(BASE, llama_folder)
    anatomy, base = anatomy_of_config(llama_folder), base_of(llama_folder, BASE)
    make_patch(base, anatomy, ember_edit(anatomy), tmp_path / "patch")
    hub.add_repo(PATCH, tmp_path / "patch")
    return tmp_path / "patch"


def commit_with(hub: LoopbackHub, folder: Path, place: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """A further commit of the base, in which some tensor is another one."""
    shutil.copytree(folder, place)
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return hub.add_repo(BASE, place)


def test_a_patch_on_the_hub_is_applied_like_one_in_a_folder(hub: LoopbackHub, hub_environment: dict[str, str], published: Path,
                                                           llama_folder: Path, tmp_path: Path) -> None:
    for name, patch in (("from-hub", PATCH), ("from-folder", str(published))):
        done = ember_hub("patch", "apply", patch, "--to", str(llama_folder), "--out", str(tmp_path / name),
                         environment=hub_environment)
        assert done.returncode == 0, done.stderr
    hubs, folders = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("from-hub", "from-folder"))
    assert hubs == folders
    done = ember_hub("patch", "inspect", BASE, environment=hub_environment)
    assert (done.returncode, "holds no patch" in done.stderr, "-patch" in done.stderr) == (1, True, True)
    assert not hub.seen("GET", rf"/{BASE}/resolve/.*\.safetensors"), "no weights were downloaded to look"


def test_make_reads_only_the_rows_of_a_base_on_the_hub(hub: LoopbackHub, hub_environment: dict[str, str], published: Path,
                                                      llama_folder: Path, tmp_path: Path) -> None:
    store.save(ember_edit(anatomy_of_config(llama_folder)), tmp_path / "edit.safetensors")
    done = ember_hub("patch", "make", str(tmp_path / "edit.safetensors"), "--base", BASE, "--out", str(tmp_path / "made"),
                     environment=hub_environment | {"EMBER_HUB_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr
    made, expected = Patch.open(tmp_path / "made"), Patch.open(published)
    assert (made.new_sha256, made.original_sha256, made.base.repo) == (expected.new_sha256, expected.original_sha256, BASE)
    reads = hub.seen("GET", rf"/{BASE}/resolve/.*\.safetensors")
    assert reads
    assert all(read.range for read in reads)


def test_check_says_whether_the_patch_fits_the_newest_commit(hub: LoopbackHub, hub_environment: dict[str, str], published: Path,
                                                            llama_folder: Path, tmp_path: Path) -> None:
    environment = hub_environment | {"EMBER_HUB_CACHE": str(tmp_path / "cache")}
    newer = commit_with(hub, llama_folder, tmp_path / "same", lambda tensors: tensors["model.norm.weight"].add_(1))
    fits = ember_hub("patch", "check", PATCH, environment=environment)
    assert (fits.returncode, fits.stdout.startswith(f"fits     {BASE}@{newer}")) == (0, True), fits.stderr
    assert all(read.range for read in hub.seen("GET", rf"/{BASE}/resolve/.*\.safetensors"))
    drifted = commit_with(hub, llama_folder, tmp_path / "other", lambda tensors: tensors["model.embed_tokens.weight"][300].add_(1))
    done = ember_hub("patch", "check", str(published), "--json", environment=environment)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == {"repo": BASE, "made_for": "0123abcd", "newest": drifted, "fits": False,
                                       "reason": "1 of the 36 rows changed"}
    assert done.stderr.splitlines()[-2].endswith("it must be made again")
    assert "ember-hub erase lab/pico" in done.stderr
