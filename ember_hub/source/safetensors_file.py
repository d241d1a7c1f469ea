"""One safetensors file: its checked header, and where each tensor lies.

Torch is imported only when a dtype of torch's is asked for: what works on bytes starts in a fraction of a second.

Source: the safetensors format: 8 bytes of header length, a JSON header, then the tensors without gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.errors import CorruptCheckpoint, UnsupportedModel
from ember_hub.source.byte_ranges import chunks_between, open_for_reading

if TYPE_CHECKING:
    import torch

ITEM_SIZES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one number, by the name that the format gives its type."""

_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
_PAGE = 4096
_LARGEST_HEADER = 100_000_000
_FREE_TEXT = 2**18
_TEXT_SHARE = 32
_LARGEST_SIZE = 2**63 - 1
_MOST_AXES = 64
_MOST_SHOWN = 200
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_AGAIN = "download the file again; a copy that was interrupted looks like this"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        code: the type of its numbers, as the format calls it: "BF16".
        file: the safetensors file that holds it.
        start: first byte, counted from the beginning of the file (not of its data section).
        stop: the byte after its last one.
    """

    name: str
    code: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers, as torch calls it."""
        import torch

        return getattr(torch, _TORCH_NAMES[self.code])

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return ITEM_SIZES[self.code]

    @property
    def is_floating_point(self) -> bool:
        """Whether its numbers are real and rounded: an edit can move them."""
        return self.code.startswith(("F", "BF"))

    @property
    def size(self) -> int:
        """Bytes of the whole tensor."""
        return self.stop - self.start

    @property
    def row_size(self) -> int:
        """Bytes of one slice along the first axis; a scalar is one row."""
        return math.prod(self.shape[1:]) * self.itemsize


@dataclass(frozen=True)
class SafetensorsFile:
    """A safetensors file whose header was checked against its size.

    Attributes:
        size: bytes of the file, equal to what the header promises.
        header: the JSON as it lies in the file, padding included.
        metadata: the header's `__metadata__`, such as `{"format": "pt"}`.
        tensors: by name, in the order of their bytes.
    """

    path: Path
    size: int
    header: bytes
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Reads and checks the header, no tensor.

        Raises:
            ModelNotFound: there is no such file.
            CorruptCheckpoint: truncated, inconsistent, a git-lfs pointer or a link to nothing.
            DiskError: the file may not be read.
        """
        with open_for_reading(path) as file:
            size = os.fstat(file.fileno()).st_size
            refuse_lfs_pointer(path, os.pread(file.fileno(), len(_LFS_POINTER), 0))
            length = header_length(path, size, os.pread(file.fileno(), 8, 0))
            return cls.from_header(path, size, os.pread(file.fileno(), length, 8))

    @classmethod
    def from_header(cls, path: Path, size: int, header: bytes) -> SafetensorsFile:
        """Checks a header that was read elsewhere, such as by a ranged download.

        Args:
            size: bytes of the whole file.
            header: the JSON bytes, without the 8 bytes of length before them.

        Raises:
            CorruptCheckpoint: the header is not JSON, or its offsets leave gaps, overlap or miss the file's end.
            UnsupportedModel: a tensor has a dtype of less than a byte, or one that torch does not have.
        """
        entries = json_object(path, header, "the header")
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise CorruptCheckpoint(f"the metadata of {path} is not a map of strings: {str(metadata)[:_MOST_SHOWN]}", hint=_AGAIN)
        tensors = [_tensor_info(path, name, entry, 8 + len(header)) for name, entry in entries.items()]
        tensors.sort(key=lambda info: (info.start, info.stop))
        end = 8 + len(header)
        for info in tensors:
            if info.start != end:
                found = f"{info.name[:_MOST_SHOWN]!r} in {path} starts at byte {info.start:,} instead of {end:,}"
                raise CorruptCheckpoint(found, hint=_AGAIN)
            end = info.stop
        if end != size:
            raise CorruptCheckpoint(f"{path} should have {end:,} bytes, found {size:,} bytes", hint=_AGAIN)
        return cls(path, size, header, metadata, {info.name: info for info in tensors})

    @property
    def data_start(self) -> int:
        """The byte at which the first tensor starts."""
        return 8 + len(self.header)

    def prefix_with_copies(self, copies: Mapping[str, TensorInfo]) -> bytes:
        """The header and its length for a file that holds more tensors after the present ones.

        Args:
            copies: name of the new tensor -> the tensor whose bytes it repeats, of this file or another.
        """
        entries = json.loads(self.header)
        end = self.size - self.data_start
        for name, info in copies.items():
            entries[name] = {"dtype": info.code, "shape": list(info.shape), "data_offsets": [end, end + info.size]}
            end += info.size
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        # Data that keeps its place within a page is copied twice as fast, or shared by file systems that can.
        header += b" " * ((len(self.header) - len(header)) % _PAGE)
        return len(header).to_bytes(8, "little") + header


def header_length(path: Path, size: int, prefix: bytes) -> int:
    """Bytes of the JSON header that a file's first 8 bytes announce, checked before anything of that size is read.

    Raises:
        CorruptCheckpoint: the file is too short for it, or no header is that long.
    """
    length = int.from_bytes(prefix, "little")
    if size < 8 or length > min(size - 8, _LARGEST_HEADER) or not may_describe(length, size):
        found = f"{path} announces a header of {length:,} bytes; the file has {size:,} bytes"
        raise CorruptCheckpoint(found, hint=_AGAIN)
    return length


def may_describe(text: int, data: int) -> bool:
    """Whether JSON of so many bytes may tell of so many bytes of data: more than a 32nd of them beside 256 KiB is no description.

    Parsed, text made to exhaust the reader grows to some 30 times its size. So it is never read, and reading takes no more memory
    than the data has bytes, or than a few megabytes where there is little data.
    """
    return text <= _FREE_TEXT + data // _TEXT_SHARE


def refuse_lfs_pointer(path: Path, head: bytes) -> None:
    """Raises CorruptCheckpoint if these first bytes of the file are those of a git-lfs pointer."""
    if head.startswith(_LFS_POINTER):
        pointer = f"{path} is a git-lfs pointer, not the file itself"
        raise CorruptCheckpoint(pointer, hint="run `git lfs pull` in the model's folder")


def chunks(info: TensorInfo) -> Iterator[bytes]:
    """The bytes of a tensor, `CHUNK` at a time.

    Raises:
        CorruptCheckpoint: the file ends before the tensor does.
    """
    return chunks_between(info.file, info.start, info.stop)


def sha256(info: TensorInfo) -> str:
    """Hex digest of the tensor's bytes, without name, dtype or shape."""
    digest = hashlib.sha256()
    for data in chunks(info):
        digest.update(data)
    return digest.hexdigest()


def json_object(path: Path, text: bytes, what: str) -> dict[str, Any]:
    """Strict JSON: UTF-8, an object, no name twice, no text that cannot be written again.

    Raises:
        CorruptCheckpoint: it is not.
    """
    try:
        return dict(json.loads(text.decode("utf-8"), object_pairs_hook=_checked))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint(f"{what} of {path} is not a JSON object: {str(error)[:_MOST_SHOWN]}", hint=_AGAIN) from error


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name appears twice")
    # An escape can spell half a character, which nothing can print or store.
    for text in (part for pair in pairs for part in pair if isinstance(part, str)):
        text.encode("utf-8")
    return dict(pairs)


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    malformed = f"{name[:_MOST_SHOWN]!r} in {path} has a malformed entry: {str(entry)[:_MOST_SHOWN]}"
    try:
        code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(malformed, hint=_AGAIN) from error
    if not isinstance(code, str) or code not in ITEM_SIZES:
        hint = f"re-save the model with one of {', '.join(ITEM_SIZES)}"
        raise UnsupportedModel(f"{name[:_MOST_SHOWN]!r} in {path} has dtype {str(code)[:_MOST_SHOWN]!r}", hint=hint)
    if not all(type(number) is int and 0 <= number <= _LARGEST_SIZE for number in (*shape, start, stop)):
        raise CorruptCheckpoint(malformed, hint=_AGAIN)
    size = _size(shape, ITEM_SIZES[code])
    if size is None or len(shape) > _MOST_AXES:
        raise CorruptCheckpoint(malformed, hint=_AGAIN)
    if stop - start != size:
        found = f"{name[:_MOST_SHOWN]!r} in {path} has {stop - start:,} bytes; {code} {list(shape)} needs {size:,}"
        raise CorruptCheckpoint(found, hint=_AGAIN)
    return TensorInfo(name, code, shape, path, data_start + start, data_start + stop)


def _size(shape: tuple[int, ...], itemsize: int) -> int | None:
    """Bytes of a tensor; None where even one without its empty axes would be larger than any file."""
    size = itemsize
    for axis in shape:
        size *= max(axis, 1)
        # Multiplied to the end, a long list of numbers would keep a machine busy for hours.
        if size > _LARGEST_SIZE:
            return None
    return 0 if 0 in shape else size
