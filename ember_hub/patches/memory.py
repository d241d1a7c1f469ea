"""A patch into a loaded model, and out of it again. The only module of this room that meets torch, and it imports it late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ember_hub.errors import WrongBase
from ember_hub.patches import numerics
from ember_hub.patches.patch import Patch, sha256

if TYPE_CHECKING:
    from torch import Tensor, nn


def apply_to(patch: Patch, model: nn.Module) -> None:
    """See `Patch.apply_to`."""
    from torch import nn

    embedding = _embedding(patch, model)
    ids = _require_rows(patch, embedding, patch.originals, patch.rows, "the base's")
    head = _head(model)
    if head is not None and head.weight is embedding:
        if patch.guard is None:
            raise WrongBase("the model has one matrix as embedding and head; the patch was made for a base with a head of its own",
                            hint=f"load {patch.base.title}")
        # Untie first, or the output head is edited too.
        head.weight = nn.Parameter(embedding.detach().clone(), requires_grad=embedding.requires_grad)
        _say_tied(model, False)
    _write(embedding, ids, _values(patch, patch.rows, embedding))


def remove_from(patch: Patch, model: nn.Module) -> None:
    """See `Patch.remove_from`."""
    import torch

    originals, embedding = patch.required_originals("put them back"), _embedding(patch, model)
    ids = _require_rows(patch, embedding, patch.rows, originals, "the patch's")
    _write(embedding, ids, _values(patch, originals, embedding))
    head = _head(model)
    if patch.table.is_tied and head is not None and torch.equal(head.weight, embedding):
        head.weight = embedding
        _say_tied(model, True)


def _embedding(patch: Patch, model: nn.Module) -> Any:
    table = patch.table
    try:
        embedding = model.get_parameter(table.parameter)
    except AttributeError as error:
        raise WrongBase(f"the model has no parameter {table.parameter!r}", hint=f"load {patch.base.title}") from error
    if tuple(embedding.shape) != (table.vocab, table.d_model):
        raise WrongBase(f"{table.parameter} is {tuple(embedding.shape)}; the patch was made for {(table.vocab, table.d_model)}",
                        hint=f"load {patch.base.title}")
    return embedding


def _require_rows(patch: Patch, embedding: Tensor, expected: np.ndarray | None, others: np.ndarray, whose: str) -> Tensor:
    """The ids on the model's device, once its rows are the expected ones in its own dtype.

    expected: none where the patch came without the base's rows. Their digest stands in then, for a model of the same dtype.
    """
    import torch

    ids = torch.from_numpy(patch.token_ids).to(embedding.device)
    rows = embedding.detach()[ids]
    if expected is not None:
        fits = torch.equal(rows, _values(patch, expected, embedding))
    else:
        fits = str(rows.dtype) != f"torch.{numerics.NAMES[patch.table.dtype]}" or sha256(_raw(rows)) == patch.original_sha256
    if not fits:
        is_done = torch.equal(rows, _values(patch, others, embedding))
        told = ": there is nothing to do" if is_done else ""
        raise WrongBase(f"the model does not hold {whose} rows of {patch.table.parameter}{told}",
                        hint=f"the patch was made for {patch.base.title}")
    return ids


def _raw(rows: Tensor) -> np.ndarray:
    import torch

    return rows.cpu().contiguous().view(torch.uint8).numpy()


def _values(patch: Patch, rows: np.ndarray, like: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(numerics.decode(rows, patch.table.dtype)).to(like.device, like.dtype)


def _write(embedding: Tensor, ids: Tensor, values: Tensor) -> None:
    import torch

    with torch.no_grad():
        embedding[ids] = values


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _say_tied(model: Any, is_tied: bool) -> None:
    config = getattr(model, "config", None)
    if config is not None:
        config.tie_word_embeddings = is_tied
        text = config.get_text_config()
        text.tie_word_embeddings = is_tied
