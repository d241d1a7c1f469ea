"""A patch into a checkpoint folder, and out of it again; the folder itself is never changed, only a new one is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ember_hub.errors import NotVerified, PatchInvalid, WrongBase
from ember_hub.patches.patch import Patch, Table, sha256
from ember_hub.patches.storage import appearing_file, require_new
from ember_hub.patches.undo import Undo, write_undo
from ember_hub.patches.untie import CONFIG, declare_untied, drop_tensor, read_config, untied
from ember_hub.progress import Progress
from ember_hub.source.changes import Change, CopyOf, RowBytes
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.naming import says_tied, tensor_name, tensor_names
from ember_hub.source.rewrite import rewrite


@dataclass(frozen=True)
class Written:
    """A checkpoint folder that was written.

    Attributes:
        rows: how many rows of the embedding differ from the folder it was made from.
        head: what became of a tied base's head: "given" one of its own, "taken" away again, or None.
    """

    folder: Path
    rows: int
    head: str | None


def apply(patch: Patch, folder: Path, out: Path, progress: Progress, undo: Path | None = None) -> Written:
    """Write the base with the patch's rows into a new folder, as a full export of the same edit would.

    A tied base gets a head of its own, with the bytes of its embedding.

    Args:
        undo: where to keep what takes the patch out again.

    Raises:
        WrongBase: vocabulary, width, dtype or rows are not those that the patch was made for.
        DiskError: an output exists, or cannot be written.
        ModelNotFound, UnsupportedModel, CorruptCheckpoint: the folder is no checkpoint.
    """
    for output in (out, *(() if undo is None else (undo,))):
        require_new(output)
    checkpoint, table = Checkpoint.open(folder), patch.table
    tensor = _table_in(checkpoint, table)
    originals = checkpoint.read_row_bytes(tensor, patch.token_ids)
    _require_rows(patch, originals, folder)
    config = read_config(folder)
    changes: dict[str, Change] = {tensor: RowBytes(patch.token_ids, patch.rows)}
    # A head that the checkpoint holds is the one that transformers reads, also where the config says tied: it stays.
    if patch.guard is not None and table.head is not None and not tensor_names(checkpoint, table.head):
        changes[table.head] = CopyOf(tensor)
    elif patch.guard is None and says_tied(folder):
        raise WrongBase(f"{folder} has one matrix as embedding and head; the patch was made for a base with a head of its own",
                        hint=f"apply it to {patch.base.title}")
    finish = declare_untied if patch.guard is not None else None
    with appearing_file(undo) if undo else nullcontext() as partial:
        if partial is not None:
            write_undo(replace(patch, originals=originals, config=config if finish else None), partial)
        rewrite(checkpoint, out, changes, progress, finish, _proof(tensor, patch.token_ids, patch.new_sha256))
    return Written(out, len(patch), "given" if table.head in changes else None)


def revert(undo: Undo, folder: Path, out: Path, progress: Progress) -> Written:
    """Write a patched checkpoint with the base's own rows, bit for bit, into a new folder.

    The head that a tied base was given goes again, and config.json is the base's, byte for byte.

    Raises:
        WrongBase: the folder does not hold the patch's rows, or its head or config changed since.
        PatchInvalid: the base's config.json is not known.
        DiskError: the output exists, or cannot be written.
        ModelNotFound, UnsupportedModel, CorruptCheckpoint: the folder is no checkpoint.
    """
    require_new(out)
    checkpoint, about = Checkpoint.open(folder), undo.about
    tensor = _table_in(checkpoint, about.table)
    found = sha256(checkpoint.read_row_bytes(tensor, about.token_ids))
    if found != about.new_sha256:
        is_base = found == about.original_sha256
        raise WrongBase(f"{folder} does not hold the rows of the patch for {about.base.title}"
                        f"{': it holds the rows of the base' if is_base else ''}",
                        hint="there is nothing to undo" if is_base else "name the folder that `patch apply` wrote")
    finish = _restoration(undo, checkpoint, tensor) if undo.guard is not None else None
    rewrite(checkpoint, out, {tensor: RowBytes(about.token_ids, undo.originals)}, progress, finish,
            _proof(tensor, about.token_ids, about.original_sha256))
    return Written(out, len(about.token_ids), "taken" if finish and not about.table.holds_head else None)


def undo_of(patch: Patch, base: Path | None) -> Undo:
    """What undoes the patch: with what it kept itself, or else with the rows and the config of its base.

    Raises:
        PatchInvalid: the patch came without the base's rows, and no base is given.
        WrongBase: the base is another one.
    """
    if base is None:
        return Undo.of(patch, patch.required_originals("undo it (or name the base: --base)"), patch.config)
    checkpoint = Checkpoint.open(base)
    originals = checkpoint.read_row_bytes(_table_in(checkpoint, patch.table), patch.token_ids)
    _require_rows(patch, originals, base)
    return Undo.of(patch, originals, read_config(base) if patch.guard is not None else None)


def _table_in(checkpoint: Checkpoint, table: Table) -> str:
    """Name of the tensor that holds the table in this checkpoint."""
    info = checkpoint.info(tensor_name(checkpoint, table.parameter))
    expected = (table.dtype, (table.vocab, table.d_model))
    if (info.code, info.shape) != expected:
        raise WrongBase(f"{info.name} in {checkpoint.folder} is {info.code} {list(info.shape)}; the patch was made for "
                        f"{table.dtype} {[table.vocab, table.d_model]}", hint="give the model that the patch names as its base")
    return info.name


def _require_rows(patch: Patch, rows: np.ndarray, folder: Path) -> None:
    found = sha256(rows)
    if found == patch.original_sha256:
        return
    if found == patch.new_sha256:
        raise WrongBase(f"{folder} holds the rows of this patch already", hint="there is nothing to apply")
    told = ""
    if patch.originals is not None:
        differing = patch.token_ids[(rows != patch.originals).any(axis=1)]
        told = f": {len(differing)} of {len(patch)} rows differ, the first is that of token {differing[0]}"
    raise WrongBase(f"{folder} holds other rows than {patch.base.title}, for which the patch was made{told}",
                    hint="give that model at that commit; `ember-hub patch check` says whether a newer one would do")


def _restoration(undo: Undo, checkpoint: Checkpoint, tensor: str) -> Callable[[Path], None]:
    """What makes the written folder tied again; everything that can be refused is refused here, before it is written."""
    table, folder = undo.about.table, checkpoint.folder
    if undo.config is None:
        raise PatchInvalid(f"the config.json of {undo.about.base.title} is not known", hint="name the base: --base")
    if json.loads(read_config(folder)) != untied(json.loads(undo.config)):
        raise WrongBase(f"{folder}/config.json was changed since the patch was applied",
                        hint="put it back, or name the folder that `patch apply` wrote")
    assert table.head is not None, "only a model with a head is tied"
    head = None if table.holds_head else tensor_name(checkpoint, table.head)

    def restore(partial: Path) -> None:
        if head is not None:
            written = Checkpoint.open(partial)
            if written.tensor_sha256(head) != written.tensor_sha256(tensor):
                raise WrongBase(f"{head} in {folder} is not the base's embedding: it was changed since the patch was applied",
                                hint="name the folder that `patch apply` wrote")
            drop_tensor(partial, head)
        (partial / CONFIG).write_text(undo.config or "", "utf-8")

    return restore


def _proof(tensor: str, token_ids: np.ndarray, expected: str) -> Callable[[Checkpoint], None]:
    """What refuses written weights whose rows do not read back as they were meant."""
    def prove(written: Checkpoint) -> None:
        if sha256(written.read_row_bytes(tensor, token_ids)) != expected:
            raise NotVerified(f"{tensor} does not read back as it was written",
                              hint="the disk or another program changed the files: run the command again")
    return prove
