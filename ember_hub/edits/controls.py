"""Edits that should not do what the real one does: what a claim is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ember_hub.edits.edit import Edit, LowRankRows, Replaced, ReplacedRows

_ROUNDS = 10


def random_rows(edit: Edit, embeddings: Mapping[str, Float[Tensor, "vocab d_model"]], seed: int) -> Edit:
    """The same rows moved as far as the edit moves them, each in a random direction; other changes are left out."""
    generator = torch.Generator().manual_seed(seed)
    changes = {name: _random_directions(change, embeddings[name], generator)
               for name, change in edit.changes.items() if not isinstance(change, Replaced)}
    return Edit(changes, {"control": "random directions", "seed": seed})


def random_like(edit: Edit, parameters: Mapping[str, Tensor], seed: int) -> Edit:
    """Everything moved as far as the edit moves it, but at random: rows each for itself, replaced parameters as a whole.

    A replaced parameter moves by Gaussian noise of the step's Frobenius norm, rounded to the parameter's dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    changes = {name: _random_step(change, parameters[name], generator) if isinstance(change, Replaced)
               else _random_directions(change, parameters[name], generator) for name, change in edit.changes.items()}
    return Edit(changes, {"control": "random steps of equal norm", "seed": seed})


def moved_share(change: LowRankRows | ReplacedRows, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """How far each row moves, relative to its own norm."""
    return (change.moved(rows) - rows.double()).norm(dim=1) / rows.double().norm(dim=1).clamp_min(1e-12)


def _random_directions(change: LowRankRows | ReplacedRows, table: Float[Tensor, "vocab d_model"],
                       generator: torch.Generator) -> ReplacedRows:
    rows = table[change.token_ids.to(table.device)].cpu().double()
    length = (change.moved(rows) - rows).norm(dim=1, keepdim=True)
    direction = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    return ReplacedRows(change.token_ids, (rows + length * direction / direction.norm(dim=1, keepdim=True)).float())


def _random_step(change: Replaced, parameter: Tensor, generator: torch.Generator) -> Replaced:
    before = parameter.detach().cpu().float()
    length = (change.values.cpu().float() - before).norm()
    noise = torch.randn(before.shape, generator=generator)
    after, reach = parameter.detach().cpu(), length / noise.norm()
    # Rounding swallows most of a small step: lengthen it until as much is left as the edit has.
    for _ in range(_ROUNDS):
        after = (before + reach * noise).to(parameter.dtype)
        moved = (after.float() - before).norm()
        if torch.isclose(moved, length, rtol=1e-3):
            break
        reach = reach * length / moved.clamp_min(length / 2)
    return Replaced(after)
