"""How a user names a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ember_hub.errors import ModelNotFound
from ember_hub.source.ref import ModelRef


@pytest.mark.parametrize(("text", "location", "revision"), [
    ("org/name", "org/name", None),
    ("gpt2", "gpt2", None),
    ("org/name@main", "org/name", "main"),
    ("org/name.v1_b-2@0123abc", "org/name.v1_b-2", "0123abc"),
    (" org/name@refs/pr/1 ", "org/name", "refs/pr/1"),
])
def test_a_repository_may_name_its_revision(text: str, location: str, revision: str | None) -> None:
    assert ModelRef.parse(text) == ModelRef("hub", location, revision)


def test_what_lies_on_disk_is_taken_before_a_repository_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "Tiny Model.Q4.gguf").touch()
    assert ModelRef.parse(str(tmp_path / "model")) == ModelRef("folder", str(tmp_path / "model"))
    assert ModelRef.parse(str(tmp_path / "Tiny Model.Q4.gguf")).kind == "gguf"


def test_the_name_is_safe_for_folders_and_tells_no_private_path(tmp_path: Path) -> None:
    (tmp_path / "my model!").mkdir()
    (tmp_path / "Tiny Model.Q4.gguf").touch()
    assert ModelRef.parse("org/name@main").name == "name"
    assert ModelRef.parse(str(tmp_path / "my model!")).name == "my-model"
    assert ModelRef.parse(str(tmp_path / "Tiny Model.Q4.gguf")).name == "Tiny-Model.Q4"
    assert ModelRef("folder", "/").name == "model"


@pytest.mark.parametrize("text", ["./org/name", "~/nowhere", "/nowhere", "nowhere.gguf", "a/b/c", "a\\b"])
def test_a_path_where_nothing_is_is_not_looked_for_on_the_hub(text: str) -> None:
    with pytest.raises(ModelNotFound, match="does not exist") as caught:
        ModelRef.parse(text)
    assert "check the path" in caught.value.hint


@pytest.mark.parametrize("text", ["", "@main", "org/name@", "org/", "a b", "org/na--me", "org/name@../x",
                                  "org/name.git"])
def test_what_cannot_be_a_name_is_refused_with_the_ways_to_name_one(text: str) -> None:
    with pytest.raises(ModelNotFound, match="names no model") as caught:
        ModelRef.parse(text)
    assert "org/name@revision" in caught.value.hint


def test_a_single_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFound, match=r"not a \.gguf file") as caught:
        ModelRef.parse(str(tmp_path / "model.safetensors"))
    assert "the folder it is in" in caught.value.hint


def test_reading_a_name_loads_no_heavy_library() -> None:
    code = ("import sys, ember_hub.source.ref; "
            "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
