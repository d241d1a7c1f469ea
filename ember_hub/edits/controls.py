"""Edits that should not do what the real one does: what a claim is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ember_hub.edits.edit import Edit, LowRankRows, Replaced, ReplacedRows


def random_rows(edit: Edit, embeddings: Mapping[str, Float[Tensor, "vocab d_model"]], seed: int) -> Edit:
    """The same rows moved as far as the edit moves them, each in a random direction; other changes are left out."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name, change in edit.changes.items():
        if isinstance(change, Replaced):
            continue
        rows = embeddings[name][change.token_ids.to(embeddings[name].device)].cpu().double()
        length = (change.moved(rows) - rows).norm(dim=1, keepdim=True)
        direction = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        changes[name] = ReplacedRows(change.token_ids, (rows + length * direction / direction.norm(dim=1, keepdim=True)).float())
    return Edit(changes, {"control": "random directions", "seed": seed})


def moved_share(change: LowRankRows | ReplacedRows, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """How far each row moves, relative to its own norm."""
    return (change.moved(rows) - rows.double()).norm(dim=1) / rows.double().norm(dim=1).clamp_min(1e-12)
