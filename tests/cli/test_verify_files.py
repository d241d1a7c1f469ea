"""`ember-hub verify-files` as a user types it: what differs, by hash, and an exit code for machines."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ember_hub.progress import Quiet
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.rewrite import CopyOf, Rows, rewrite
from tests.toy_run import ember_hub

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def edited(sharded_llama_folder: Path, tmp_path: Path) -> Path:
    """A sharded model with two other rows and one tensor more."""
    base = Checkpoint.open(sharded_llama_folder)
    rows = Rows(torch.tensor([5, 9]), torch.ones(2, base.info(EMBEDDING).shape[1]))
    rewrite(base, tmp_path / "edited", {EMBEDDING: rows, "spare.weight": CopyOf("model.norm.weight")}, Quiet())
    return tmp_path / "edited"


def test_every_tensor_is_told_with_its_hash_and_every_file_with_its_fate(edited: Path, sharded_llama_folder: Path) -> None:
    done = ember_hub("verify-files", str(edited), "--base", str(sharded_llama_folder), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    base = Checkpoint.open(sharded_llama_folder)
    assert found["counts"] == {"identical": len(base.tensors) - 1, "changed": 1, "added": 1, "removed": 0}
    told = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert {told[EMBEDDING]["status"], told["spare.weight"]["status"]} == {"changed", "added"}
    assert told["spare.weight"]["base"] is None
    for file in base.files:
        for name, tensor in load_file(file.path).items():
            assert told[name]["base"]["sha256"] == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            assert (told[name]["base"] == told[name]["edited"]) == (name != EMBEDDING)
    for file in found["files"]:
        assert (file["status"] == "identical") == ((edited / file["name"]).read_bytes()
                                                   == (sharded_llama_folder / file["name"]).read_bytes())


def test_what_was_not_expected_to_differ_makes_the_exit_code_3(edited: Path, sharded_llama_folder: Path) -> None:
    words = ("verify-files", str(edited), "--base", str(sharded_llama_folder), "--expect", EMBEDDING)
    done = ember_hub(*words)
    assert done.returncode == 3
    assert done.stdout.splitlines()[0] == f"changed    {EMBEDDING}  F32 [768, 48]"
    assert "1 changed, 1 added, 0 removed" in done.stdout.splitlines()[-1]
    assert "spare.weight" in done.stderr
    assert "--expect" in done.stderr
    assert ember_hub(*words, "--expect", "spare.weight").returncode == 0


@pytest.mark.parametrize(("words", "says"), [
    (("missing", "--base", "."), "not there"),
    (("pyproject.toml", "--base", "."), "a file"),
    ((".",), "--base"),
])
def test_what_is_no_folder_is_a_usage_error(words: tuple[str, ...], says: str) -> None:
    done = ember_hub("verify-files", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "Hint: " in done.stderr


def test_a_name_that_neither_has_is_a_usage_error_before_anything_is_read(edited: Path, sharded_llama_folder: Path) -> None:
    done = ember_hub("verify-files", str(edited), "--base", str(sharded_llama_folder), "--expect", "model.ghost.weight")
    assert done.returncode == 2
    assert "model.ghost.weight" in done.stderr
    assert done.stdout == ""


def test_it_starts_without_heavy_libraries(edited: Path, sharded_llama_folder: Path) -> None:
    script = ("import sys; from ember_hub.cli.main import cli\n"
              f"cli.main(['verify-files', {str(edited)!r}, '--base', {str(sharded_llama_folder)!r}], standalone_mode=False)\n"
              "heavy = {'torch', 'transformers', 'huggingface_hub', 'pydantic', 'safetensors'} & set(sys.modules)\n"
              "assert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
