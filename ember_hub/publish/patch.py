"""The embedding part of an edit as a patch: an adapter of a few megabytes that plain transformers loads.

What a patch is and how it lies on disk is the business of `ember_hub.patches`; here one is made from an edit.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ember_hub.edits.edit import Edit, LowRankRows, Replaced, ReplacedRows
from ember_hub.errors import EditError, EmptyEdit, ShapeMismatch, UnsupportedModel
from ember_hub.patches import numerics
from ember_hub.patches.folder import PATCH_FILE, write
from ember_hub.patches.patch import Factors, Guard, Patch, PatchedBase, Table, check, sha256
from ember_hub.publish.export import replacing
from ember_hub.source.anatomy import Anatomy
from ember_hub.source.naming import says_tied, tensor_name, tensor_names

if TYPE_CHECKING:
    from ember_hub.source.resolve import Base
    from ember_hub.source.weights import Weights

_TOKENIZER_FILE = re.compile(r"(?:tokenizer.*|special_tokens_map|added_tokens|vocab|chat_template)\.(?:json|jinja|txt)"
                             r"|merges\.txt|.*\.model|.*\.tiktoken")


def make_patch(base: Base, anatomy: Anatomy, edit: Edit, out: Path, left_out: Sequence[str] = (),
               unrounded: Edit | None = None) -> Patch:
    """Write the embedding part of the edit as an adapter folder, which appears only when it is whole.

    It names the base by its repository, a base without one by its folder. Rows are those that `export_model` writes;
    they are stored unscaled, as in the base. On a tied base only the input side changes, as in the full model.

    Args:
        out: replaced if it holds an earlier patch.
        left_out: names of methods whose changes the patch does not carry, to be told to whoever loads it.
        unrounded: the edit as its method made it, where `edit` holds the rows that it comes down to: kept beside them
            as a product of low rank if it gives these rows bit for bit.

    Raises:
        EmptyEdit: the edit does not touch the embedding.
        EditError: it replaces the embedding as a whole.
        DiskError: `out` holds something else, or cannot be written.
    """
    patch = patch_of(base, anatomy, edit, left_out, unrounded)
    with replacing(out, base.folder, PATCH_FILE) as folder:
        folder.mkdir(parents=True)
        write(patch, folder)
        copy_companions(base.folder, folder, base.licence.files)
    return patch


def embedding_edit(anatomy: Anatomy, edit: Edit) -> Edit:
    """The part of an edit that a patch carries.

    Raises:
        EmptyEdit: the edit does not touch the embedding.
    """
    if anatomy.embedding not in edit.changes:
        raise EmptyEdit("the edit does not touch the embedding, and a patch carries nothing else",
                        hint="publish the full model: --as full")
    return Edit({anatomy.embedding: edit.changes[anatomy.embedding]}, edit.provenance)


def patch_of(base: Base, anatomy: Anatomy, edit: Edit, left_out: Sequence[str] = (), unrounded: Edit | None = None) -> Patch:
    """The embedding part of the edit as a value; reads the rows that it changes, and no other weights.

    Raises:
        EmptyEdit, EditError: see `make_patch`.
        UnsupportedModel: the embedding is not one tensor of plain numbers.
        ShapeMismatch: the edit does not fit the embedding.
    """
    change = embedding_edit(anatomy, edit).changes[anatomy.embedding]
    if isinstance(change, Replaced):
        raise EditError("the edit replaces the embedding as a whole, which is no patch of a few rows",
                        hint="publish the full model: --as full")
    weights = base.weights()
    table = _table(base, anatomy, weights)
    token_ids, order = _rising(change.token_ids)
    originals = weights.read_row_bytes(table.tensor, token_ids)
    rows = _moved(change, order, originals, table.dtype)
    if not numerics.finite_rows(rows, table.dtype).all():
        raise EditError(f"new values for {anatomy.embedding!r} are not finite as {table.dtype}", hint="use a lower strength")
    # PEFT believes the config; where a checkpoint holds a head of its own in spite of it, the guard is right too.
    is_tied = anatomy.head is not None and (anatomy.is_tied or says_tied(base.folder))
    return check(Patch(
        PatchedBase(base.repo_id or str(base.folder.resolve()), base.repo_id, base.commit, base.source_kind), table,
        token_ids, rows, originals, sha256(originals), guard=_guard(token_ids, anatomy, weights, table) if is_tied else None,
        factors=_factors((unrounded or edit).changes.get(anatomy.embedding), token_ids, originals, rows, table.dtype),
        not_carried={"methods": list(left_out), "parameters": sorted(set(edit.changes) - {anatomy.embedding})},
        config=(base.folder / "config.json").read_text("utf-8") if is_tied else None))


def copy_companions(source: Path, folder: Path, licence_files: Sequence[str]) -> None:
    """Copy tokenizer, chat templates and licence files; links become regular files."""
    for path in sorted(source.iterdir()):
        if path.is_file() and (_TOKENIZER_FILE.fullmatch(path.name) or path.name in licence_files):
            shutil.copyfile(path, folder / path.name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name, copy_function=shutil.copyfile)


def _table(base: Base, anatomy: Anatomy, weights: Weights) -> Table:
    tensor = tensor_name(weights, anatomy.embedding)
    info = weights.info(tensor)
    if info.code not in numerics.NAMES:
        raise UnsupportedModel(f"{tensor} of {base.name} is {info.code}: no plain numbers",
                               hint="use the model before quantization")
    config = json.loads((base.folder / "config.json").read_text("utf-8"))
    return Table(parameter=anatomy.embedding, tensor=tensor, head=anatomy.head,
                 holds_head=anatomy.head is not None and bool(tensor_names(weights, anatomy.head)), is_tied=anatomy.is_tied,
                 dtype=info.code, vocab=anatomy.vocab, d_model=anatomy.d_model, embed_scale=anatomy.embed_scale,
                 model_type=config.get("model_type"))


def _rising(ids: Tensor) -> tuple[np.ndarray, Tensor]:
    """The ids in rising order, and where each of them was."""
    rising, order = ids.cpu().sort()
    if len(rising.unique()) != len(rising):
        raise ShapeMismatch("the edit names a token id twice", hint="give each row once")
    return rising.numpy().astype(np.int64), order


def _moved(change: LowRankRows | ReplacedRows, order: Tensor, originals: np.ndarray, code: str) -> np.ndarray:
    """The raw rows that the edit makes of the original ones, which are in the order of rising ids."""
    rows = np.empty_like(originals)
    for block in numerics.blocks(*originals.shape):
        before = torch.from_numpy(numerics.decode(originals[block], code))
        rows[block] = numerics.encode(_part(change, order[block]).moved(before).numpy(), code)
    return rows


def _part(change: LowRankRows | ReplacedRows, chosen: Tensor) -> LowRankRows | ReplacedRows:
    if isinstance(change, LowRankRows):
        return replace(change, token_ids=change.token_ids[chosen], G=change.G[chosen])
    return ReplacedRows(change.token_ids[chosen], change.values[chosen])


def _factors(change: object, token_ids: np.ndarray, originals: np.ndarray, rows: np.ndarray, code: str) -> Factors | None:
    """A low-rank edit as a product, if it makes exactly these rows; its strength and its clip go into the activations."""
    if not isinstance(change, LowRankRows) or len(change.token_ids) != len(token_ids):
        return None
    ids, order = _rising(change.token_ids)
    if not np.array_equal(ids, token_ids) or not np.array_equal(_moved(change, order, originals, code), rows):
        return None
    G = change.G[order].double()
    # ‖G_i Fᵀ‖ from the small matrix FᵀF.
    gram = change.directions.double().T @ change.directions.double()
    step = abs(change.strength) * ((G @ gram) * G).sum(dim=1).clamp_min(0).sqrt().clamp_min(torch.finfo(G.dtype).tiny)
    kept = (change.clip * torch.from_numpy(numerics.norms(originals, code)) / step).clamp(max=1.0)
    activations = -change.strength * G * kept[:, None]
    return Factors(change.directions.float().numpy(), activations.float().numpy())


def _guard(ids: np.ndarray, anatomy: Anatomy, weights: Weights, table: Table) -> Guard:
    """The head's row that stands for "unchanged": not an edited id, and rarely the same in two patches.

    PEFT refuses to stack adapters that name the same row. Below the highest edited id, so that it also exists in a
    base whose unused rows at the end were cut off.
    """
    assert anatomy.head is not None, "a tied model has a head"
    edited = ids.tolist()
    free = sorted(set(range(edited[-1])) - set(edited)) or [(edited[-1] + 1) % table.vocab]
    token_id = free[int.from_bytes(hashlib.sha256(repr(edited).encode()).digest()[:8]) % len(free)]
    held = next(iter(tensor_names(weights, anatomy.head)), table.tensor)
    return Guard(token_id, weights.read_row_bytes(held, np.array([token_id]))[0])
