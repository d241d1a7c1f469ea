"""Ordinary text read once: the loss is the one that scoring gives, and the divergence is nothing only where nothing has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ember_hub.edits.apply import applied
from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.evaluation.language import neutral_loss, predictions, reread
from ember_hub.progress import Quiet
from ember_hub.source.load import LoadedModel, load

SENTENCES = ("The river was high after the rain, and the ferry stayed on the other bank until noon.", "Bread rises.",
             "She counted the chairs twice and put the last one by the window.", "a")


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LoadedModel:
    return load(llama_folder, dtype="float32", progress=Quiet())


def test_one_reading_gives_the_loss_of_scoring_and_no_divergence_from_itself(model: LoadedModel) -> None:
    losses, apart = reread(model, SENTENCES, predictions(model, SENTENCES))
    assert losses == pytest.approx(neutral_loss(model, SENTENCES), abs=1e-5)
    assert list(map(len, apart)) == list(map(len, model.tokenizer(list(SENTENCES)).input_ids))
    assert max(map(max, apart)) < 1e-9


def test_a_moved_row_shows_from_where_it_is_first_read_in_every_sentence(model: LoadedModel) -> None:
    encoded = model.tokenizer(list(SENTENCES)).input_ids
    row = encoded[1][1]
    base = predictions(model, SENTENCES)
    moved = model.model.get_input_embeddings().weight[[row]].detach() + 0.5
    with applied(model.model, Edit({model.anatomy.embedding: ReplacedRows(torch.tensor([row]), moved)})):
        losses, apart = reread(model, SENTENCES, base)
        assert losses == pytest.approx(neutral_loss(model, SENTENCES), abs=1e-5)
    for ids, shown in zip(encoded, apart, strict=True):
        first = ids.index(row) if row in ids else len(ids)
        assert max(shown[:first], default=0) < 1e-9 < min(shown[first:], default=1)
