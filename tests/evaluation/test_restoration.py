"""Copying the base's embedding rows back: what is left of an edit, and what is not."""

from __future__ import annotations

import torch

from ember_hub.concepts.pack import load as load_pack
from ember_hub.edits.edit import Edit, Replaced, ReplacedRows
from ember_hub.evaluation.attacks.prompting import put
from ember_hub.evaluation.attacks.restoration import RestoreRows
from ember_hub.evaluation.subject import Subject
from ember_hub.source.load import load
from tests.evaluation.subjects import subject, weights
from tests.toy_run import Toy

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def asked(state: Subject) -> dict[str, float]:
    with state.state() as loaded:
        return {a.id: a.probability for a in put(loaded, state, state.known())}


def test_an_edit_of_rows_alone_is_undone_and_the_rest_of_an_edit_stays(toy: Toy) -> None:
    loaded, pack = load(toy.model), load_pack(toy.pack)
    before = weights(loaded)
    rows = ReplacedRows(torch.arange(300), torch.zeros(300, 48))
    noise = Replaced(loaded.model.get_parameter(NORM) * torch.linspace(-1, 1, 48))
    base, embedding, rest = (subject(loaded, pack, Edit(changes)) for changes in ({}, {EMBEDDING: rows}, {NORM: noise}))
    both = subject(loaded, pack, Edit({EMBEDDING: rows, NORM: noise}))
    assert asked(embedding) != asked(base)
    assert RestoreRows().measure(embedding).readings[1].values == asked(base)
    assert RestoreRows().measure(both).readings[1].values == asked(rest) != asked(base)
    assert RestoreRows().measure(both).details == {"parameters_left": [NORM]}
    assert RestoreRows.restores_by_definition
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())
