"""From a folder, a GGUF file or a repository to a pinned base; whole downloads are in tests/hub."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ember_hub.errors import CorruptCheckpoint, DiskError, ModelNotFound, UnsupportedModel
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.load import load
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import Licence, fingerprint, read_licence, resolve
from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)
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


WITHOUT_WEIGHTS = """
import json, sys
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import resolve
from ember_hub.errors import EmberHubError
seen = []
for step in sys.argv[1:]:
    name, _, word = step.partition(" ")
    try:
        base = resolve(ModelRef.parse(name), with_weights=word == "all")
        weights = base.weights()
        anatomy = anatomy_of_config(base.folder, may_be_quantized=True)
        seen.append({"commit": base.commit, "has_weights": base.has_weights, "gated": base.gated,
                     "licence": [base.licence.id, *base.licence.files], "kind": type(weights).__name__,
                     "files": sorted(path.name for path in base.folder.iterdir()),
                     "rows": weights.read_rows(anatomy.embedding, [700, 3]).tolist()})
    except EmberHubError as error:
        seen.append({"error": type(error).__name__, "hint": error.hint})
print(json.dumps(seen))
"""


def test_a_repository_can_be_resolved_without_its_weights(hub, hub_environment: dict[str, str], llama_folder: Path,  # noqa: F811
                                                          sharded_llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded_llama_folder, tmp_path / "sharded")
    (folder / "LICENSE").write_text("Terms")
    (folder / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    first = hub.add_repo("lab/fp8", folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.add_repo("lab/fp8", folder)
    hub.add_repo("lab/one", llama_folder, gated=True)
    hub.grant("lab/one", "tester")
    hub.add_repo("lab/closed", llama_folder, gated=True)
    done = subprocess.run([sys.executable, "-c", WITHOUT_WEIGHTS, f"lab/fp8@{first}", "lab/one", "lab/one all", "lab/one",
                           "lab/closed"], env=os.environ | hub_environment | {"EMBER_HUB_CACHE": str(tmp_path / "cache")},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    quantized, before, downloaded, after, closed = json.loads(done.stdout)
    rows = Checkpoint.open(llama_folder).read_rows("model.embed_tokens.weight", [700, 3]).tolist()
    assert [seen["rows"] for seen in (quantized, before, downloaded, after)] == [rows] * 4
    assert (quantized["commit"], quantized["licence"]) == (first, ["llama3.1", "LICENSE"])
    assert {"config.json", "tokenizer.json", "README.md", "model.safetensors.index.json"} <= set(quantized["files"])
    assert not [name for name in quantized["files"] if name.endswith(".safetensors")]
    kinds = [(seen["kind"], seen["has_weights"]) for seen in (quantized, before, downloaded, after)]
    assert kinds == [("RemoteCheckpoint", False)] * 2 + [("Checkpoint", True)] * 2, "what was downloaded is used"
    assert before["gated"]
    assert (closed["error"], "accept the licence" in closed["hint"]) == ("GatedModel", True)
    assert [request.status for request in hub.seen("GET", "safetensors$") if request.range is None] == [200], "the one download"
