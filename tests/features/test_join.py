"""Rows of several concepts as one edit: each keeps its own, and a shared row loses both parts."""

from __future__ import annotations

import torch

from ember_hub.features.evidence import Evidence, TokenEvidence
from ember_hub.features.join import join
from ember_hub.features.selection import ConceptRows


def rows(ids: list[int], seed: int, rank: int) -> ConceptRows:
    dice = torch.Generator().manual_seed(seed)
    tokens = tuple(TokenEvidence(i, f"t{i}", 0.9, 1.0, 0.5, 3, 3, 1.0, (0,), True, f"own {seed}") for i in ids)
    return ConceptRows(torch.tensor(ids), torch.randn(len(ids), rank, generator=dice), torch.randn(16, rank, generator=dice),
                       Evidence((), tokens))


def test_joined_rows_write_what_each_concept_writes() -> None:
    one, other = rows([3, 7, 9], 0, 2), rows([7, 20], 1, 3)
    both = join([one, other])
    assert both.token_ids.tolist() == [3, 7, 9, 20]
    expected = {3: one.contributions[0], 9: one.contributions[2], 20: other.contributions[1],
                7: one.contributions[1] + other.contributions[0]}
    for place, i in enumerate(both.token_ids.tolist()):
        assert torch.allclose(both.contributions[place], expected[i], atol=1e-6), i
    (shared,) = [token for token in both.evidence.tokens if token.token_id == 7]
    assert shared.columns == (0, 2)
    assert "own 0; own 1" in shared.reason
    assert join([one]) is one
