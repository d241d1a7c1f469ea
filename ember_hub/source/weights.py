"""What every source of weights can tell, whether they lie in a folder or on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ember_hub.errors import UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ember_hub.source.safetensors_file import TensorInfo

_PLAIN = ("F16", "BF16", "F32", "F64")


class Weights(Protocol):
    """The tensors of one checkpoint by name, and rows of them; a `Checkpoint` or a `RemoteCheckpoint`."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All of them by name. On the Hub a lookup may read a header first; names alone never do."""
        ...

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies.

        Raises:
            ShapeMismatch: the checkpoint has no tensor of this name.
        """
        ...

    def read_rows(self, name: str, ids: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Rows (n, d) of a tensor (vocab, d), in the order of `ids` (n,).

        Raises:
            ShapeMismatch: no such tensor, it has no rows, or an id is out of range.
        """
        ...

    def read_row_bytes(self, name: str, ids: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
        """The same rows as they are stored: uint8 (n, bytes of a row)."""
        ...


def require_plain_numbers(info: TensorInfo) -> None:
    """Checks that the rows of a tensor can be used as they are stored.

    An fp8 checkpoint normally leaves its embedding alone; rows of one that does not mean nothing without their scales.

    Raises:
        UnsupportedModel: the tensor is quantized, or holds whole numbers.
    """
    if info.code not in _PLAIN:
        raise UnsupportedModel(f"{info.name!r} is stored as {info.code}: it is quantized",
                               hint="use the original checkpoint; a quantized one is best made from the edited model")
