"""What a patch says of itself in JSON, written and read in one place; nothing that is read is trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.errors import PatchInvalid
from ember_hub.patches import numerics
from ember_hub.patches.patch import Format, Patch, PatchedBase, Table

_SCHEMA = 1
_FORMATS: tuple[Format, ...] = ("tokens", "lora-embed")
_LARGEST_VOCABULARY = 2**24
_HASH = re.compile(r"[0-9a-f]{64}")
_AGAIN = "download the patch again, or make it again from its run"


@dataclass(frozen=True, eq=False)
class Description:
    """Everything about a patch but its rows."""

    base: PatchedBase
    table: Table
    token_ids: np.ndarray
    original_sha256: str
    new_sha256: str
    not_carried: Mapping[str, list[str]]
    format: Format


def describe(patch: Patch) -> dict[str, Any]:
    """The JSON object of a patch."""
    base, table = patch.base, patch.table
    return {
        "schema": _SCHEMA, "format": patch.format,
        "base": {"repo": base.repo, "commit": base.commit, "source": base.source},
        "parameter": table.parameter, "tensor": table.tensor, "head": table.head, "holds_head": table.holds_head,
        "is_tied": table.is_tied, "model_type": table.model_type,
        "d_model": table.d_model, "vocab": table.vocab, "dtype": numerics.NAMES[table.dtype], "embed_scale": table.embed_scale,
        "rows_are": "stored as in the base's checkpoint; the model multiplies them by embed_scale itself",
        "token_ids": patch.token_ids.tolist(),
        "original_rows_sha256": patch.original_sha256, "new_rows_sha256": patch.new_sha256,
        "not_carried": {name: list(patch.not_carried.get(name, ())) for name in ("methods", "parameters")},
    }


def parse(path: Path, content: Mapping[str, Any], base_name: str) -> Description:
    """Read the JSON object of a patch.

    Args:
        path: where it was found, for messages.
        base_name: what the adapter beside it calls the base.

    Raises:
        PatchInvalid: an entry is missing, of the wrong kind, or impossible.
    """
    say = Fields(path, content)
    if say.get("schema", int) != _SCHEMA:
        raise PatchInvalid(f"{path} has schema {content['schema']}, this version reads {_SCHEMA}", hint="update ember-hub")
    base = Fields(path, say.get("base", dict))
    owner = PatchedBase(base_name, base.get("repo", str, type(None)), base.get("commit", str, type(None)), base.get("source", str))
    original, new = (say.get(name, str) for name in ("original_rows_sha256", "new_rows_sha256"))
    say.require("a hash of rows", _HASH.fullmatch(original) is not None and _HASH.fullmatch(new) is not None)
    form = next((form for form in _FORMATS if form == say.get("format", str)), None)
    if form is None:
        raise PatchInvalid(f"{path} is of the format {content['format']!r}, this version reads {', '.join(_FORMATS)}",
                           hint="update ember-hub")
    table = _table(say)
    return Description(owner, table, _ids(path, say.get("token_ids", list), table.vocab), original, new,
                       _not_carried(say, Fields(path, say.get("not_carried", dict))), form)


class Fields:
    """The entries of a JSON object, each checked for its kind when it is asked for."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path, self._content = path, content

    def get(self, name: str, *kinds: type) -> Any:
        """The entry of this name.

        Raises:
            PatchInvalid: it is missing, of another kind, or text that cannot be shown.
        """
        value = self._content.get(name)
        # Not isinstance: True is no whole number here.
        self.require(name, name in self._content and type(value) in kinds)
        self.require(name, not isinstance(value, str) or (value != "" and value.isprintable()))
        return value

    def require(self, name: str, is_sound: bool) -> None:
        """Raises PatchInvalid about the entry of this name unless it is sound."""
        if not is_sound:
            found = repr(self._content[name])[:60] if name in self._content else "nothing"
            raise PatchInvalid(f"{self._path} does not give {name!r} as a patch has it: found {found}", hint=_AGAIN)


def _table(say: Fields) -> Table:
    vocab, width, scale = say.get("vocab", int), say.get("d_model", int), say.get("embed_scale", int, float)
    # A vocabulary of terabytes would be allocated when the patch is converted.
    say.require("vocab", 0 < vocab <= _LARGEST_VOCABULARY)
    say.require("d_model", 0 < width <= _LARGEST_VOCABULARY)
    say.require("embed_scale", 0 < scale < 2**64 and math.isfinite(scale))
    dtype = numerics.CODES.get(say.get("dtype", str))
    say.require("dtype", dtype is not None)
    return Table(parameter=say.get("parameter", str), tensor=say.get("tensor", str), head=say.get("head", str, type(None)),
                 holds_head=say.get("holds_head", bool), is_tied=say.get("is_tied", bool), dtype=str(dtype), vocab=vocab,
                 d_model=width, embed_scale=float(scale), model_type=say.get("model_type", str, type(None)))


def _ids(path: Path, ids: list[Any], vocab: int) -> np.ndarray:
    wrong = [token for token in ids if type(token) is not int]
    if wrong:
        raise PatchInvalid(f"{path} names a token id that is no whole number: {repr(wrong[0])[:60]}", hint=_AGAIN)
    outside = [token for token in ids if not 0 <= token < vocab]
    if outside:
        raise PatchInvalid(f"{path}: the vocabulary has ids 0 to {vocab - 1}; out of range: {str(outside[0])[:60]}", hint=_AGAIN)
    return np.array(ids, np.int64)


def _not_carried(say: Fields, left: Fields) -> dict[str, list[str]]:
    found = {name: left.get(name, list) for name in ("methods", "parameters")}
    for names in found.values():
        say.require("not_carried", all(isinstance(name, str) and name.isprintable() for name in names))
    return found
