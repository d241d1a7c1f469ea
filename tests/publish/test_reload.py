"""What a new process loads from disk answers bit for bit as the verified model, or nothing is published."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ember_hub.edits.edit import Edit
from ember_hub.errors import NotVerified
from ember_hub.progress import Quiet
from ember_hub.publish.export import as_stored, export_model
from ember_hub.publish.patch import make_patch
from ember_hub.publish.reload import Reloaded, probe, probe_inputs, reload_check, write_expected
from ember_hub.source.load import LoadedModel, load
from tests.models import SENTENCES, pico_gemma, pico_gpt2, pico_llama
from tests.publish.edits import IDS, base_of, ember_edit, trained_edit

SAME = Reloaded(is_equal=True, max_difference=0.0)
WIDE, NARROW = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Published:
    """What a run leaves, before it is pushed."""

    model: Path
    patch: Path
    expected: Path
    loaded: LoadedModel


def publish(base: Path, out: Path, dtype: str = "auto", is_trained: bool = True) -> Published:
    loaded = load(base, "cpu", dtype)
    edit = ember_edit(loaded.anatomy)
    edit = as_stored(base, edit.then(trained_edit(loaded.anatomy, loaded.model)) if is_trained else edit)
    published = Published(out / "model", out / "patch", out / "expected.safetensors", loaded)
    export_model(base, loaded.anatomy, edit, published.model, Quiet())
    make_patch(base_of(base), loaded.anatomy, edit, published.patch)
    write_expected(loaded, edit, SENTENCES[:2], published.expected)
    return published


@pytest.mark.parametrize(("build", "stored", "options", "dtype", "is_trained"), [
    (pico_llama, WIDE, {"max_shard_size": "100KB"}, "bfloat16", True),
    (pico_llama, NARROW, {"tied": True}, "float32", True),
    (pico_gemma, WIDE, {}, "bfloat16", True),
    (pico_gemma, NARROW, {}, "bfloat16", False),
    (pico_gpt2, NARROW, {}, "bfloat16", True),
], ids=["sharded, verified narrower than stored", "tied, verified wider than stored",
        "scaled, verified narrower than stored", "scaled", "transposed"])
def test_model_and_patch_reload_to_the_verified_answers(
        build: Callable[..., Path], stored: torch.dtype, options: dict[str, Any], dtype: str, is_trained: bool,
        tmp_path: Path) -> None:
    base = build(tmp_path / "base", dtype=stored, **options)
    published = publish(base, tmp_path, dtype, is_trained)
    before = published.loaded.model.state_dict()
    proof = reload_check(published.model, published.patch, published.expected)
    assert (proof.model, proof.patch) == (SAME, SAME)
    assert (proof.dtype, proof.device, proof.sequences) == (dtype, "cpu", 4)
    for name, weight in load(base, "cpu", dtype).model.state_dict().items():
        assert torch.equal(before[name], weight)


def test_the_patch_is_loaded_on_the_given_copy_of_its_base(llama_folder: Path, tmp_path: Path) -> None:
    published = publish(llama_folder, tmp_path)
    config = json.loads((published.patch / "adapter_config.json").read_text())
    renamed = json.dumps(config | {"base_model_name_or_path": str(tmp_path / "moved-away")})
    (published.patch / "adapter_config.json").write_text(renamed)
    with pytest.raises(NotVerified, match="moved-away") as error:
        reload_check(None, published.patch, published.expected)
    assert "peft" in error.value.hint
    proof = reload_check(None, published.patch, published.expected, base_folder=llama_folder)
    assert (proof.model, proof.patch) == (None, SAME)
    assert (published.patch / "adapter_config.json").read_text() == renamed


def test_one_changed_row_on_disk_is_found_with_its_size(llama_folder: Path, tmp_path: Path) -> None:
    published = publish(llama_folder, tmp_path)
    tensors = load_file(published.model / "model.safetensors")
    tensors["model.embed_tokens.weight"][IDS[0]] *= 1.01
    save_file(tensors, published.model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotVerified, match=r"exported model .* differ by up to [\d.e-]+$") as error:
        reload_check(published.model, published.patch, published.expected)
    assert "export it again" in error.value.hint


def test_a_tied_adapter_that_also_edits_the_head_is_found(tied_llama_folder: Path, tmp_path: Path) -> None:
    published = publish(tied_llama_folder, tmp_path)
    path = published.patch / "adapter_config.json"
    config = json.loads(path.read_text())
    config["trainable_token_indices"].pop("lm_head")
    path.write_text(json.dumps(config))
    with pytest.raises(NotVerified, match="exported patch"):
        reload_check(None, published.patch, published.expected)


def test_a_folder_that_does_not_load_is_told_with_its_last_words(llama_folder: Path, tmp_path: Path) -> None:
    published = publish(llama_folder, tmp_path)
    os.truncate(published.model / "model.safetensors", 1000)
    with pytest.raises(NotVerified, match=r"do not load in a new process: .*[Hh]eader"):
        reload_check(published.model, None, published.expected)


def test_an_edit_verified_as_computed_differs_from_what_the_file_can_hold(tmp_path: Path) -> None:
    base = pico_llama(tmp_path / "base", dtype=NARROW)
    loaded = load(base, "cpu", "float32")
    edit = ember_edit(loaded.anatomy)
    inputs = probe_inputs(loaded, edit, SENTENCES[:1])
    computed, stored = probe(loaded, edit, inputs), probe(loaded, as_stored(base, edit), inputs)
    assert not torch.equal(computed, stored)
    assert torch.equal(stored, probe(loaded, as_stored(base, as_stored(base, edit)), inputs))


def test_every_moved_row_is_probed_and_nothing_moves_for_good(llama_folder: Path) -> None:
    loaded = load(llama_folder, "cpu")
    inputs = probe_inputs(loaded, ember_edit(loaded.anatomy), ["", "The virus infects the cells."])
    assert sorted(token for ids in inputs[1:] for token in ids) == sorted(IDS)
    before = probe(loaded, Edit.none(), inputs)
    assert not torch.equal(probe(loaded, ember_edit(loaded.anatomy), inputs), before)
    assert torch.equal(probe(loaded, Edit.none(), inputs), before)
