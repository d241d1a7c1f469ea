"""The only code that writes weights of a loaded model, and puts them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ember_hub.edits.edit import Change, Edit, Replaced
from ember_hub.errors import ShapeMismatch
from ember_hub.source.spread import stored


@contextmanager
def applied(model: nn.Module, edit: Edit) -> Iterator[nn.Module]:
    """The model with the edit inside the block, and bit for bit as it was after it, whatever happens inside."""
    kept: list[tuple[Tensor, Tensor | None, Tensor]] = []
    try:
        for name, change in edit.changes.items():
            kept.append(_write(_parameter(model, name), name, change))
        yield model
    finally:
        with torch.no_grad():
            for parameter, ids, values in reversed(kept):
                if ids is None:
                    parameter.copy_(values)
                else:
                    parameter[ids] = values


def write(model: nn.Module, edit: Edit) -> None:
    """Apply the edit for good, to a model that is thrown away afterwards."""
    for name, change in edit.changes.items():
        _write(_parameter(model, name), name, change)


def _parameter(model: nn.Module, name: str) -> Tensor:
    try:
        return stored(model, name)
    except AttributeError as error:
        raise ShapeMismatch(f"the model has no parameter {name!r}", hint="the edit was made for another model") from error


@torch.no_grad()
def _write(parameter: Tensor, name: str, change: Change) -> tuple[Tensor, Tensor | None, Tensor]:
    """Write one change, cast once; returns the parameter, the touched rows (None: all) and what they held."""
    if isinstance(change, Replaced):
        if parameter.shape != change.values.shape:
            raise ShapeMismatch(f"{name} is {tuple(parameter.shape)}, the edit holds {tuple(change.values.shape)}",
                                hint="the edit was made for another model")
        before = parameter.clone()
        parameter.copy_(change.values)
        return parameter, None, before
    ids = change.token_ids.to(parameter.device)
    if int(ids.max()) >= len(parameter):
        raise ShapeMismatch(f"{name} has {len(parameter)} rows, the edit moves row {int(ids.max())}",
                            hint="the edit was made for another model")
    before = parameter[ids].clone()
    parameter[ids] = change.moved(before.cpu()).to(parameter.dtype).to(parameter.device)
    return parameter, ids, before
