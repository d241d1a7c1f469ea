"""A full edited model: the base's checkpoint streamed into a new folder in which only the edited tensors differ."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ember_hub.edits.edit import Change, Edit, Replaced, ReplacedRows
from ember_hub.errors import DiskError, EditError, EmptyEdit, NotVerified, ShapeMismatch
from ember_hub.patches.untie import declare_untied
from ember_hub.progress import Progress
from ember_hub.source import rewrite as files
from ember_hub.source.anatomy import Anatomy
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.comparison import FileComparison, compare, sha256_after
from ember_hub.source.naming import says_tied, tensor_name, tensor_names

_AGAIN = "the disk or another program changed the files: run the command again"


def export_model(folder: Path, anatomy: Anatomy, edit: Edit, out: Path, progress: Progress) -> FileComparison:
    """Write the edited model to `out`, which appears, or replaces an earlier export, only once it is proven whole.

    A tied base whose embedding is edited gets a head of its own, with the bytes of the original embedding.

    Returns:
        What the proof found: every tensor that the edit does not name is byte for byte the base's. Shards without a
        change may be hard links to the base's files, which `shared_files` tells; `sharing.share_file` says what follows.

    Raises:
        EmptyEdit: the edit changes nothing.
        UnsupportedModel: a parameter of the edit is not one tensor of the checkpoint.
        EditError, ShapeMismatch: a change does not fit its tensor.
        DiskError: no space, not writable, or `out` holds something else.
        NotVerified: what was written is not what was meant; nothing is left behind.
    """
    if not edit.changes:
        raise EmptyEdit("the edit changes no parameter, so there is no edited model to write",
                        hint="choose a method that edits, or loosen the gates that rejected every strength")
    base = Checkpoint.open(folder)
    changes = {tensor_name(base, name): _file_change(change) for name, change in as_stored(folder, edit).changes.items()}
    is_untied = anatomy.embedding in edit.changes and (anatomy.is_tied or says_tied(folder))
    if is_untied:
        changes = _own_head(base, anatomy) | changes
    with replacing(out, folder, "config.json") as fresh:
        comparisons: list[FileComparison] = []

        def proven(written: Checkpoint) -> None:
            comparisons.append(compare(base, written, progress))
            prove(base, changes, comparisons[0])

        files.rewrite(base, fresh, changes, progress, finish=declare_untied if is_untied else None, prove=proven)
    return comparisons[0]


def as_stored(folder: Path, edit: Edit) -> Edit:
    """The edit as the checkpoint can hold it: new rows from the stored rows, all rounded to the tensors' dtypes.

    Verify this one: a model loaded in another dtype than its checkpoint's computes rows that differ in the last bit
    from those that come from the file. Rows are sorted by id; what is stored already stays as it is.

    Raises:
        UnsupportedModel: a parameter of the edit is not one tensor of the checkpoint.
        EditError: a value is not finite in its tensor's dtype.
        ShapeMismatch: an id is named twice, or is no row of its tensor.
    """
    checkpoint = Checkpoint.open(folder)
    return replace(edit, changes={name: _stored(checkpoint, name, change) for name, change in edit.changes.items()})


def require_names(folder: Path, edit: Edit) -> None:
    """Refuse an edit of parameters that the checkpoint does not have by name; reads no tensor.

    Raises:
        UnsupportedModel: a parameter of the edit is not one tensor of the checkpoint.
    """
    checkpoint = Checkpoint.open(folder)
    for name in edit.changes:
        tensor_name(checkpoint, name)


def prove(base: Checkpoint, changes: Mapping[str, files.Change], comparison: FileComparison) -> None:
    """Hold the comparison of base and rewritten checkpoint against the changes that were meant.

    Raises:
        NotVerified: another tensor differs, or a changed one holds other bytes than it should.
    """
    touched = {*comparison.changed, *comparison.added, *comparison.removed}
    strays = sorted(touched - set(changes))
    if strays:
        raise NotVerified(f"{len(strays)} tensors changed that the edit does not name, the first is {strays[0]}", hint=_AGAIN)
    for name, change in changes.items():
        if comparison.rewritten_sha256.get(name) != _expected_sha256(base, name, change, comparison):
            raise NotVerified(f"{name} on disk is not what the edit says", hint=_AGAIN)


@contextmanager
def replacing(out: Path, base_folder: Path, marker: str) -> Iterator[Path]:
    """A hidden sibling of `out` to write into, that takes its name after the block and is gone if anything fails.

    Args:
        marker: the file by which an earlier result of the same kind is known; other folders are never replaced.

    Raises:
        DiskError: `out` is the base or something else, or cannot be written.
    """
    out = out.resolve()
    fresh, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    is_ours = (out / marker).is_file() and not base_folder.resolve().is_relative_to(out)
    if out.exists() and not is_ours and (not out.is_dir() or any(out.iterdir())):
        raise DiskError(f"{out} exists already and is no earlier export", hint="choose another output folder")
    try:
        # What a killed run left under this name is ours to remove.
        shutil.rmtree(fresh, ignore_errors=True)
        yield fresh
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        fresh.rename(out)
    except (OSError, SafetensorError) as error:
        raise DiskError(f"{out} cannot be written: {error}", hint="check its permissions and free space") from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def bytes_sha256(tensor: Tensor) -> str:
    """Hex digest of a tensor's bytes as they lie in a safetensors file."""
    return hashlib.sha256(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())).hexdigest()


def _stored(checkpoint: Checkpoint, parameter: str, change: Change) -> ReplacedRows | Replaced:
    info = checkpoint.info(tensor_name(checkpoint, parameter))
    stored: ReplacedRows | Replaced
    if isinstance(change, Replaced):
        stored = Replaced(change.values.detach().to("cpu", info.dtype))
    else:
        values = change.moved(checkpoint.read_rows(info.name, change.token_ids)).to(info.dtype)
        ids, order = change.token_ids.cpu().sort()
        if len(ids.unique()) != len(ids):
            raise ShapeMismatch(f"the edit of {parameter!r} names a token id twice", hint="give each row once")
        stored = ReplacedRows(ids, values[order])
    if not bool(torch.isfinite(stored.values.float()).all()):
        raise EditError(f"new values for {parameter!r} are not finite as {info.dtype}", hint="use a lower strength")
    return stored


def _file_change(change: Change) -> files.Change:
    if isinstance(change, ReplacedRows):
        return files.Rows(change.token_ids, change.values)
    assert isinstance(change, Replaced), "as_stored leaves no other kind"
    return files.Whole(change.values)


def _own_head(base: Checkpoint, anatomy: Anatomy) -> dict[str, files.Change]:
    """What lets the untied head write what the base's wrote."""
    # A head that the checkpoint holds is the one that transformers reads, also where the config says tied: it stays.
    if anatomy.head is None or tensor_names(base, anatomy.head):
        return {}
    return {anatomy.head: files.CopyOf(tensor_name(base, anatomy.embedding))}


def _expected_sha256(base: Checkpoint, name: str, change: files.Change, comparison: FileComparison) -> str:
    if isinstance(change, files.CopyOf):
        known = comparison.original_sha256.get(change.source_name)
        return known or base.tensor_sha256(change.source_name)
    # Not only the new rows: also that no other row of the table moved.
    return sha256_after(base.info(name), change)
