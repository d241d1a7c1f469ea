"""The relearning attack: a throw-away copy learns, the model itself does not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.evaluation.attacks.relearning import PROTOCOLS, Protocol, relearn
from ember_hub.evaluation.language import neutral_loss
from ember_hub.progress import Quiet
from ember_hub.source.load import load
from tests.models import SENTENCES

HARD = Protocol(epochs=6, batch_size=2, learning_rate=1e-2, embedding_rate=1e-2, weight_decay=0.0, has_masters=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_copy_learns_the_paragraphs_and_the_model_stays_as_it_was(llama_folder: Path, dtype: str) -> None:
    model = load(llama_folder, dtype=dtype)
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    seen: list[int] = []
    victim = relearn(model, Edit.none(), SENTENCES, HARD, seed=0, after_epoch=lambda _, epoch: seen.append(epoch), progress=Quiet())
    assert sum(neutral_loss(victim, SENTENCES)) < 0.7 * sum(neutral_loss(model, SENTENCES))
    assert seen == list(range(7))
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())
    assert not any(p.requires_grad for p in victim.model.parameters())


def test_the_attack_starts_from_the_edited_model(llama_folder: Path) -> None:
    model = load(llama_folder)
    edit = Edit({"model.embed_tokens.weight": ReplacedRows(torch.tensor([5]), torch.full((1, 48), 0.5))})
    rows = []
    relearn(model, edit, SENTENCES[:2], PROTOCOLS["paper"], seed=0, progress=Quiet(),
            after_epoch=lambda victim, _: rows.append(victim.model.get_input_embeddings().weight[5].clone()))
    assert torch.equal(rows[0], torch.full((48,), 0.5))
    assert not torch.equal(rows[-1], rows[0])


def test_the_strong_level_moves_a_row_further_than_the_published_one(llama_folder: Path) -> None:
    model = load(llama_folder, dtype="bfloat16")
    start = model.model.get_input_embeddings().weight.clone()
    moved = {}
    for level in ("paper", "strong"):
        victim = relearn(model, Edit.none(), SENTENCES, PROTOCOLS[level], seed=0, after_epoch=lambda *_: None, progress=Quiet())
        moved[level] = float((victim.model.get_input_embeddings().weight - start).float().norm())
    assert moved["strong"] > 2 * moved["paper"]


def test_the_same_seed_gives_the_same_copy(llama_folder: Path) -> None:
    model = load(llama_folder)
    one, other = (relearn(model, Edit.none(), SENTENCES, PROTOCOLS["strong"], seed=3, after_epoch=lambda *_: None, progress=Quiet())
                  for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
