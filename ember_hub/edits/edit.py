"""An edit as a value: which parameters of the base change, and to what. Nothing here touches a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ember_hub.errors import EmptyEdit, ShapeMismatch


@dataclass(frozen=True)
class LowRankRows:
    """Rows of an embedding moved against what a few directions write into them: e_i ← e_i − δ c_i, c_i = G_i Fᵀ.

    Linear in the strength δ up to the clip ‖δ c_i‖ ≤ κ ‖e_i‖, so a search over δ never refits.

    Source: EMBER (arXiv 2606.03695), embedding edit; the clip is ours.
    """

    token_ids: Int[Tensor, " n"]
    G: Float[Tensor, "n k"]
    directions: Float[Tensor, "d_model k"]
    strength: float = 1.0
    clip: float = 5.0
    """κ: no row moves by more than this many times its own norm."""

    def __post_init__(self) -> None:
        if len(self.token_ids) == 0 or self.G.shape[1] == 0:
            raise EmptyEdit("the edit moves no row", hint="add concept sentences to the pack, or lower features.min_share")
        if self.G.shape != (len(self.token_ids), self.directions.shape[1]):
            raise ShapeMismatch(f"G is {tuple(self.G.shape)} for {len(self.token_ids)} tokens and "
                                f"{self.directions.shape[1]} directions", hint="the edit file is damaged: make it again")

    def contribution(self) -> Float[Tensor, "n d_model"]:
        """What the features write into each row, in the units of the stored embedding."""
        return self.G.double() @ self.directions.double().T

    def moved(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """The edited rows, in float64; `rows` are the base's rows of `token_ids`."""
        rows = rows.double()
        step = self.strength * self.contribution()
        limit = self.clip * rows.norm(dim=1, keepdim=True)
        length = step.norm(dim=1, keepdim=True).clamp_min(torch.finfo(step.dtype).tiny)
        return rows - step * (limit / length).clamp(max=1.0)


@dataclass(frozen=True)
class ReplacedRows:
    """Rows of an embedding set to given values, as they are stored: used for controls, and for patches of others."""

    token_ids: Int[Tensor, " n"]
    values: Float[Tensor, "n d_model"]

    def moved(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        if rows.shape != self.values.shape:
            raise ShapeMismatch(f"rows are {tuple(rows.shape)}, the edit holds {tuple(self.values.shape)}",
                                hint="the edit was made for another model")
        return self.values.double()


@dataclass(frozen=True)
class Replaced:
    """A whole parameter, bit for bit: what training leaves behind."""

    values: Tensor


Change = LowRankRows | ReplacedRows | Replaced


@dataclass(frozen=True)
class Edit:
    """Changes by parameter name of the loaded model, and where they come from."""

    changes: Mapping[str, Change]
    provenance: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def none(cls) -> Edit:
        """The edit that changes nothing: what a search answers when no strength passes its gates."""
        return cls({}, {})

    def scaled(self, strength: float) -> Edit:
        """The same edit at another strength δ; replaced parameters have no strength and stay."""
        return replace(self, changes={name: replace(change, strength=strength) if isinstance(change, LowRankRows) else change
                                      for name, change in self.changes.items()})

    def then(self, other: Edit) -> Edit:
        """This edit and, after it, the other one, which wins where both change the same parameter."""
        return Edit({**self.changes, **other.changes}, {**self.provenance, **other.provenance})

    def rows(self) -> int:
        """How many vocabulary rows move."""
        return sum(len(c.token_ids) for c in self.changes.values() if not isinstance(c, Replaced))
