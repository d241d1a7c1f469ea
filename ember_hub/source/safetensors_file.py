"""One safetensors file: its checked header, and reads and copies of byte ranges.

Nothing is mapped into memory: a range is read when it is asked for, so memory is bounded by what the caller holds.

Source: the safetensors format: 8 bytes of header length, a JSON header, then the tensors without gaps.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ember_hub.errors import CorruptCheckpoint, DiskError, ModelNotFound, UnsupportedModel

CHUNK = 2**20
DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip

_KERNEL_STEP = 64 * 2**20
_PAGE = 4096
_LARGEST_HEADER = 100_000_000
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_AGAIN = "download the file again; a copy that was interrupted looks like this"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        file: the safetensors file that holds it.
        start: first byte, counted from the beginning of the file (not of its data section).
        stop: the byte after its last one.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes of the whole tensor."""
        return self.stop - self.start

    @property
    def row_size(self) -> int:
        """Bytes of one slice along the first axis; a scalar is one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


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
            length = int.from_bytes(os.pread(file.fileno(), 8, 0), "little")
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                found = f"{path} announces a header of {length:,} bytes; the file has {size:,} bytes"
                raise CorruptCheckpoint(found, hint=_AGAIN)
            return cls.from_header(path, size, os.pread(file.fileno(), length, 8))

    @classmethod
    def from_header(cls, path: Path, size: int, header: bytes) -> SafetensorsFile:
        """Checks a header that was read elsewhere, such as by a ranged download.

        Args:
            size: bytes of the whole file.
            header: the JSON bytes, without the 8 bytes of length before them.

        Raises:
            CorruptCheckpoint: the header is not JSON, or its offsets leave gaps, overlap or miss the file's end.
            UnsupportedModel: a tensor has a dtype that torch does not have.
        """
        entries = _entries(path, header)
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise CorruptCheckpoint(f"the metadata of {path} is not a map of strings: {metadata!r}", hint=_AGAIN)
        tensors = [_tensor_info(path, name, entry, 8 + len(header)) for name, entry in entries.items()]
        tensors.sort(key=lambda info: (info.start, info.stop))
        end = 8 + len(header)
        for info in tensors:
            if info.start != end:
                found = f"{info.name!r} in {path} starts at byte {info.start:,} instead of {end:,}"
                raise CorruptCheckpoint(found, hint=_AGAIN)
            end = info.stop
        if end != size:
            raise CorruptCheckpoint(f"{path} should have {end:,} bytes, found {size:,} bytes", hint=_AGAIN)
        return cls(path, size, header, metadata, {info.name: info for info in tensors})

    @property
    def data_start(self) -> int:
        """The byte at which the first tensor starts."""
        return 8 + len(self.header)

    def prefix_with_copies(self, copies: Mapping[str, str]) -> bytes:
        """The header and its length for a file that holds more tensors after the present ones.

        Args:
            copies: name of the new tensor -> name of the tensor of this file whose bytes it repeats.
        """
        entries = json.loads(self.header)
        end = self.size - self.data_start
        for name, source in copies.items():
            size = self.tensors[source].size
            entries[name] = {**entries[source], "data_offsets": [end, end + size]}
            end += size
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        # Data that keeps its place within a page is copied twice as fast, or shared by file systems that can.
        header += b" " * ((len(self.header) - len(header)) % _PAGE)
        return len(header).to_bytes(8, "little") + header


def open_for_reading(path: Path) -> BinaryIO:
    """Opens a file of the checkpoint, unbuffered, through any links.

    Raises:
        ModelNotFound: there is no such file.
        CorruptCheckpoint: it is a link to a file that is gone.
        DiskError: it may not be read.
    """
    try:
        return open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        if path.is_symlink():
            gone = f"{path} links to {os.readlink(path)}, which is gone"
            raise CorruptCheckpoint(gone, hint="download the model again") from error
        raise ModelNotFound(f"there is no file {path}", hint="check the folder, or download the model") from error
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise DiskError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error


def refuse_lfs_pointer(path: Path, head: bytes) -> None:
    """Raises CorruptCheckpoint if these first bytes of the file are those of a git-lfs pointer."""
    if head.startswith(_LFS_POINTER):
        pointer = f"{path} is a git-lfs pointer, not the file itself"
        raise CorruptCheckpoint(pointer, hint="run `git lfs pull` in the model's folder")


def read_ranges(path: Path, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """The bytes of several `[start, stop)` ranges, one after the other, as a uint8 tensor (n,).

    Raises:
        CorruptCheckpoint: the file ends before a range does.
    """
    buffer = torch.empty(sum(stop - start for start, stop in ranges), dtype=torch.uint8)
    view = memoryview(buffer.numpy())
    with open_for_reading(path) as file:
        for start, stop in ranges:
            while start < stop:
                count = os.preadv(file.fileno(), [view[: stop - start]], start)
                _require(count, path, start)
                start, view = start + count, view[count:]
    return buffer


def chunks(info: TensorInfo) -> Iterator[bytes]:
    """The bytes of a tensor, `CHUNK` at a time.

    Raises:
        CorruptCheckpoint: the file ends before the tensor does.
    """
    with open_for_reading(info.file) as file:
        start = info.start
        while start < info.stop:
            data = os.pread(file.fileno(), min(CHUNK, info.stop - start), start)
            _require(len(data), info.file, start)
            start += len(data)
            yield data


def sha256(info: TensorInfo) -> str:
    """Hex digest of the tensor's bytes, without name, dtype or shape."""
    digest = hashlib.sha256()
    for data in chunks(info):
        digest.update(data)
    return digest.hexdigest()


def copy_range(
    source: BinaryIO, target: BinaryIO, span: tuple[int, int], offset: int, copied: Callable[[int], None]
) -> None:
    """Copies bytes `[start, stop)` of one open file to `offset` of another, inside the kernel where it can.

    Args:
        copied: told the bytes just written, at least every 64 MiB.

    Raises:
        CorruptCheckpoint: the source ends before the range does.
    """
    start, stop = span
    shift, buffer = offset - start, memoryview(bytearray(CHUNK))
    while start < stop:
        count = _copy_in_kernel(source.fileno(), target.fileno(), start, start + shift, stop - start)
        if count == 0:
            count = os.preadv(source.fileno(), [buffer[: stop - start]], start)
            write_at(target.fileno(), buffer[:count], start + shift)
        _require(count, Path(source.name), start)
        start += count
        copied(count)


def write_at(target: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of the data at this byte of an open file."""
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count


def _copy_in_kernel(source: int, target: int, start: int, offset: int, count: int) -> int:
    """Bytes copied; 0 where reading and writing is the only way, or the faster one."""
    # Bytes that move within a page take the kernel two copies per page.
    if not hasattr(os, "copy_file_range") or (offset - start) % _PAGE:
        return 0
    # To a page border first: file systems share whole pages only.
    count = min(count, -start % _PAGE or _KERNEL_STEP)
    try:
        # Some network and overlay file systems answer 0 although there is more.
        return os.copy_file_range(source, target, count, start, offset)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        return 0


def _require(count: int, path: Path, position: int) -> None:
    if count == 0:
        raise CorruptCheckpoint(f"{path} ended at byte {position:,} while it was read", hint=_AGAIN)


def _entries(path: Path, header: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(header, object_pairs_hook=_unique))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint(f"the header of {path} is not a JSON object: {error}", hint=_AGAIN) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name appears twice")
    return dict(pairs)


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{name!r} in {path} has a malformed entry: {entry!r}", hint=_AGAIN) from error
    if not isinstance(code, str) or code not in DTYPES:
        hint = f"re-save the model with one of {', '.join(DTYPES)}"
        raise UnsupportedModel(f"{name!r} in {path} has dtype {code!r}", hint=hint)
    if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        raise CorruptCheckpoint(f"{name!r} in {path} has a malformed entry: {entry!r}", hint=_AGAIN)
    size = math.prod(shape) * DTYPES[code].itemsize
    if stop - start != size:
        found = f"{name!r} in {path} has {stop - start:,} bytes; {code} {list(shape)} needs {size:,}"
        raise CorruptCheckpoint(found, hint=_AGAIN)
    return TensorInfo(name, DTYPES[code], shape, path, data_start + start, data_start + stop)
