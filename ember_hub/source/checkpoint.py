"""A model folder's weights: index, shards and tensors, read by name without loading a model.

`Checkpoint.open` checks everything that can be checked without reading tensor data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ember_hub.errors import CorruptCheckpoint, ModelNotFound, ShapeMismatch, UnsupportedModel
from ember_hub.source.byte_ranges import open_for_reading, read_ranges
from ember_hub.source.safetensors_file import SafetensorsFile, TensorInfo, json_object, may_describe, refuse_lfs_pointer, sha256

if TYPE_CHECKING:
    from torch import Tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_OTHER_WEIGHTS = ("*.bin", "*.gguf", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The safetensors weights of one model folder, checked and ready to be read tensor by tensor.

    Attributes:
        files: the shards in the order of their names; one for an unsharded model.
        index: the index file, or None for an unsharded model.
        tensors: all of them by name, in file order.
    """

    folder: Path
    files: tuple[SafetensorsFile, ...]
    index: Path | None
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, folder: Path | str) -> Checkpoint:
        """Reads and checks the headers of a folder's weights; no tensor data.

        Where a folder has both, `model.safetensors` goes before the index, as in transformers.

        Raises:
            ModelNotFound: no such folder, or none with weights.
            UnsupportedModel: it has weights, but not as safetensors.
            CorruptCheckpoint: truncated, inconsistent or incomplete files.
            DiskError: a file may not be read.
        """
        folder = Path(folder)
        index: Path | None
        files: tuple[SafetensorsFile, ...]
        if _is_there(folder / SINGLE_FILE):
            index, files = None, (SafetensorsFile.open(folder / SINGLE_FILE),)
        elif _is_there(folder / INDEX_FILE):
            index = folder / INDEX_FILE
            files = _open_shards(folder, read_weight_map(index))
        else:
            raise _no_checkpoint(folder)
        return cls(folder, files, index, {name: info for file in files for name, info in file.tensors.items()})

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies.

        Raises:
            ShapeMismatch: the checkpoint has no tensor of this name.
        """
        if name not in self.tensors:
            raise no_such_tensor(str(self.folder), name, self.tensors)
        return self.tensors[name]

    def read(self, name: str) -> Tensor:
        """The whole tensor, in its own shape and dtype.

        Raises:
            ShapeMismatch: the checkpoint has no tensor of this name.
        """
        info = self.info(name)
        return as_tensor(info, read_ranges(info.file, [(info.start, info.stop)]), info.shape)

    def read_rows(self, name: str, ids: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Rows (n, d) of a tensor (vocab, d), in the order of `ids` (n,); reads only these, neighbours together.

        Raises:
            ShapeMismatch: no such tensor, it has no rows, or an id is out of range.
        """
        info, rows = self.info(name), self.read_row_bytes(name, ids)
        return as_tensor(info, rows, (len(rows), *info.shape[1:]))

    def read_row_bytes(self, name: str, ids: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
        """The same rows as they lie in the file: uint8 (n, row_size), for those who do without torch.

        Raises:
            ShapeMismatch: no such tensor, it has no rows, or an id is out of range.
        """
        info, wanted = self.info(name), as_ids(ids)
        check_rows(info, wanted)
        unique, back = np.unique(wanted, return_inverse=True)
        ranges = [
            (info.start + int(first) * info.row_size, info.start + (int(last) + 1) * info.row_size)
            for first, last in row_runs(unique)
        ]
        rows = read_ranges(info.file, ranges).reshape(len(unique), info.row_size)
        # Rows that were asked for in rising order need no second copy.
        return rows if np.array_equal(unique, wanted) else rows[back.reshape(-1)]

    def tensor_sha256(self, name: str) -> str:
        """Hex digest of a tensor's bytes as they lie in the file."""
        return sha256(self.info(name))


def no_such_tensor(place: str, name: str, names: Iterable[str]) -> ShapeMismatch:
    """The error for a name that none of the tensors of a checkpoint has."""
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "look at its config and tensor names"
    return ShapeMismatch(f"{place} has no tensor {name!r}", hint=hint)


def as_ids(ids: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
    """Row ids as numpy knows them, wherever they come from."""
    return ids if isinstance(ids, np.ndarray) else np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)


def as_tensor(info: TensorInfo, data: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Bytes of a tensor, or of rows of it, as torch knows them."""
    import torch

    # Torch gives an array of nothing no stride, and then cannot see it as another type.
    return torch.from_numpy(data.reshape(-1)).view(info.dtype).reshape(shape) if data.size else torch.empty(shape, dtype=info.dtype)


def check_rows(info: TensorInfo, ids: np.ndarray) -> None:
    """Checks that ids (n,) are rows of the tensor.

    Raises:
        ShapeMismatch: the tensor has no rows, the ids are not a vector of whole numbers, or one is out of range.
    """
    if not info.shape:
        raise ShapeMismatch(f"{info.name!r} is a single number and has no rows", hint="name a matrix")
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ShapeMismatch(f"row ids are {ids.dtype} {ids.shape}, not whole numbers (n,)", hint="pass one list of ids")
    # An id beyond the end would silently read or write the tensor that follows in the file.
    outside = ids[(ids < 0) | (ids >= info.shape[0])]
    if outside.size:
        raise ShapeMismatch(
            f"{info.name!r} has rows 0 to {info.shape[0] - 1}; out of range: {outside[:5].tolist()}",
            hint="the ids belong to another tokenizer or model; make them again for this one",
        )


def row_runs(ids: np.ndarray) -> list[tuple[int, int]]:
    """First and last id of each run of neighbours in rising ids (n,)."""
    if not ids.size:
        return []
    breaks = np.flatnonzero(np.diff(ids) != 1)
    firsts, lasts = np.concatenate([ids[:1], ids[breaks + 1]]), np.concatenate([ids[breaks], ids[-1:]])
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard name, from an index file; raises as `parse_weight_map` does."""
    with open_for_reading(index) as file:
        size = os.fstat(file.fileno()).st_size
        if not may_describe(size, sum(path.stat().st_size for path in index.parent.glob("*.safetensors") if path.is_file())):
            raise CorruptCheckpoint(f"{index} has {size:,} bytes, which is no index", hint="download the index again")
        return parse_weight_map(index, file.read())


def parse_weight_map(index: Path, text: bytes) -> dict[str, str]:
    """Tensor name -> shard name, from the content of a safetensors index.

    Raises:
        CorruptCheckpoint: not JSON, no weight map, or a shard that is not a plain file name.
    """
    refuse_lfs_pointer(index, text)
    again = "download the index again"
    weight_map = json_object(index, text, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpoint(f"{index} is not a safetensors index: it maps no tensor to a shard", hint=again)
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
            raise CorruptCheckpoint(f"{index} names a shard outside its folder: {str(shard)[:200]!r}", hint=again)
    return weight_map


def _open_shards(folder: Path, weight_map: Mapping[str, str]) -> tuple[SafetensorsFile, ...]:
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not _is_there(folder / shard)]
    if missing:
        raise CorruptCheckpoint(
            f"{folder} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:3])}",
            hint="download the model again; finished files are kept",
        )
    files = {shard: SafetensorsFile.open(folder / shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in files[shard].tensors:
            raise CorruptCheckpoint(
                f"the index of {folder} puts {name!r} into {shard}, which does not hold it",
                hint="index and shards are of different versions; download both from one commit",
            )
    holders: dict[str, str] = {}
    for shard, file in files.items():
        for name in file.tensors:
            if holders.setdefault(name, shard) != shard:
                raise CorruptCheckpoint(
                    f"{folder} holds {name!r} in both {holders[name]} and {shard}",
                    hint="save the model again, so that each tensor lies in one shard",
                )
    return tuple(files.values())


def _no_checkpoint(folder: Path) -> ModelNotFound | UnsupportedModel:
    if not folder.is_dir():
        return ModelNotFound(f"there is no folder {folder}", hint="give a model's folder or its name on the Hub")
    if (folder / "adapter_config.json").exists():
        return UnsupportedModel(
            f"{folder} holds an adapter, not a full model", hint="merge it into its base model first, or name the base"
        )
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        return UnsupportedModel(
            f"{folder} has no {SINGLE_FILE}, only {', '.join(others[:3])}",
            hint="load it with transformers and save it again with save_pretrained: that writes safetensors",
        )
    return ModelNotFound(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}", hint="give the folder that holds the weights"
    )


def _is_there(path: Path) -> bool:
    # A link to a blob that is gone counts: opening it tells more than "not found".
    return os.path.lexists(path)
