"""The weights of a repository on the Hub, read by byte ranges: rows of a tensor without its file.

`RemoteCheckpoint` answers as `Checkpoint` does for a folder. It is opened on a commit, so that two reads see one version.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ember_hub.errors import CorruptCheckpoint, ModelNotFound
from ember_hub.progress import Progress, Quiet
from ember_hub.source.checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    as_ids,
    as_tensor,
    check_rows,
    no_such_tensor,
    parse_weight_map,
)
from ember_hub.source.ref import ModelRef
from ember_hub.source.remote_cache import KeptParts
from ember_hub.source.remote_connection import Connection, Traffic
from ember_hub.source.remote_file import RemoteFile
from ember_hub.source.safetensors_file import SafetensorsFile, TensorInfo, header_length

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_INDEX = 32 * 2**20
# Most headers fit; the few bytes of data that come along cost less than a second request.
_FIRST_READ = 32 * 1024
_LARGEST_PART = 4 * 2**20
_GAP_SHARE = 0.1
_DAMAGED = "the repository itself is damaged: try another revision, and tell its owner"


class RemoteCheckpoint:
    """The safetensors weights of one repository at one commit; headers are read when a tensor of theirs is asked for.

    Rows that were read are kept in ember-hub's cache (`EMBER_HUB_CACHE`), also those of a call that did not finish.
    """

    def __init__(self, ref: ModelRef, shards: _Shards, progress: Progress) -> None:
        self.place = f"{ref.location}@{ref.revision}"
        self._shards, self._progress = shards, progress

    @classmethod
    def open(cls, repo_id: str, commit: str, progress: Progress | None = None,
             connection: Connection | None = None) -> RemoteCheckpoint:
        """Looks for the weights of a commit; reads the index where there is one, and else the header.

        Where a repository has both, `model.safetensors` goes before the index, as in transformers.

        Args:
            commit: full sha; a name of a branch would not stay the same between two reads.

        Raises:
            ModelNotFound, GatedModel: as their names say.
            CorruptCheckpoint: index or header contradict themselves.
            NoRangedReads: the server gives files as a whole only.
            SourceError: the Hub cannot be reached.
        """
        ref, connection, traffic = ModelRef("hub", repo_id, commit), connection or Connection(), Traffic()
        single = RemoteFile.find(ref, SINGLE_FILE, connection, traffic)
        if single is not None:
            shards = _Shards(ref, connection, traffic, None)
            shards.add(single)
            return cls(ref, shards, progress or Quiet())
        index = RemoteFile.find(ref, INDEX_FILE, connection, traffic)
        if index is None:
            raise ModelNotFound(f"{repo_id} has neither {SINGLE_FILE} nor {INDEX_FILE}",
                                hint="name the repository of a transformers model with safetensors")
        return cls(ref, _Shards(ref, connection, traffic, _read_index(index, _kept(index, ref, connection))), progress or Quiet())

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All of them by name. A lookup may read a header first; names alone never do."""
        return self._shards

    @property
    def bytes_fetched(self) -> int:
        """Bytes received since it was opened, in the bodies of answers."""
        return self._shards.traffic.bytes

    @property
    def requests(self) -> int:
        """Requests made since it was opened."""
        return self._shards.traffic.requests

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies.

        Raises:
            ShapeMismatch: the checkpoint has no tensor of this name.
            CorruptCheckpoint: its shard contradicts the index or itself.
            NoRangedReads, SourceError: the header cannot be read.
        """
        if name not in self._shards:
            raise no_such_tensor(self.place, name, self._shards)
        return self._shards[name]

    def read_rows(self, name: str, ids: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Rows (n, d) of a tensor (vocab, d), in the order of `ids` (n,); fetches only those that are not kept.

        Raises:
            ShapeMismatch: no such tensor, it has no rows, or an id is out of range.
            CorruptCheckpoint: the repository changed meanwhile, or is damaged.
            NoRangedReads, GatedModel, SourceError: the server does not give them.
            DiskError: they cannot be kept.
        """
        info, rows = self.info(name), self.read_row_bytes(name, ids)
        return as_tensor(info, rows, (len(rows), *info.shape[1:]))

    def read_row_bytes(self, name: str, ids: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
        """The same rows as they are stored: uint8 (n, bytes of a row). Raises as `read_rows` does."""
        info, wanted = self.info(name), as_ids(ids)
        check_rows(info, wanted)
        unique, back = np.unique(wanted.astype(np.int64), return_inverse=True)
        rows = np.empty((len(unique), info.row_size), dtype=np.uint8)
        if rows.size:
            self._fill(info, unique, rows)
        # Rows that were asked for in rising order need no second copy.
        return rows if np.array_equal(unique, wanted) else rows[back.reshape(-1)]

    def _fill(self, info: TensorInfo, ids: np.ndarray, rows: np.ndarray) -> None:
        """Rows (n, bytes of a row) of rising ids, from the cache where they are there, else from the Hub."""
        shard = self._shards.holder(info.name)
        missing = ids[~shard.kept.take(info.start + ids * info.row_size, rows)]
        if not missing.size:
            return
        shard.kept.require_room(missing.size * info.row_size)
        parts, stopped = plan_parts(missing, info.row_size), threading.Event()

        def fetch(part: tuple[int, int]) -> int:
            start = info.start + part[0] * info.row_size
            data = shard.file.read(start, info.start + (part[1] + 1) * info.row_size, stopped)
            shard.kept.keep(start, data)
            inside = slice(*np.searchsorted(ids, [part[0], part[1] + 1]))
            rows[inside] = np.frombuffer(data, dtype=np.uint8).reshape(-1, info.row_size)[ids[inside] - part[0]]
            return int(np.searchsorted(missing, part[1] + 1) - np.searchsorted(missing, part[0]))

        pool = ThreadPoolExecutor(min(self._shards.connection.parallel, len(parts)), "ranged-reads")
        try:
            with self._progress.steps(f"reading rows of {info.name}", int(missing.size)) as step:
                for done in as_completed([pool.submit(fetch, part) for part in parts]):
                    step(done.result())
        finally:
            # After an error or Ctrl-C the others neither start nor wait for their next try.
            stopped.set()
            pool.shutdown(cancel_futures=True)


def plan_parts(ids: np.ndarray, row_size: int) -> list[tuple[int, int]]:
    """First and last row of each request that together fetch rising ids (n,).

    Neighbours go together, and so do rows with a small gap between them: the smallest gaps first, as long as what is
    fetched for nothing stays below a tenth of what is wanted.
    """
    gaps = np.diff(ids) - 1
    order = np.argsort(gaps, kind="stable")
    joined = np.zeros(len(gaps), dtype=bool)
    joined[order] = np.cumsum(gaps[order]) <= _GAP_SHARE * len(ids)
    breaks = np.flatnonzero(~joined)
    firsts, lasts = np.concatenate([ids[:1], ids[breaks + 1]]), np.concatenate([ids[breaks], ids[-1:]])
    most = max(1, _LARGEST_PART // row_size)
    return [(start, min(start + most - 1, last)) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
            for start in range(first, last + 1, most)]


@dataclass(frozen=True)
class _Shard:
    file: RemoteFile
    header: SafetensorsFile
    kept: KeptParts


class _Shards(Mapping[str, TensorInfo]):
    """The shards of a repository, opened one by one, as a mapping of all their tensors."""

    def __init__(self, ref: ModelRef, connection: Connection, traffic: Traffic, weight_map: dict[str, str] | None) -> None:
        self.connection, self.traffic = connection, traffic
        self._ref, self._holders = ref, weight_map or {}
        self._opened: dict[str, _Shard] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> TensorInfo:
        return self.holder(name).header.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

    def holder(self, name: str) -> _Shard:
        """The shard that holds a tensor, its header checked.

        Raises:
            KeyError: no shard does.
        """
        path = self._holders[name]
        with self._lock:
            if path not in self._opened:
                file = RemoteFile.find(self._ref, path, self.connection, self.traffic)
                if file is None:
                    raise CorruptCheckpoint(f"{self._ref.location} lacks {path}, which its index names", hint=_DAMAGED)
                self._opened[path] = self._open(file)
            shard = self._opened[path]
        if name not in shard.header.tensors:
            raise CorruptCheckpoint(f"the index of {self._ref.location} puts {name!r} into {path}, which does not hold it",
                                    hint=_DAMAGED)
        return shard

    def add(self, file: RemoteFile) -> None:
        """Opens the only file of a repository without an index."""
        shard = self._opened[file.path] = self._open(file)
        self._holders = dict.fromkeys(shard.header.tensors, file.path)

    def _open(self, file: RemoteFile) -> _Shard:
        kept = _kept(file, self._ref, self.connection)
        place = Path(f"{self._ref.location}@{(self._ref.revision or '')[:8]}", file.path)
        try:
            stop = min(file.size, _FIRST_READ)
            first = _kept_or(kept, stop, lambda: file.read(0, stop))
            end = 8 + header_length(place, file.size, first[:8])
            whole = first if end <= stop else _kept_or(kept, end, lambda: file.read(0, end))
            return _Shard(file, SafetensorsFile.from_header(place, file.size, whole[8:end]), kept)
        except CorruptCheckpoint as error:
            # Downloading it again, as for a file on disk, would not help.
            raise CorruptCheckpoint(error.message, hint=_DAMAGED) from error


def _kept_or(kept: KeptParts, stop: int, read: Callable[[], bytes | bytearray]) -> bytes:
    """The first bytes of a file, from the cache or else from the Hub."""
    part = np.empty((1, stop), dtype=np.uint8)
    if kept.take(np.zeros(1, dtype=np.int64), part)[0]:
        return part.tobytes()
    data = bytes(read())
    kept.keep(0, data)
    return data


def _kept(file: RemoteFile, ref: ModelRef, connection: Connection) -> KeptParts:
    return KeptParts.of(file.name, file.size, ref.revision or "", file.etag, connection.endpoint or "")


def _read_index(index: RemoteFile, kept: KeptParts) -> dict[str, str]:
    if index.size > _LARGEST_INDEX:
        raise CorruptCheckpoint(f"{index.name} has {index.size:,} bytes, which no index needs", hint=_DAMAGED)
    content = _kept_or(kept, index.size, index.read_whole)
    try:
        return parse_weight_map(Path(index.name), content)
    except CorruptCheckpoint as error:
        raise CorruptCheckpoint(error.message, hint=_DAMAGED) from error
