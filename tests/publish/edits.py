"""Made-up edits of the tiny models: they mean nothing, but move what real ones move."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from ember_hub.edits.edit import Edit, LowRankRows, Replaced
from ember_hub.source.anatomy import Anatomy
from ember_hub.source.resolve import Base, Licence

# Out of order on purpose, and more than one portion of a probe.
IDS = (700, 5, 300, 301, 17, 450, *range(320, 350))


def ember_edit(anatomy: Anatomy) -> Edit:
    """Rows of the embedding moved along three directions."""
    generator = torch.Generator().manual_seed(0)
    rows = LowRankRows(torch.tensor(IDS), torch.rand(len(IDS), 3, generator=generator),
                       0.2 * torch.randn(anatomy.d_model, 3, generator=generator), strength=1.7)
    return Edit({anatomy.embedding: rows}, {"method": "ember"})


def trained_edit(anatomy: Anatomy, model: PreTrainedModel) -> Edit:
    """One MLP's output matrix as after training, in the dtype of the loaded model."""
    name = anatomy.mlp_writers[1]
    before = model.get_parameter(name).detach()
    step = 0.01 * torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    return Edit({name: Replaced((before.float() + step).to(before.dtype))}, {"method": "rmu"})


def base_of(folder: Path, repo_id: str | None = None, licence_files: tuple[str, ...] = ()) -> Base:
    return Base(folder.name, repo_id, "0123abcd", folder, Licence("apache-2.0", files=licence_files), False, "folder")
