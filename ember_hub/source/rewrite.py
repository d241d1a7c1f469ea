"""Writes an edited copy of a checkpoint by streaming its files: every byte that is not meant to change stays.

Order of tensors, header metadata, shard layout and dtypes are kept, so that the Hub stores only what is new. No model
is loaded, and memory is bounded by a chunk of changed rows. The output folder appears only when it is whole.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ember_hub.errors import DiskError
from ember_hub.progress import Progress
from ember_hub.source.byte_ranges import copy_range, open_for_reading, write_at
from ember_hub.source.changes import Change, CopyOf, Replacement, RowBytes, Rows, Whole, check_change, pieces
from ember_hub.source.checkpoint import Checkpoint, row_runs
from ember_hub.source.safetensors_file import SafetensorsFile, refuse_lfs_pointer

__all__ = ["Change", "CopyOf", "RowBytes", "Rows", "Whole", "copy_companions", "rewrite"]

_NOT_COMPANIONS = (
    ".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pt", ".pth", ".ckpt", ".npz", ".tflite",
    ".safetensors", ".index.json", ".pyc", ".lock",
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ENAMETOOLONG}


def rewrite(
    checkpoint: Checkpoint,
    out_folder: Path | str,
    changes: Mapping[str, Change],
    progress: Progress,
    finish: Callable[[Path], None] | None = None,
) -> Checkpoint:
    """Writes the checkpoint with these changes, by tensor name, and its companions into a new folder.

    Args:
        out_folder: must not exist, or be empty.
        finish: called with the still hidden folder once all files are there: the place to edit its config.

    Raises:
        ShapeMismatch: a change does not fit its tensor; nothing was written.
        EditError: a value is not finite in the tensor's dtype; nothing was written.
        DiskError: no space, not writable, or there already; nothing is left behind.
        CorruptCheckpoint: the original changed while it was read, or a companion is missing or a git-lfs pointer.
    """
    for name, change in changes.items():
        check_change(checkpoint, name, change)
    plans = [_plan(file, changes) for file in checkpoint.files]
    needed = sum(plan.size for plan in plans) + sum(path.stat().st_size for path in _companions(checkpoint.folder))
    with _partial_folder(Path(out_folder).resolve(), needed) as partial:
        with progress.steps("write checkpoint (bytes)", sum(plan.size for plan in plans)) as step:
            for plan in plans:
                _write_file(plan, partial / plan.source.path.name, step)
        if checkpoint.index is not None:
            _write_index(checkpoint, checkpoint.index, changes, partial)
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
    for name in names:
        (out_folder / name).parent.mkdir(parents=True, exist_ok=True)
        _copy_file(source_folder / name, out_folder / name)
    return tuple(name.as_posix() for name in names)


@dataclass(frozen=True)
class _FilePlan:
    source: SafetensorsFile
    replaced: Mapping[str, Replacement]
    copies: Mapping[str, str]
    prefix: bytes | None

    @property
    def shift(self) -> int:
        """How many bytes further back the data lies than in the source."""
        return 0 if self.prefix is None else len(self.prefix) - self.source.data_start

    @property
    def size(self) -> int:
        return self.source.size + self.shift + sum(self.source.tensors[name].size for name in self.copies.values())


def _plan(source: SafetensorsFile, changes: Mapping[str, Change]) -> _FilePlan:
    origins = {name: change.source_name for name, change in changes.items() if isinstance(change, CopyOf)}
    copies = {name: origin for name, origin in origins.items() if origin in source.tensors}
    replaced = {name: new for name, new in changes.items() if name in source.tensors and not isinstance(new, CopyOf)}
    return _FilePlan(source, replaced, copies, source.prefix_with_copies(copies) if copies else None)


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
        for name in plan.copies.values():
            info = plan.source.tensors[name]
            copy_range(source, target, (info.start, info.stop), end, copied)
            end += info.size
        # Rows go over the copy: a long range is copied once, and on file systems that share blocks stays shared.
        for name, change in plan.replaced.items():
            info = plan.source.tensors[name]
            for ids, data in pieces(info, change):
                copied(data.nbytes if isinstance(change, Whole) else 0)
                rows = memoryview(data.reshape(-1))
                for first, last in row_runs(ids):
                    size = (last + 1 - first) * info.row_size
                    write_at(target.fileno(), rows[:size], info.start + plan.shift + first * info.row_size)
                    rows = rows[size:]


def _write_index(checkpoint: Checkpoint, index: Path, changes: Mapping[str, Change], folder: Path) -> None:
    copies = {name: change for name, change in changes.items() if isinstance(change, CopyOf)}
    if not copies:
        _copy_file(index, folder / index.name)
        return
    content = json.loads(index.read_text("utf-8"))
    weight_map, totals = content["weight_map"], content.get("metadata") or {}
    is_sorted = list(weight_map) == sorted(weight_map)
    for name, change in copies.items():
        info = checkpoint.tensors[change.source_name]
        weight_map[name] = info.file.name
        for key, amount in (("total_size", info.size), ("total_parameters", info.size // info.itemsize)):
            if isinstance(totals.get(key), int | float):
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


@contextmanager
def _partial_folder(out: Path, needed: int) -> Iterator[Path]:
    """A sibling of `out` that takes its name if all goes well, and is gone otherwise."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    created: list[Path] = []
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DiskError(f"{out} exists already", hint="choose another output folder, or move this one away")
        created += [parent for parent in out.parents if not parent.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(out.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        # Containers often give each run the same process id: what a killed run left under it is ours to remove.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        _sync(*partial.rglob("*"), partial)
        partial.rename(out)
        _sync(out.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            _raise_disk_error(error, out, needed)
        raise


def _raise_disk_error(error: OSError, out: Path, needed: int) -> None:
    free = shutil.disk_usage(next(parent for parent in out.parents if parent.is_dir())).free
    sizes = f"{needed / 1e9:,.3f} GB needed, {free / 1e9:,.3f} GB free; {error.strerror}"
    if error.errno in _FULL:
        raise DiskError(f"no space for {out}: {sizes}", hint="free some space, or write to another disk") from error
    if error.errno in _REFUSED:
        found = f"{error.filename or out} cannot be written: {sizes}"
        raise DiskError(found, hint="choose an output folder that you may change") from error


def _sync(*paths: Path) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
