"""How much memory a model takes and how much there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ember_hub.source.anatomy import Anatomy


def available_memory(device: str | torch.device = "cpu") -> int:
    """Bytes that can be taken now without swapping; on a CUDA device what is free there."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters as the checkpoint holds them: a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def embedding_bytes(anatomy: Anatomy, dtype: torch.dtype) -> int:
    """Bytes of the embedding matrix, all that an embedding edit needs."""
    return anatomy.vocab * anatomy.d_model * dtype.itemsize


def model_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Bytes of the model's weights once loaded and untied: works on a model without weights.

    Activations come on top; leave a quarter of the memory for them.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    return (parameter_count(model) + (embedding.weight.numel() if is_tied else 0)) * dtype.itemsize
