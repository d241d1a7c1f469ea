"""Files of a patch: small safetensors files of raw rows, JSON, and a file that appears only when it is whole.

Written by hand because the library's numpy side has no bfloat16, and its metadata no fixed order.
Source: the safetensors format.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.errors import DiskError, PatchInvalid
from ember_hub.source.byte_ranges import read_ranges
from ember_hub.source.safetensors_file import SafetensorsFile, may_describe

_ALIGNMENT = 8
_AGAIN = "download the patch again, or make it again from its run"


@dataclass(frozen=True, eq=False)
class RawTensor:
    """A tensor as bytes.

    Attributes:
        code: safetensors' name of its type, such as "BF16".
        data: an array of any type whose bytes these are, contiguous.
    """

    code: str
    shape: tuple[int, ...]
    data: np.ndarray

    def view(self, kind: type) -> np.ndarray:
        """The tensor as numbers of a numpy type, in its shape."""
        return self.data.view(kind).reshape(self.shape)


def write_tensors(path: Path, tensors: Mapping[str, RawTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, widest numbers first and then by name, as the library does."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end, ordered = 0, sorted(tensors.items(), key=lambda item: (-item[1].data.nbytes // max(1, math.prod(item[1].shape)), item[0]))
    for name, tensor in ordered:
        entries[name] = {"dtype": tensor.code, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.data.nbytes]}
        end += tensor.data.nbytes
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in ordered:
            file.write(memoryview(np.ascontiguousarray(tensor.data)).cast("B"))


def read_tensors(path: Path) -> tuple[dict[str, RawTensor], Mapping[str, str]]:
    """All tensors of a file and its metadata; takes no more memory than the file has bytes.

    Raises:
        ModelNotFound, CorruptCheckpoint, DiskError: it is missing, damaged or not readable.
    """
    file = SafetensorsFile.open(path)
    return {name: RawTensor(info.code, info.shape, np.asarray(read_ranges(info.file, [(info.start, info.stop)])))
            for name, info in file.tensors.items()}, file.metadata


def read_json(path: Path, most: int | None = None) -> dict[str, Any]:
    """The JSON object in a file of so many bytes at most; unless told otherwise, of as many as may describe the tensors beside it.

    Raises:
        PatchInvalid: it is missing, too large, or no JSON object.
    """
    try:
        size = path.stat().st_size
        beside = sum(other.stat().st_size for other in path.parent.glob("*.safetensors") if other.is_file())
        if not may_describe(size, beside) if most is None else size > most:
            raise PatchInvalid(f"{path} has {size:,} bytes, too many for what it says", hint=_AGAIN)
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PatchInvalid(f"{path.parent} is no patch: it has no {path.name}",
                           hint="give the folder or repository of a patch that ember-hub made") from error
    except OSError as error:
        raise DiskError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise PatchInvalid(f"{path} is not JSON: {error}", hint=_AGAIN) from error
    if not isinstance(content, dict):
        raise PatchInvalid(f"{path} holds {type(content).__name__}, not an object", hint=_AGAIN)
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def require_new(path: Path) -> None:
    """Refuse an output that is there already, or is a link to somewhere.

    Raises:
        DiskError: it is.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise DiskError(f"{path} exists already", hint="choose another output, or move this one away")


@contextmanager
def appearing_file(out: Path) -> Iterator[Path]:
    """A hidden path beside `out`, to write a file to, that takes its name after the block; gone if anything fails.

    Raises:
        DiskError: `out` exists, or cannot be written.
    """
    require_new(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(out)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DiskError(f"{out} cannot be written: {error.strerror or error}",
                        hint="free some space" if is_full else "choose a place that you may write to") from error
    finally:
        partial.unlink(missing_ok=True)
