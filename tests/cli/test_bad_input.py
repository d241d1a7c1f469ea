"""What a user gets wrong: one line that says what, one that says what to do, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ember_hub.run import Run
from tests.toy_run import Toy, ember_hub


def assert_refused(*words: str, code: int, says: str, hint: str = "") -> None:
    done = ember_hub(*words)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[-2].startswith("Error: ")
    assert says in lines[-2]
    assert lines[-1].startswith("Hint: ")
    assert hint in lines[-1]
    assert done.stdout == ""


@pytest.fixture
def broken(toy: Toy, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(toy.model, tmp_path / "broken"))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def scramble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def lose_a_shard(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")
             | {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def poison(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][7, 3] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("damage", "says"), [(truncate, "model.safetensors"), (scramble, "model.safetensors"),
                                              (lose_a_shard, "model-00002-of-00002"), (poison, "embed_tokens")])
def test_a_damaged_checkpoint_is_refused(broken: Path, toy: Toy, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(broken)
    assert_refused("erase", str(broken), "--concept", str(toy.pack), "--output", str(tmp_path / "runs"), code=1, says=says)
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_an_unknown_concept_offers_the_nearest_names(toy: Toy) -> None:
    assert_refused("erase", str(toy.model), "--concept", "hary poter", code=2, says="hary poter", hint="harry-potter")


@pytest.mark.parametrize("model", ["./no/such/folder", "missing.gguf"])
def test_a_path_that_is_no_model_is_refused(model: str) -> None:
    assert_refused("erase", model, "--concept", "covid", code=1, says=Path(model).name)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert_refused("erase", str(tmp_path), "--concept", "covid", code=1, says=str(tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    assert_refused("erase", str(tmp_path / "model.gguf"), "--concept", "covid", code=1, says="model.gguf")


def test_a_pack_that_cannot_be_measured_with_is_refused(toy: Toy, tmp_path: Path) -> None:
    pack = Path(shutil.copytree(toy.pack, tmp_path / "pack"))
    lines = (pack / "questions.jsonl").read_text().splitlines()
    (pack / "questions.jsonl").write_text("\n".join([*lines, lines[1].replace('"test"', '"tune"').replace("c0b", "c9b")]) + "\n")
    assert_refused("erase", str(toy.model), "--concept", str(pack), code=1, says="also in the test split", hint="concepts check")
    assert_refused("concepts", "check", str(toy.pack / "nowhere"), code=2, says="nowhere", hint="concepts list")


def test_a_vocabulary_without_tokens_of_the_concept_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    assert_refused("erase", str(llama_folder), "--concept", "harry-potter", "--output", str(tmp_path), code=1, says="concept")


@pytest.mark.parametrize(("words", "says", "hint"), [
    (["--set", "rmu.step=3"], "step", "rmu.steps"),
    (["--set", "ember.sede=3"], "sede", "ember.seeds"),
    (["--set", "nonsense"], "nonsense", "section.key=value"),
    (["--method", "rmuu"], "rmuu", "rmu"),
    (["--fail-under", "efficiency=1"], "efficiency", "efficacy"),
    (["--no-ember", "--method", "none"], "nothing to do", "method"),
    (["--as", "everything"], "everything", "--help"),
    (["--config", "missing.toml"], "missing.toml", "--config"),
    (["--push"], "no name on the Hub", "--base-id"),
    (["--device", "gpu7"], "gpu7", "cpu"),
])
def test_a_wrong_word_on_the_command_line_is_a_usage_error(toy: Toy, words: list[str], says: str, hint: str) -> None:
    assert_refused("erase", str(toy.model), "--concept", str(toy.pack), *words, code=2, says=says, hint=hint)


def test_an_output_that_cannot_be_written_is_refused(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(*toy.erase(tmp_path / "file" / "runs"), code=1, says="file", hint="--output")


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(toy: Toy, tmp_path: Path) -> None:
    import subprocess
    import sys

    words = [sys.executable, "-m", "ember_hub.cli", *toy.erase(tmp_path), "--method", "none"]
    # No file may grow beyond 200 KB: what a full disk looks like to a program that writes a model.
    done = subprocess.run(["bash", "-c", 'ulimit -f 200; trap "" XFSZ; exec "$@"', "bash", *words], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Hint: ")
    (folder,) = (tmp_path / "toy-model--toy-inventors").iterdir()
    assert (folder / "stages/before.json").is_file()
    assert not (folder / "out/model").exists()
    assert not list(folder.rglob("*.partial-*"))


def test_two_runs_on_one_folder_are_told_apart(toy: Toy, tmp_path: Path) -> None:
    first = ember_hub(*toy.erase(tmp_path), "--method", "none", "--set", "ember.strengths=[]")
    (folder,) = (tmp_path / "toy-model--toy-inventors").iterdir()
    assert "Traceback" not in first.stderr
    with Run.open(folder, {}):
        assert_refused(*toy.erase(tmp_path), "--method", "none", "--set", "ember.strengths=[]", code=1, says="another process",
                hint="--output")
