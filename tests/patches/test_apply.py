"""A patch into a checkpoint folder and out again: what transformers makes of it, and not a byte beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import ember_hub
from ember_hub.errors import DiskError, EmberHubError, PatchInvalid, WrongBase
from ember_hub.patches.apply import apply, revert, undo_of
from ember_hub.patches.patch import Patch
from ember_hub.patches.undo import Undo, write_undo
from ember_hub.progress import Quiet
from ember_hub.publish.patch import make_patch
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.comparison import compare
from tests.publish.edits import IDS, base_of, ember_edit

INPUTS = torch.tensor([sorted(IDS)[:24], [1, 5, 99, 300, *range(320, 340)]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(INPUTS).logits


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_applied_folder_answers_as_transformers_does_with_the_patch(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    anatomy = anatomy_of_config(bases[kind])
    patch = make_patch(base_of(bases[kind]), anatomy, ember_edit(anatomy), tmp_path / "patch")
    written = apply(patch, bases[kind], tmp_path / "out", Quiet())
    patched = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "patch"))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), patched)
    assert not torch.equal(logits(AutoModelForCausalLM.from_pretrained(bases[kind])), patched)
    assert (written.rows, written.head) == (len(IDS), None if kind.startswith("untied") else "given")


def test_applying_moves_only_the_named_rows(kind: str, bases: dict[str, Path], patches: dict[str, Path], tmp_path: Path) -> None:
    patch = Patch.open(patches[kind])
    apply(patch, bases[kind], tmp_path / "out", Quiet())
    before, after = Checkpoint.open(bases[kind]), Checkpoint.open(tmp_path / "out")
    found = compare(before, after)
    assert found.changed == (patch.table.tensor,)
    assert found.added == (() if kind.startswith("untied") else ("lm_head.weight",))
    every = np.arange(patch.table.vocab)
    moved = (before.read_row_bytes(patch.table.tensor, every) != after.read_row_bytes(patch.table.tensor, every)).any(axis=1)
    assert np.flatnonzero(moved).tolist() == sorted(IDS)


@pytest.mark.parametrize("way", ["patch", "undo file", "base"])
def test_reverting_gives_the_base_back_byte_for_byte(kind: str, way: str, bases: dict[str, Path], patches: dict[str, Path],
                                                     tmp_path: Path) -> None:
    patch = Patch.open(patches[kind])
    apply(patch, bases[kind], tmp_path / "patched", Quiet(), undo=tmp_path / "undo.safetensors")
    undo = {"patch": lambda: undo_of(patch, None), "undo file": lambda: Undo.open(tmp_path / "undo.safetensors"),
            "base": lambda: undo_of(replace(patch, originals=None, config=None), bases[kind])}[way]()
    revert(undo, tmp_path / "patched", tmp_path / "back", Quiet())
    assert contents(tmp_path / "back") == contents(bases[kind])
    assert contents(tmp_path / "patched") != contents(bases[kind])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_takes_the_patch_and_gives_it_back(kind: str, dtype: torch.dtype, bases: dict[str, Path],
                                                          patches: dict[str, Path], tmp_path: Path) -> None:
    patch = ember_hub.Patch.open(patches[kind])
    model = AutoModelForCausalLM.from_pretrained(bases[kind], dtype=dtype)
    before, was_tied = logits(model), model.get_output_embeddings().weight is model.get_input_embeddings().weight
    apply(patch, bases[kind], tmp_path / "out", Quiet())
    patch.apply_to(model)
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=dtype)))
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype)))
    with pytest.raises(WrongBase, match="nothing to do"):
        patch.apply_to(model)
    patch.remove_from(model)
    assert torch.equal(logits(model), before)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == was_tied
    assert model.config.tie_word_embeddings == was_tied


def test_another_base_is_refused_before_anything_is_written(bases: dict[str, Path], patches: dict[str, Path],
                                                            tmp_path: Path) -> None:
    patch = Patch.open(patches["untied"])
    with safe_open(bases["untied"] / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    tensors["model.embed_tokens.weight"][300, 7] += 1
    other = Path(shutil.copytree(bases["untied"], bases["untied"].parent / "other"))
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    for base, says in ((bases["untied-bf16"], "F32"), (bases["scaled"], "64"), (bases["tied"], "one matrix as embedding and head"),
                       (other, "1 of 36 rows differ, the first is that of token 300")):
        with pytest.raises(WrongBase, match=says) as refused:
            apply(patch, base, tmp_path / "out", Quiet(), undo=tmp_path / "undo")
        assert refused.value.hint
    with pytest.raises(WrongBase, match="rows of the base"):
        revert(undo_of(patch, None), bases["untied"], tmp_path / "out", Quiet())
    apply(patch, bases["untied"], tmp_path / "patched", Quiet())
    with pytest.raises(WrongBase, match="already"):
        apply(patch, tmp_path / "patched", tmp_path / "out", Quiet())
    bare = replace(patch, originals=None)
    with pytest.raises(WrongBase, match="does not hold the base's rows"):
        bare.apply_to(AutoModelForCausalLM.from_pretrained(other))
    bare.apply_to(AutoModelForCausalLM.from_pretrained(bases["untied"]))
    for base, says in ((other, "does not hold the base's rows"), (bases["scaled"], r"\(768, 64\)"), (bases["tied"], "one matrix")):
        with pytest.raises(WrongBase, match=says):
            patch.apply_to(AutoModelForCausalLM.from_pretrained(base))
    assert [path.name for path in tmp_path.iterdir()] == ["patched"]


def test_an_output_that_exists_is_refused(bases: dict[str, Path], patches: dict[str, Path], tmp_path: Path) -> None:
    patch = Patch.open(patches["tied"])
    (tmp_path / "kept").write_text("Dear Anna")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, undo in (("kept", None), ("link", None), ("fresh", "kept")):
        with pytest.raises(DiskError, match="exists already") as refused:
            apply(patch, bases["tied"], tmp_path / out, Quiet(), undo=tmp_path / undo if undo else None)
        assert "another output" in refused.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link"]
    assert (tmp_path / "kept").read_text() == "Dear Anna"


def test_a_config_that_cannot_be_read_is_refused(bases: dict[str, Path], patches: dict[str, Path], tmp_path: Path) -> None:
    patch = Patch.open(patches["tied"])
    (config := Path(shutil.copytree(bases["tied"], tmp_path / "base")) / "config.json").write_text("{")
    for damage in (lambda: config.write_bytes('{"é": 1}'.encode("latin-1")), config.unlink):
        with pytest.raises(EmberHubError, match=r"config\.json") as refused:
            apply(patch, tmp_path / "base", tmp_path / "out", Quiet(), undo=tmp_path / "undo")
        assert refused.value.hint
        damage()
    with pytest.raises(EmberHubError, match=r"config\.json"):
        undo_of(patch, tmp_path / "base")
    write_undo(replace(patch, config="[7]"), tmp_path / "undo")
    with pytest.raises(PatchInvalid, match="no undo file"):
        Undo.open(tmp_path / "undo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "undo"]


def test_what_changed_since_the_patch_was_applied_is_not_thrown_away(bases: dict[str, Path], patches: dict[str, Path],
                                                                    tmp_path: Path) -> None:
    patch = Patch.open(patches["tied"])
    apply(patch, bases["tied"], tmp_path / "patched", Quiet())
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "patched")
    with torch.no_grad():
        trained.lm_head.weight[3] += 1
    trained.save_pretrained(tmp_path / "trained")
    shutil.copyfile(tmp_path / "patched/config.json", tmp_path / "trained/config.json")
    with pytest.raises(WrongBase, match=r"lm_head\.weight .* changed"):
        revert(undo_of(patch, None), tmp_path / "trained", tmp_path / "back", Quiet())
    config = json.loads((tmp_path / "patched/config.json").read_text())
    (tmp_path / "patched/config.json").write_text(json.dumps(config | {"rope_theta": 1}))
    with pytest.raises(WrongBase, match=r"config\.json was changed"):
        revert(undo_of(patch, None), tmp_path / "patched", tmp_path / "back", Quiet())
    with pytest.raises(PatchInvalid, match="without the base's rows") as refused:
        undo_of(replace(patch, originals=None), None)
    assert "undo.safetensors" in refused.value.hint
    assert not (tmp_path / "back").exists()
