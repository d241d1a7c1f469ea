"""Writes an edited copy of a checkpoint: every byte that is not meant to change stays, and most are not even copied.

Order of tensors, header metadata, shard layout and dtypes are kept, so that the Hub stores only what is new. A shard
without a change is shared with the original where the file system allows it (see `sharing.share_file` for what that
means to whoever changes files in place); the others are streamed. No model is loaded, and memory is bounded by a chunk
of changed rows. The output folder appears only when it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ember_hub.progress import Progress
from ember_hub.source.byte_ranges import copy_range, open_for_reading, write_at
from ember_hub.source.changes import Change, CopyOf, Replacement, RowBytes, Rows, Whole, check_change, pieces
from ember_hub.source.checkpoint import Checkpoint, row_runs
from ember_hub.source.output_folder import appearing_folder, require_room, sync
from ember_hub.source.safetensors_file import SafetensorsFile, TensorInfo, refuse_lfs_pointer
from ember_hub.source.sharing import share_file

__all__ = ["Change", "CopyOf", "RowBytes", "Rows", "Whole", "copy_companions", "rewrite"]

_CONFIG = "config.json"
_NOT_COMPANIONS = (
    ".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pt", ".pth", ".ckpt", ".npz", ".tflite",
    ".safetensors", ".index.json", ".pyc", ".lock",
)  # fmt: skip


def rewrite(
    checkpoint: Checkpoint,
    out_folder: Path | str,
    changes: Mapping[str, Change],
    progress: Progress,
    finish: Callable[[Path], None] | None = None,
    prove: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint:
    """Writes the checkpoint with these changes, by tensor name, and its companions into a new folder.

    A copied tensor goes to the shard of its origin, unless that would become larger than the largest shard is and
    another one has room.

    A run that is killed leaves at most a hidden folder, without config.json until its last moments, which the next run
    into the same place removes.

    Args:
        out_folder: must not exist, or be empty.
        finish: called with the still hidden folder once all files are there: the place to edit its config.
        prove: called with the written weights before the folder gets its config, and may raise to refuse them.

    Raises:
        ShapeMismatch: a change does not fit its tensor; nothing was written.
        EditError: a value is not finite in the tensor's dtype; nothing was written.
        DiskError: no space, not writable, or there already; nothing is left behind.
        CorruptCheckpoint: the original changed while it was read, or a companion is missing or a git-lfs pointer.
    """
    for name, change in changes.items():
        check_change(checkpoint, name, change)
    homes = _homes_of_copies(checkpoint, changes)
    plans = [_plan(file, changes, homes) for file in checkpoint.files]
    out = Path(out_folder).resolve()
    needed = sum(plan.size for plan in plans if plan.changes) + sum(
        path.stat().st_size for path in _companions(checkpoint.folder))
    with appearing_folder(out, needed) as partial:
        _write_weights(plans, partial, progress)
        if checkpoint.index is not None:
            _write_index(checkpoint.index, homes, partial)
        if prove is not None:
            prove(Checkpoint.open(partial))
        copy_companions(checkpoint.folder, partial)
        if finish is not None:
            finish(partial)
        Checkpoint.open(partial)
    return Checkpoint.open(out_folder)


def copy_companions(source_folder: Path, out_folder: Path) -> tuple[str, ...]:
    """Copies what a model needs besides its weights; returns the relative names.

    Config, tokenizer, chat template, licence, code: every file at the top that is not weights, README.md or hidden,
    and from sub-folders code and chat templates. Links become regular files.

    Raises:
        CorruptCheckpoint: one is a git-lfs pointer or a link to nothing.
    """
    names = [path.relative_to(source_folder) for path in _companions(source_folder)]
    # The config comes last: without it nothing loads what a killed run left.
    names.sort(key=lambda name: name.as_posix() == _CONFIG)
    for name in names:
        (out_folder / name).parent.mkdir(parents=True, exist_ok=True)
        _copy_file(source_folder / name, out_folder / name)
    return tuple(name.as_posix() for name in names)


@dataclass(frozen=True)
class _FilePlan:
    source: SafetensorsFile
    replaced: Mapping[str, Replacement]
    copies: Mapping[str, TensorInfo]
    prefix: bytes | None

    @property
    def changes(self) -> bool:
        return bool(self.replaced or self.copies)

    @property
    def shift(self) -> int:
        """How many bytes further back the data lies than in the source."""
        return 0 if self.prefix is None else len(self.prefix) - self.source.data_start

    @property
    def size(self) -> int:
        return self.source.size + self.shift + sum(info.size for info in self.copies.values())


def _homes_of_copies(checkpoint: Checkpoint, changes: Mapping[str, Change]) -> dict[str, tuple[TensorInfo, Path]]:
    """For each new tensor its origin, and the file that it goes to."""
    largest = max(file.size for file in checkpoint.files)
    filled = {file.path: file.size for file in checkpoint.files}
    homes = {}
    for name, change in changes.items():
        if isinstance(change, CopyOf):
            info = checkpoint.info(change.source_name)
            with_room = [path for path, size in filled.items() if size + info.size <= largest]
            home = info.file if info.file in with_room else min(with_room, key=filled.__getitem__, default=info.file)
            filled[home] += info.size
            homes[name] = (info, home)
    return homes


def _plan(source: SafetensorsFile, changes: Mapping[str, Change],
          homes: Mapping[str, tuple[TensorInfo, Path]]) -> _FilePlan:
    copies = {name: info for name, (info, home) in homes.items() if home == source.path}
    replaced = {name: new for name, new in changes.items() if name in source.tensors and not isinstance(new, CopyOf)}
    return _FilePlan(source, replaced, copies, source.prefix_with_copies(copies) if copies else None)


def _write_weights(plans: Iterable[_FilePlan], folder: Path, progress: Progress) -> None:
    """All files of the weights, in the folder and on the disk."""
    paths = {folder / plan.source.path.name: plan for plan in plans}
    written = {path: plan for path, plan in paths.items() if plan.changes or not share_file(plan.source.path, path)}
    total = sum(plan.size for plan in written.values())
    require_room(folder, total)
    with progress.steps("write checkpoint (bytes)", total) as step:
        for path, plan in written.items():
            _write_file(plan, path, step)
    sync(*written)


def _write_file(plan: _FilePlan, path: Path, copied: Callable[[int], None]) -> None:
    with open_for_reading(plan.source.path) as source, open(path, "xb", buffering=0) as target:
        write_at(target.fileno(), plan.prefix or b"", 0)
        begin = 0 if plan.prefix is None else plan.source.data_start
        whole = [plan.source.tensors[name] for name, change in plan.replaced.items() if isinstance(change, Whole)]
        for info in sorted(whole, key=lambda info: info.start):
            copy_range(source, target, (begin, info.start), begin + plan.shift, copied)
            begin = info.stop
        copy_range(source, target, (begin, plan.source.size), begin + plan.shift, copied)
        end = plan.source.size + plan.shift
        for info in plan.copies.values():
            with open_for_reading(info.file) as origin:
                copy_range(origin, target, (info.start, info.stop), end, copied)
            end += info.size
        # Rows go over the copy: a long range is copied once, and on file systems that share blocks stays shared.
        for name, change in plan.replaced.items():
            _write_changed(target.fileno(), plan.source.tensors[name], change, plan.shift, copied)


def _write_changed(target: int, info: TensorInfo, change: Replacement, shift: int, copied: Callable[[int], None]) -> None:
    for ids, data in pieces(info, change):
        copied(data.nbytes if isinstance(change, Whole) else 0)
        rows = memoryview(data.reshape(-1))
        for first, last in row_runs(ids):
            size = (last + 1 - first) * info.row_size
            write_at(target, rows[:size], info.start + shift + first * info.row_size)
            rows = rows[size:]


def _write_index(index: Path, homes: Mapping[str, tuple[TensorInfo, Path]], folder: Path) -> None:
    if not homes:
        _copy_file(index, folder / index.name)
        return
    content = json.loads(index.read_text("utf-8"))
    weight_map, totals = content["weight_map"], content.get("metadata")
    is_sorted = list(weight_map) == sorted(weight_map)
    for name, (info, home) in homes.items():
        weight_map[name] = home.name
        for key, amount in (("total_size", info.size), ("total_parameters", info.size // info.itemsize)):
            if isinstance(totals, dict) and isinstance(totals.get(key), int | float):
                totals[key] += amount
    if is_sorted:
        content["weight_map"] = dict(sorted(weight_map.items()))
    (folder / index.name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _companions(folder: Path) -> list[Path]:
    """Files at the top, and code and chat templates below; nothing hidden, no weights."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in sorted(files):
            skipped = name.startswith(".") or name.lower().endswith(_NOT_COMPANIONS) or name.lower() == "readme.md"
            if not skipped and (Path(root) == folder or name.endswith((".py", ".jinja"))):
                found.append(Path(root, name))
                with open_for_reading(found[-1]) as file:
                    refuse_lfs_pointer(found[-1], file.read(64))
    return found


def _copy_file(source_path: Path, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with open_for_reading(source_path) as source, open(temporary, "wb", buffering=0) as target:
        copy_range(source, target, (0, os.fstat(source.fileno()).st_size), 0, lambda count: None)
    temporary.replace(path)
