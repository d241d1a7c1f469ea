"""From a folder or a GGUF file to a pinned base; repositories are in tests/hub."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ember_hub.errors import CorruptCheckpoint, DiskError, ModelNotFound, UnsupportedModel
from ember_hub.source.load import load
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import Licence, fingerprint, read_licence, resolve
from tests.models import pico_gguf, pico_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The variable is the documented way to place the cache; nothing of the code is replaced.
    monkeypatch.setenv("EMBER_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_gguf(tmp_path_factory.mktemp("gguf") / "Pico Llama.F32.gguf")


def test_a_folder_is_its_own_base(llama_folder: Path) -> None:
    base = resolve(ModelRef.parse(str(llama_folder)), base_id="org/pico")
    assert (base.name, base.repo_id, base.folder) == ("pico-llama", "org/pico", llama_folder)
    assert base.commit == fingerprint(llama_folder)
    assert (base.licence, base.gated, base.source_kind) == (Licence("unknown"), False, "folder")


def test_the_fingerprint_tells_checkpoints_apart_but_not_their_places(llama_folder: Path, tied_llama_folder: Path,
                                                                     sharded_llama_folder: Path,
                                                                     tmp_path: Path) -> None:
    copy = shutil.copytree(llama_folder, tmp_path / "copy")
    (copy / "README.md").write_text("a card says nothing about weights")
    assert fingerprint(copy) == fingerprint(llama_folder)
    assert len({fingerprint(f) for f in (llama_folder, tied_llama_folder, sharded_llama_folder)}) == 3


@pytest.mark.parametrize(("card", "expected"), [
    ("---\nlicense: apache-2.0\n---\n# A model", Licence("apache-2.0", files=("LICENSE.txt", "USE_POLICY.md"))),
    ("---\nlicense: other\nlicense_name: gemma\nlicense_link: https://ai.google.dev/gemma/terms\n---\n",
     Licence("other", "gemma", "https://ai.google.dev/gemma/terms", ("LICENSE.txt", "USE_POLICY.md"))),
    ("---\nlicense: [mit, apache-2.0]\n---\n", Licence("mit, apache-2.0", files=("LICENSE.txt", "USE_POLICY.md"))),
    ("---\nlicense: [unclosed\n---\n", Licence("unknown", files=("LICENSE.txt", "USE_POLICY.md"))),
    ("# A model without metadata", Licence("unknown", files=("LICENSE.txt", "USE_POLICY.md"))),
])
def test_the_licence_is_what_the_card_states_and_never_assumed(tmp_path: Path, card: str, expected: Licence) -> None:
    for name in ("LICENSE.txt", "USE_POLICY.md", "config.json", "vocabulary.txt"):
        (tmp_path / name).touch()
    (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path) == expected


def test_a_card_that_describes_a_gate_makes_the_base_gated(llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: gemma\nextra_gated_heading: Access Gemma\n---\n")
    assert resolve(ModelRef.parse(str(folder))).gated


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda folder: (folder / "config.json").unlink(), ModelNotFound, "no config.json"),
    (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), UnsupportedModel, ".bin"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), CorruptCheckpoint, "model.safetensors"),
], ids=["no config", "pickle", "not safetensors"])
def test_a_folder_that_is_no_checkpoint_is_refused(llama_folder: Path, tmp_path: Path,
                                                 make: Callable[[Path], object], error: type, match: str) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    make(folder)
    with pytest.raises(error, match=match) as caught:
        resolve(ModelRef.parse(str(folder)))
    assert caught.value.hint


def test_the_id_of_a_copied_repository_must_be_one(llama_folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="not the id") as caught:
        resolve(ModelRef.parse(str(llama_folder)), base_id="../pico")
    assert "org/name" in caught.value.hint


def test_a_gguf_file_becomes_a_plain_checkpoint_with_its_tokenizer_and_licence(gguf_file: Path, cache: Path) -> None:
    base = resolve(ModelRef.parse(str(gguf_file)))
    assert (base.name, base.source_kind, base.licence.id) == ("Pico-Llama.F32", "gguf", "apache-2.0")
    assert base.folder == cache / base.commit[:16]
    loaded = load(base.folder)
    assert (loaded.anatomy.n_layers, loaded.anatomy.d_model, loaded.anatomy.is_tied) == (2, 32, True)
    assert {str(t.dtype) for t in load_file(base.folder / "model.safetensors").values()} == {"torch.bfloat16"}
    text = "The vaccine spread"
    assert loaded.tokenizer(text).input_ids == pico_tokenizer(vocab=512)(text).input_ids
    assert loaded.tokenizer.chat_template


def test_a_converted_folder_tells_no_names_and_can_be_read_by_all(gguf_file: Path, cache: Path) -> None:
    folder = resolve(ModelRef.parse(str(gguf_file))).folder
    config = json.loads((folder / "config.json").read_text())
    assert "A Private Name" not in (folder / "config.json").read_text()
    assert "quantization_config" not in config
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_gguf_file_is_converted_once(gguf_file: Path, cache: Path) -> None:
    first = resolve(ModelRef.parse(str(gguf_file))).folder
    (first / "mark").touch()
    assert (resolve(ModelRef.parse(str(gguf_file))).folder / "mark").is_file()


@pytest.mark.parametrize("keep", [0, 4, 300, 20_000, -1000])
def test_a_broken_gguf_file_is_refused_and_leaves_nothing_behind(gguf_file: Path, cache: Path, tmp_path: Path,
                                                               keep: int) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpoint, match="GGUF") as caught:
        resolve(ModelRef.parse(str(broken)))
    assert "download it again" in caught.value.hint
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_made_is_told(gguf_file: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DiskError) as caught:
        resolve(ModelRef.parse(str(gguf_file)))
    assert "EMBER_HUB_CACHE" in caught.value.hint
