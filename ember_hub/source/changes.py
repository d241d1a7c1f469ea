"""What may change in a checkpoint, as a value: new rows, a new tensor, or a further copy of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ember_hub.errors import EditError, ShapeMismatch
from ember_hub.source.byte_ranges import CHUNK
from ember_hub.source.checkpoint import Checkpoint, as_ids, check_rows
from ember_hub.source.safetensors_file import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENTS = {
    "F8_E5M2": (np.uint8, 0x7C), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F800000), "F64": (np.uint64, 0x7FF0000000000000),
}  # fmt: skip
"""The bits that are all set in numbers that are infinite or none, and only there."""
_NOT_NUMBERS = {"F8_E4M3": (0x7F, 0xFF), "F8_E8M0": (0xFF,)}
"""The same for the types in which a full exponent may belong to a number."""


@dataclass(frozen=True, eq=False)
class Rows:
    """New values (n, d) for the rows `ids` (n,) of a tensor (vocab, d); cast once to the tensor's dtype."""

    ids: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class RowBytes:
    """New rows for the ids (n,) of a tensor, as they shall lie in the file: uint8 (n, row_size). Needs no torch."""

    ids: np.ndarray
    data: np.ndarray


@dataclass(frozen=True, eq=False)
class Whole:
    """New values for a whole tensor, in its shape; cast once to its dtype."""

    values: Tensor


@dataclass(frozen=True)
class CopyOf:
    """A new tensor with the bytes that `source_name` has in the original, whatever else happens to that tensor.

    For a tied model whose output head must keep the original embedding.
    """

    source_name: str


Replacement = Rows | RowBytes | Whole
Change = Replacement | CopyOf


def check_change(checkpoint: Checkpoint, name: str, change: Change) -> None:
    """Checks that a change fits the checkpoint and that all its numbers are numbers.

    Raises:
        ShapeMismatch: no such tensor, or one of another shape or kind.
        EditError: a value is not finite in the tensor's dtype.
    """
    if isinstance(change, CopyOf):
        checkpoint.info(change.source_name)
        if name in checkpoint.tensors or name == "__metadata__":
            raise ShapeMismatch(f"{checkpoint.folder} already has {name!r}", hint="replace it, or choose a new name")
        return
    info = checkpoint.info(name)
    if not isinstance(change, Whole):
        ids = as_ids(change.ids)
        check_rows(info, ids)
        if len(np.unique(ids)) != len(ids):
            raise ShapeMismatch(f"the rows for {name!r} name an id twice", hint="give each row once")
    if isinstance(change, RowBytes):
        _require_shape(name, change.data.shape, (len(change.ids), info.row_size))
        _require_kind(info, str(change.data.dtype), change.data.dtype == np.uint8)
    else:
        expected = info.shape if isinstance(change, Whole) else (len(change.ids), *info.shape[1:])
        _require_shape(name, tuple(change.values.shape), expected)
        is_alike = change.values.is_floating_point() == info.is_floating_point
        _require_kind(info, str(change.values.dtype).removeprefix("torch."), is_alike)
    if not all(_is_finite(data, info.code) for _, data in pieces(info, change)):
        raise EditError(f"new values for {name!r} are not finite as {info.code}", hint="use a lower strength")


def pieces(info: TensorInfo, change: Replacement) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rising row ids (m,) and what shall lie there, uint8 (m, row_size), about a chunk at a time."""
    step = max(1, CHUNK // max(1, info.row_size))
    if isinstance(change, RowBytes):
        order = np.argsort(change.ids, kind="stable")
        for begin in range(0, len(order), step):
            part = order[begin : begin + step]
            yield change.ids[part], change.data[part]
    else:
        yield from _cast_pieces(info, change, step)


def _cast_pieces(info: TensorInfo, change: Rows | Whole, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import torch

    values = change.values.detach() if info.shape else change.values.detach().reshape(1)
    ids, order = change.ids.cpu().sort() if isinstance(change, Rows) else (torch.arange(len(values)), None)
    for begin in range(0, len(ids), step):
        part = slice(begin, begin + step)
        # Older torch has no indexing of float8 on the CPU, and this it has.
        rows = values[part] if order is None else values.index_select(0, order[part].to(values.device))
        data = rows.to("cpu", info.dtype).contiguous().flatten().view(torch.uint8).numpy()
        yield ids[part].numpy(), data.reshape(len(rows), info.row_size)


def _require_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise ShapeMismatch(f"the values for {name!r} have shape {found}, expected {expected}",
                            hint="the edit belongs to another model; make it again for this one")


def _require_kind(info: TensorInfo, found: str, is_alike: bool) -> None:
    if not is_alike:
        raise ShapeMismatch(f"{info.name!r} is {info.code}, its new values are {found}",
                            hint="a quantized model cannot be edited: use the checkpoint it was made from")


def _is_finite(data: np.ndarray, code: str) -> bool:
    """Whether bytes of this type hold neither infinities nor what is no number."""
    if code in _NOT_NUMBERS:
        return not np.isin(data, _NOT_NUMBERS[code]).any()
    if code not in _EXPONENTS:
        return True
    kind, exponent = _EXPONENTS[code]
    numbers = np.ascontiguousarray(data).reshape(-1).view(kind)
    return not bool(((numbers & kind(exponent)) == kind(exponent)).any())
