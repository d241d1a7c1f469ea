"""Rows of numbers as raw bytes, as a checkpoint stores them, and the same as values to compute with.

Numpy has no bfloat16: such a row stays bytes, and becomes float32 by appending sixteen zero bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

ITEM_SIZES: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per number, by safetensors' name of the type."""
NAMES: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The same types as torch calls them."""
CODES: Mapping[str, str] = {name: code for code, name in NAMES.items()}

_EXPONENTS = {"F64": (np.uint64, 0x7FF0000000000000), "F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00),
              "BF16": (np.uint16, 0x7F80)}


_AT_ONCE = 4 * 2**20
"""Bytes of rows that are computed with at once: all rows of a patch fit into memory as bytes, perhaps not as float64."""


def blocks(count: int, row_size: int) -> Iterator[slice]:
    """So many rows of so many bytes in blocks, to compute with one after the other."""
    step = max(1, _AT_ONCE // max(1, row_size))
    return (slice(begin, begin + step) for begin in range(0, count, step))


def norms(raw: np.ndarray, code: str) -> np.ndarray:
    """Euclidean length of each raw row: float64 (n,)."""
    return np.concatenate([np.linalg.norm(decode(raw[block], code).astype(np.float64), axis=1) for block in blocks(*raw.shape)])


def decode(raw: np.ndarray, code: str) -> np.ndarray:
    """The values (n, d_model) of raw rows (n, bytes): float32, or float64 where that is what they hold."""
    if code == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(NAMES[code]).astype(np.float64 if code == "F64" else np.float32, copy=False)


def encode(values: np.ndarray, code: str) -> np.ndarray:
    """Raw rows (n, bytes) of values (n, d_model), rounded to nearest, ties to even; too large becomes infinite."""
    with np.errstate(over="ignore"):
        # Through float32 also from float64, as torch does, so that both write the same rows.
        stored = np.ascontiguousarray(values, dtype=np.float64 if code == "F64" else np.float32)
        if code == "F16":
            stored = stored.astype(np.float16)
    if code == "BF16":
        bits = stored.view(np.uint32)
        stored = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        # Rounding up could carry the payload of a NaN into the sign.
        stored[np.isnan(values)] = 0x7FC0
    return stored.view(np.uint8).reshape(len(values), values.shape[1] * ITEM_SIZES[code])


def finite_rows(raw: np.ndarray, code: str) -> np.ndarray:
    """Which raw rows (n, bytes) hold numbers only, neither NaN nor infinity: booleans (n,)."""
    kind, exponent = _EXPONENTS[code]
    parts = [((raw[block].view(kind) & kind(exponent)) != kind(exponent)).all(axis=1) for block in blocks(*raw.shape)]
    return np.concatenate([np.empty(0, bool), *parts])
