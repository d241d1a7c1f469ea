"""What undoes a patch, as a value and as one file that needs no patch beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ember_hub.errors import PatchInvalid
from ember_hub.patches.description import Description, describe, parse
from ember_hub.patches.patch import Guard, Patch, check_rows, sha256
from ember_hub.patches.storage import RawTensor, read_tensors, write_tensors

_AGAIN = "download the patch again, or make it again from its run"


@dataclass(frozen=True, eq=False)
class Undo:
    """The base's rows, and all that must be known to put them back.

    Attributes:
        about: the patch that it undoes.
        originals: raw bytes (n, row_size) of the base's rows.
        guard: there exactly when the patch gave a tied base a head of its own.
        config: the text of the base's config.json, for a base whose config the patch changes.
    """

    about: Description
    originals: np.ndarray
    guard: Guard | None
    config: str | None

    @classmethod
    def open(cls, path: Path) -> Undo:
        """Reads and checks an undo file.

        Raises:
            PatchInvalid: it is none, or contradicts itself.
            ModelNotFound, CorruptCheckpoint, DiskError: it is missing, damaged or not readable.
        """
        tensors, metadata = read_tensors(path)
        try:
            content = json.loads(metadata["patch"])
            about = parse(path, content, str(content["base"].get("repo") or "its base"))
            config = metadata.get("config.json")
            # What is put back later must be a config: here it can still be refused.
            dict(json.loads(config or "{}").items())
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PatchInvalid(f"{path} is no undo file of ember-hub: {error!r}",
                               hint="give the file that `patch apply --undo` wrote, or the undo.safetensors of a patch") from error
        table, ids = about.table, about.token_ids
        kept = tensor(tensors, "token_ids", RawTensor("I64", ids.shape, ids), path).view(np.int64)
        if not np.array_equal(kept, ids):
            raise PatchInvalid(f"{path} holds rows of other tokens than it says", hint=_AGAIN)
        originals = table_rows(tensors, "rows", about, path)
        if sha256(originals) != about.original_sha256:
            raise PatchInvalid(f"the original rows in {path} are not those it says: their hash differs", hint=_AGAIN)
        check_rows(table, ids, originals, "original")
        return cls(about, originals, _guard(tensors, about, path), config)

    @classmethod
    def of(cls, patch: Patch, originals: np.ndarray, config: str | None) -> Undo:
        """What undoes this patch on a base with these rows and this config."""
        left = {name: list(names) for name, names in patch.not_carried.items()}
        about = Description(patch.base, patch.table, patch.token_ids, patch.original_sha256, patch.new_sha256, left, patch.format)
        return cls(about, originals, patch.guard, config)


def write_undo(patch: Patch, path: Path) -> None:
    """Write what undoes the patch; the caller names a temporary file and renames it.

    Raises:
        PatchInvalid: the patch came without the base's rows.
    """
    table, originals = patch.table, patch.required_originals("undo it")
    rows = {"token_ids": RawTensor("I64", (len(patch),), patch.token_ids),
            "rows": RawTensor(table.dtype, (len(patch), table.d_model), originals)}
    if patch.guard is not None:
        rows |= {"guard_id": RawTensor("I64", (1,), np.array([patch.guard.token_id], np.int64)),
                 "guard_row": RawTensor(table.dtype, (1, table.d_model), patch.guard.row)}
    about = {"format": "pt", "patch": json.dumps(describe(patch))}
    write_tensors(path, rows, about | ({} if patch.config is None else {"config.json": patch.config}))


def table_rows(tensors: Mapping[str, RawTensor], name: str, about: Description, path: Path, count: int | None = None) -> np.ndarray:
    """Raw rows (count, row_size) of the table's type and width, one for each token id unless told otherwise."""
    table, count = about.table, len(about.token_ids) if count is None else count
    like = RawTensor(table.dtype, (count, table.d_model), np.empty(0))
    return tensor(tensors, name, like, path).data.reshape(count, table.row_size)


def tensor(tensors: Mapping[str, RawTensor], name: str, like: RawTensor, path: Path) -> RawTensor:
    """The tensor of this name, of the type and shape of another one.

    Raises:
        PatchInvalid: there is none, or it has another type or shape.
    """
    found = tensors.get(name)
    if found is None:
        raise PatchInvalid(f"{path} has no tensor {name!r}", hint=_AGAIN)
    if (found.code, found.shape) != (like.code, like.shape):
        raise PatchInvalid(f"{name!r} in {path} is {found.code} {list(found.shape)}, expected {like.code} {list(like.shape)}",
                           hint=_AGAIN)
    return found


def as_guard(about: Description, token_id: int, row: np.ndarray) -> Guard:
    """A guard of the head.

    Raises:
        PatchInvalid: there is no head, or no such token.
    """
    if about.table.head is None or not 0 <= token_id < about.table.vocab:
        raise PatchInvalid(f"the guard of the head, token {token_id}, is no row of it", hint=_AGAIN)
    return Guard(token_id, row)


def _guard(tensors: Mapping[str, RawTensor], about: Description, path: Path) -> Guard | None:
    if "guard_id" not in tensors:
        return None
    token_id = tensor(tensors, "guard_id", RawTensor("I64", (1,), np.empty(0)), path).view(np.int64)[0]
    return as_guard(about, int(token_id), table_rows(tensors, "guard_row", about, path, count=1)[0])
