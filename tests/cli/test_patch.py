"""`ember-hub patch` as a user types it: what it prints, what it leaves, and that it starts without the heavy libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ember_hub.cli.patch import patch as command
from ember_hub.edits import store
from ember_hub.errors import PatchInvalid
from ember_hub.patches.patch import Patch
from ember_hub.publish.patch import make_patch
from ember_hub.source.anatomy import anatomy_of_config
from tests.models import pico_llama
from tests.publish.edits import IDS, base_of, ember_edit
from tests.toy_run import ember_hub

TORCH_FREE = """
import sys, json
from ember_hub.cli.main import cli
for words in json.loads(sys.argv[1]):
    cli.main(["patch", *words], standalone_mode=False)
print("HEAVY", sorted({"torch", "transformers", "huggingface_hub", "pydantic", "peft", "scipy"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("base") / "pico")


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "patch"
    make_patch(base_of(base, "org/pico"), anatomy_of_config(base), ember_edit(anatomy_of_config(base)), folder, ["rmu"])
    return folder


def run(*words: object) -> Result:
    """The command in this process; an error of ours is raised."""
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)


def test_every_command_but_make_works_without_a_heavy_library(base: Path, made: Path, tmp_path: Path) -> None:
    words = [["inspect", made, "--tokens"],
             ["apply", made, "--to", base, "--out", tmp_path / "patched", "--undo", tmp_path / "undo"],
             ["revert", made, "--from", tmp_path / "patched", "--out", tmp_path / "back"],
             ["revert", "--undo", tmp_path / "undo", "--from", tmp_path / "patched", "--out", tmp_path / "back-too"],
             ["convert", made, "--to", "lora-embed", "--out", tmp_path / "lora"],
             ["convert", tmp_path / "lora", "--to", "tokens", "--out", tmp_path / "tokens"],
             ["convert", made, "--to", "gguf", "--out", tmp_path / "adapter.gguf"],
             ["merge", made, tmp_path / "tokens", "--out", tmp_path / "merged"]]
    done = subprocess.run([sys.executable, "-c", TORCH_FREE, json.dumps([[str(word) for word in line] for line in words])],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "HEAVY []"
    assert f"applied  36 rows · {tmp_path}/patched" in lines
    assert f"reverted 36 rows · {tmp_path}/back" in lines
    assert any(line.startswith("converted lora-embed of rank 3 · ") for line in lines)
    assert any("36 tokens are moved by more than one: their moves were added" in line for line in lines)
    assert (tmp_path / "back/model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_inspect_tells_people_and_machines_the_same(made: Path) -> None:
    text = run("inspect", made, "--tokens").stdout
    assert "base         org/pico@0123abcd" in text
    assert "embedding    model.embed_tokens.weight · 768 × 48 float32" in text
    assert "not carried  rmu" in text
    about = json.loads(run("inspect", made, "--tokens", "--json").stdout)
    assert (about["rows"], about["rank"], about["can_be_undone"], about["bytes"]) == (36, 3, True, 36 * 48 * 4)
    assert [token["id"] for token in about["tokens"]] == sorted(IDS)
    assert about["tokens"][0]["piece"]
    assert 0 < about["moves"]["least"] <= about["moves"]["median"] <= about["moves"]["most"]


def test_make_takes_an_edit_file_an_edited_checkpoint_and_a_run(base: Path, made: Path, tmp_path: Path) -> None:
    edit = ember_edit(anatomy_of_config(base))
    (tmp_path / "run/edits").mkdir(parents=True)
    (tmp_path / "run/run.toml").write_text('[settings]\nmethods = ["rmu"]\n[model]\nname = "pico"\ncommit = "f00d"\n')
    store.save(edit, tmp_path / "run/edits/0-ember.safetensors")
    run("apply", made, "--to", base, "--out", tmp_path / "edited")
    expected = Patch.open(made)
    for name, words in {"from-file": (tmp_path / "run/edits/0-ember.safetensors", "--base", base),
                        "from-run": (tmp_path / "run", "--base", base),
                        "from-model": (tmp_path / "edited", "--base", base)}.items():
        assert run("make", *words, "--out", tmp_path / name, "--base-id", "org/pico").stdout.startswith("patch    36 rows")
        patch = Patch.open(tmp_path / name)
        assert (patch.new_sha256, patch.original_sha256) == (expected.new_sha256, expected.original_sha256)
        assert patch.base.repo == "org/pico"
    assert Patch.open(tmp_path / "from-run").not_carried["methods"] == ["rmu"]
    assert Patch.open(tmp_path / "from-model").factors is None


def test_a_patch_of_a_folder_has_no_newer_commit(base: Path, tmp_path: Path) -> None:
    anatomy = anatomy_of_config(base)
    make_patch(base_of(base), anatomy, ember_edit(anatomy), tmp_path / "patch")
    with pytest.raises(PatchInvalid, match="made for a folder") as refused:
        run("check", tmp_path / "patch")
    assert "--base-id" in refused.value.hint


def test_what_cannot_be_is_refused_in_two_lines(base: Path, made: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "broken").mkdir()
    shutil.copytree(made, broken, dirs_exist_ok=True)
    (broken / "adapter_model.safetensors").write_bytes(b"\xff" * 99)
    for words, code, says in (
            (("apply", made, "--to", tmp_path / "none", "--out", tmp_path / "out"), 1, "none"),
            (("inspect", tmp_path / "none"), 1, "none"),
            (("apply", broken, "--to", base, "--out", tmp_path / "out"), 1, "announces a header"),
            (("convert", made, "--to", "tokens", "--rank", "3", "--out", tmp_path / "out"), 2, "--rank is for"),
            (("revert", made, "--undo", made, "--from", base, "--out", tmp_path / "out"), 2, "either PATCH"),
            (("merge", made, "--out", tmp_path / "out"), 2, "at least two"),
            (("make", base, "--out", tmp_path / "out"), 2, "--base"),
            (("make", tmp_path / "run", "--out", made), 1, "exists already")):
        done = ember_hub("patch", *map(str, words))
        assert done.returncode == code, (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert says in done.stderr
        assert done.stderr.splitlines()[-1].startswith("Hint: ")
    assert not (tmp_path / "out").exists()
