"""Edits as values, and what writing them does and does not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ember_hub.edits import store
from ember_hub.edits.apply import applied, write
from ember_hub.edits.controls import moved_share, random_rows
from ember_hub.edits.edit import Edit, LowRankRows, Replaced, ReplacedRows
from ember_hub.errors import EditError, EmptyEdit, ShapeMismatch
from ember_hub.source.load import LoadedModel, load

EMBEDDING = "model.embed_tokens.weight"
IDS = torch.tensor([7, 40, 300])


@pytest.fixture
def model(llama_folder: Path) -> LoadedModel:
    return load(llama_folder)


def rows(width: int = 48, strength: float = 1.0, clip: float = 5.0) -> LowRankRows:
    generator = torch.Generator().manual_seed(0)
    return LowRankRows(IDS, torch.randn(3, 2, generator=generator), torch.randn(width, 2, generator=generator) * 0.02,
                       strength, clip)


def test_an_edit_moves_its_rows_and_nothing_else_and_comes_off_without_a_trace(model: LoadedModel) -> None:
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    with applied(model.model, Edit({EMBEDDING: rows()})):
        now = model.model.get_parameter(EMBEDDING)
        moved = (now != before[EMBEDDING]).any(dim=1).nonzero()[:, 0]
        assert torch.equal(moved, IDS)
        assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters() if name != EMBEDDING)
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())


def test_a_tied_model_keeps_its_head(tied_llama_folder: Path) -> None:
    tied = load(tied_llama_folder)
    head = tied.model.get_output_embeddings().weight.clone()
    write(tied.model, Edit({EMBEDDING: rows()}))
    assert torch.equal(tied.model.get_output_embeddings().weight, head)
    assert not torch.equal(tied.model.get_input_embeddings().weight, head)


def test_an_exception_inside_still_puts_everything_back(model: LoadedModel) -> None:
    before = model.model.get_parameter(EMBEDDING).clone()
    with pytest.raises(ShapeMismatch) as caught, \
            applied(model.model, Edit({EMBEDDING: rows(), "model.norm.weight": Replaced(torch.zeros(3))})):
        pass
    assert "another model" in caught.value.hint
    assert torch.equal(model.model.get_parameter(EMBEDDING), before)


def test_the_step_is_linear_in_the_strength_until_the_clip_holds_it() -> None:
    base = torch.ones(3, 48)
    one, two = (base - rows(strength=s).moved(base) for s in (1.0, 2.0))
    torch.testing.assert_close(two, 2 * one)
    far = (base - rows(strength=1e6, clip=0.5).moved(base)).norm(dim=1)
    torch.testing.assert_close(far, 0.5 * base.double().norm(dim=1))
    assert moved_share(rows(strength=1e6, clip=0.5), base) == pytest.approx([0.5] * 3)


def test_the_random_control_moves_the_same_rows_as_far_but_elsewhere(model: LoadedModel) -> None:
    edit = Edit({EMBEDDING: rows(strength=3.0), "model.norm.weight": Replaced(torch.ones(48))})
    weight = model.model.get_parameter(EMBEDDING)
    control = random_rows(edit, {EMBEDDING: weight}, seed=1).changes[EMBEDDING]
    real = edit.changes[EMBEDDING].moved(weight[IDS])
    torch.testing.assert_close((control.moved(weight[IDS]) - weight[IDS]).norm(dim=1).float(),
                               (real - weight[IDS]).norm(dim=1).float(), rtol=1e-4, atol=1e-6)
    cosine = torch.cosine_similarity(control.moved(weight[IDS]) - weight[IDS], real - weight[IDS], dim=1)
    assert cosine.abs().max() < 0.7


def test_edits_chain_and_the_later_one_wins() -> None:
    first, second = Edit({"a": Replaced(torch.zeros(1))}), Edit({"a": Replaced(torch.ones(1)), EMBEDDING: rows()})
    both = first.then(second)
    assert both.changes["a"].values == 1
    assert both.rows() == 3
    assert both.scaled(7.0).changes[EMBEDDING].strength == 7.0


def test_an_edit_survives_the_disk_bit_for_bit(tmp_path: Path) -> None:
    edit = Edit({EMBEDDING: rows(strength=2.5), "w": Replaced(torch.randn(4, 4).bfloat16()),
                 "v": ReplacedRows(IDS, torch.randn(3, 4))}, {"method": "rmu", "steps": 3})
    store.save(edit, tmp_path / "e.safetensors")
    back = store.load(tmp_path / "e.safetensors")
    assert back.provenance == edit.provenance
    assert torch.equal(back.changes["w"].values, edit.changes["w"].values)
    base = torch.randn(3, 48)
    assert torch.equal(back.changes[EMBEDDING].moved(base), edit.changes[EMBEDDING].moved(base))
    assert torch.equal(back.changes["v"].values, edit.changes["v"].values)


def test_a_damaged_edit_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "e.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    with pytest.raises(EditError) as caught:
        store.load(tmp_path / "e.safetensors")
    assert "run the command again" in caught.value.hint


def test_an_edit_of_nothing_and_an_edit_that_does_not_fit_are_refused() -> None:
    with pytest.raises(EmptyEdit):
        LowRankRows(torch.tensor([], dtype=torch.long), torch.zeros(0, 2), torch.zeros(4, 2))
    with pytest.raises(ShapeMismatch):
        LowRankRows(IDS, torch.zeros(2, 2), torch.zeros(4, 2))
