"""A full edited model on disk: exactly what the edit names differs, and an earlier export survives every failure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ember_hub.edits.edit import Edit, LowRankRows, Replaced, ReplacedRows
from ember_hub.errors import DiskError, EditError, EmptyEdit, NotVerified, ShapeMismatch, UnsupportedModel
from ember_hub.progress import Quiet
from ember_hub.publish.export import as_stored, export_model, prove
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.comparison import compare
from ember_hub.source.load import load
from ember_hub.source.naming import tensor_name
from ember_hub.source.rewrite import Rows
from tests.models import pico_llama
from tests.publish.edits import IDS, ember_edit, trained_edit

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("name", ["llama_folder", "sharded_llama_folder"])
def test_only_edited_rows_and_trained_matrices_differ(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    loaded = load(folder, "cpu")
    trained = trained_edit(loaded.anatomy, loaded.model)
    edit = ember_edit(loaded.anatomy).then(trained)
    comparison = export_model(folder, loaded.anatomy, edit, tmp_path / "out", Quiet())
    assert set(comparison.changed) == set(edit.changes)
    assert (comparison.added, comparison.removed) == ((), ())

    before, after = (Checkpoint.open(path) for path in (folder, tmp_path / "out"))
    moved = (before.read(EMBEDDING) != after.read(EMBEDDING)).any(1).nonzero().flatten()
    assert moved.tolist() == sorted(IDS)
    change = edit.changes[EMBEDDING]
    assert isinstance(change, LowRankRows)
    expected = change.moved(before.read_rows(EMBEDDING, change.token_ids)).float()
    assert torch.equal(after.read_rows(EMBEDDING, change.token_ids), expected)
    for parameter, replaced in trained.changes.items():
        assert isinstance(replaced, Replaced)
        assert torch.equal(after.read(parameter), replaced.values)
    assert (tmp_path / "out/config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_shards_that_the_edit_leaves_are_the_base_s_own_files(sharded_llama_folder: Path, tmp_path: Path) -> None:
    anatomy = anatomy_of_config(sharded_llama_folder)
    comparison = export_model(sharded_llama_folder, anatomy, ember_edit(anatomy), tmp_path / "out", Quiet())
    base = Checkpoint.open(sharded_llama_folder)
    touched = base.info(EMBEDDING).file.name
    assert sorted(comparison.same_files) == sorted(file.path.name for file in base.files if file.path.name != touched)
    assert set(comparison.shared_files) <= set(comparison.same_files)
    for file in base.files:
        is_shared = (tmp_path / "out" / file.path.name).samefile(file.path)
        assert is_shared == (file.path.name in comparison.shared_files)
        # What is one file needs no reading to be proven the same.
        assert is_shared != any(name in comparison.rewritten_sha256 for name in file.tensors)


@pytest.mark.parametrize("name", ["tied_llama_folder", "gemma_folder", "gpt2_folder"])
def test_a_tied_base_gets_a_head_with_the_original_embedding(name: str, tmp_path: Path, request: pytest.FixtureRequest
                                                             ) -> None:
    folder: Path = request.getfixturevalue(name)
    anatomy = anatomy_of_config(folder)
    comparison = export_model(folder, anatomy, ember_edit(anatomy), tmp_path / "out", Quiet())
    assert (comparison.changed, comparison.added) == ((anatomy.embedding,), ("lm_head.weight",))
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(after["lm_head.weight"], before[anatomy.embedding])
    assert not torch.equal(after[anatomy.embedding], before[anatomy.embedding])
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


def test_a_tied_base_stays_tied_when_its_embedding_is_not_edited(tied_llama_folder: Path, tmp_path: Path) -> None:
    loaded = load(tied_llama_folder, "cpu")
    edit = trained_edit(loaded.anatomy, loaded.model)
    comparison = export_model(tied_llama_folder, loaded.anatomy, edit, tmp_path / "out", Quiet())
    assert comparison.added == ()
    assert (tmp_path / "out/config.json").read_bytes() == (tied_llama_folder / "config.json").read_bytes()


@pytest.mark.parametrize("stored", [torch.clone, lambda table: table.flip(0)], ids=["equal", "its own"])
def test_a_head_that_a_tied_checkpoint_holds_is_kept_and_not_doubled(
        stored: Callable[[torch.Tensor], torch.Tensor], tied_llama_folder: Path, tmp_path: Path) -> None:
    def add_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors | {"lm_head.weight": stored(tensors[EMBEDDING])}

    folder = remade(tied_llama_folder, tmp_path / "base", add_head)
    anatomy = load(folder, "cpu").anatomy
    comparison = export_model(folder, anatomy, ember_edit(anatomy), tmp_path / "out", Quiet())
    assert (comparison.changed, comparison.added) == ((EMBEDDING,), ())
    assert "lm_head.weight" in comparison.identical
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


def test_a_multimodal_config_is_untied_in_its_text_part_too(tied_llama_folder: Path, tmp_path: Path) -> None:
    folder = remade(tied_llama_folder, tmp_path / "base", dict)
    anatomy = anatomy_of_config(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"text_config": {"n": 1}, "vision_config": {"n": 2}}))
    export_model(folder, anatomy, ember_edit(anatomy), tmp_path / "out", Quiet())
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["text_config"] == {"n": 1, "tie_word_embeddings": False}
    assert written["vision_config"] == {"n": 2}


def test_tokenizer_template_and_licence_travel_and_the_card_does_not(llama_folder: Path, tmp_path: Path) -> None:
    folder = remade(llama_folder, tmp_path / "base", dict)
    (folder / "LICENSE.txt").write_text("terms")
    (folder / "README.md").write_text("the base's card")
    anatomy = anatomy_of_config(folder)
    export_model(folder, anatomy, ember_edit(anatomy), tmp_path / "out", Quiet())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE.txt"}
    assert "README.md" not in names


@pytest.mark.parametrize(("parameter", "tensor"), [
    ("transformer.wte.weight", "wte.weight"),
    ("wte.weight", "transformer.wte.weight"),
    ("model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
])
def test_a_parameter_is_found_under_the_checkpoints_name_for_it(parameter: str, tensor: str, tmp_path: Path) -> None:
    save_file({tensor: torch.ones(2), "other.weight": torch.ones(2), "pre_wte.weight": torch.ones(2)},
              tmp_path / "model.safetensors")
    assert tensor_name(Checkpoint.open(tmp_path), parameter) == tensor


def test_a_parameter_without_one_tensor_is_refused_with_a_way_out(tmp_path: Path) -> None:
    save_file({"a.experts.0.weight": torch.ones(2), "b.experts.0.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="no tensor") as none:
        tensor_name(Checkpoint.open(tmp_path), "a.experts.weight")
    assert "--method none" in none.value.hint
    with pytest.raises(UnsupportedModel, match="several"):
        tensor_name(Checkpoint.open(tmp_path), "experts.0.weight")


def test_a_stored_edit_is_rounded_to_the_checkpoint_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = pico_llama(tmp_path / "base", dtype=torch.bfloat16)
    loaded = load(folder, "cpu", "float32")
    stored = as_stored(folder, ember_edit(loaded.anatomy).then(trained_edit(loaded.anatomy, loaded.model)))
    rows = stored.changes[EMBEDDING]
    assert isinstance(rows, ReplacedRows)
    assert rows.token_ids.tolist() == sorted(IDS)
    again = as_stored(folder, stored)
    for name, change in stored.changes.items():
        assert change.values.dtype == torch.bfloat16
        assert torch.equal(again.changes[name].values, change.values)
    assert stored.provenance == {"method": "rmu"}


def test_a_new_export_replaces_the_earlier_one(llama_folder: Path, tmp_path: Path) -> None:
    anatomy, out = anatomy_of_config(llama_folder), tmp_path / "out"
    export_model(llama_folder, anatomy, ember_edit(anatomy).scaled(1.0), out, Quiet())
    (out / "README.md").write_text("of the earlier one")
    export_model(llama_folder, anatomy, ember_edit(anatomy).scaled(0.5), out, Quiet())
    fresh = tmp_path / "fresh"
    export_model(llama_folder, anatomy, ember_edit(anatomy).scaled(0.5), fresh, Quiet())
    assert contents(out) == contents(fresh)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]


def test_a_failed_export_leaves_the_earlier_one_and_nothing_else(llama_folder: Path, tmp_path: Path) -> None:
    anatomy, out = anatomy_of_config(llama_folder), tmp_path / "out"
    export_model(llama_folder, anatomy, ember_edit(anatomy), out, Quiet())
    before = contents(out)
    with pytest.raises(EditError, match="not finite") as error:
        export_model(llama_folder, anatomy, ember_edit(anatomy).scaled(float("nan")), out, Quiet())
    assert "lower strength" in error.value.hint
    twice = Edit({EMBEDDING: ReplacedRows(torch.tensor([3, 3]), torch.ones(2, anatomy.d_model))})
    with pytest.raises(ShapeMismatch, match="twice"):
        export_model(llama_folder, anatomy, twice, out, Quiet())
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_neither_the_base_nor_a_strange_folder_is_replaced(llama_folder: Path, tmp_path: Path) -> None:
    folder = remade(llama_folder, tmp_path / "base", dict)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/to-anna.txt").write_text("Dear Anna")
    anatomy = anatomy_of_config(folder)
    before = contents(folder)
    for out in (folder, tmp_path, tmp_path / "letters"):
        with pytest.raises(DiskError, match="no earlier export") as error:
            export_model(folder, anatomy, ember_edit(anatomy), out, Quiet())
        assert "another output folder" in error.value.hint
    assert contents(folder) == before
    assert contents(tmp_path / "letters") == {"to-anna.txt": b"Dear Anna"}


def test_an_edit_of_nothing_is_not_exported(llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptyEdit) as error:
        export_model(llama_folder, anatomy_of_config(llama_folder), Edit.none(), tmp_path / "out", Quiet())
    assert "gates" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_the_proof_fails_for_a_stray_tensor_and_for_a_stray_row(llama_folder: Path, tmp_path: Path) -> None:
    base = Checkpoint.open(llama_folder)
    change = {EMBEDDING: Rows(torch.tensor([3]), torch.ones(1, 48))}

    def written(name: str, **strays: tuple[str, int]) -> Checkpoint:
        def edit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            tensors[EMBEDDING][3] = 1
            for tensor, row in strays.values():
                tensors[tensor][row] += 1
            return tensors

        return Checkpoint.open(remade(llama_folder, tmp_path / name, edit))

    prove(base, change, compare(base, written("right")))
    with pytest.raises(NotVerified, match=r"does not name, the first is model\.norm\.weight") as error:
        prove(base, change, compare(base, written("tensor", stray=("model.norm.weight", 0))))
    assert "again" in error.value.hint
    with pytest.raises(NotVerified, match="is not what the edit says"):
        prove(base, change, compare(base, written("row", stray=(EMBEDDING, 4))))


def remade(folder: Path, copy: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of a checkpoint folder with other tensors."""
    shutil.copytree(folder, copy)
    save_file(edit(load_file(folder / "model.safetensors")), copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
