"""What a patch is, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.patches import numerics
from ember_hub.patches.description import describe
from ember_hub.patches.patch import Patch
from ember_hub.patches.storage import read_json

_PIECES = "tokenizer.json"
_LARGEST_TOKENIZER = 64 * 2**20


def facts(patch: Patch) -> dict[str, Any]:
    """Everything about a patch but its rows, as JSON has it; `moves` is ‖new − original‖ / ‖original‖ of its rows."""
    about = describe(patch)
    moves = _moves(patch)
    return {
        **about, "base": about["base"] | {"name": patch.base.title}, "rows": len(patch), "bytes": int(patch.rows.nbytes),
        "rank": None if patch.factors is None else patch.factors.rank,
        "guard": None if patch.guard is None else patch.guard.token_id, "can_be_undone": patch.originals is not None,
        "moves": None if moves is None else _spread(moves),
    }


def token_facts(patch: Patch, folder: Path) -> list[dict[str, Any]]:
    """For each token its id, its piece of text where the folder has a tokenizer, its norm now and before, and its move."""
    pieces, moves = _pieces(folder / _PIECES), _moves(patch)
    new = numerics.norms(patch.rows, patch.table.dtype)
    old = None if patch.originals is None else numerics.norms(patch.originals, patch.table.dtype)
    return [{"id": token, "piece": pieces.get(token), "new_norm": float(new[at]),
             "original_norm": None if old is None else float(old[at]), "move": None if moves is None else float(moves[at])}
            for at, token in enumerate(patch.token_ids.tolist())]


def lines(about: Mapping[str, Any]) -> Iterator[str]:
    """The facts, and the tokens if they are among them, for a terminal."""
    left = [*about["not_carried"]["methods"], *about["not_carried"]["parameters"]]
    moves = about["moves"]
    yield f"base         {about['base']['name']}"
    yield f"embedding    {about['parameter']} · {about['vocab']:,} × {about['d_model']:,} {about['dtype']}" + (
        " · tied: the head keeps its rows" if about["guard"] is not None else "")
    yield f"rows         {about['rows']:,} · {about['bytes']:,} bytes · format {about['format']}" + (
        f" · a change of rank {about['rank']}" if about["rank"] else "")
    if moves:
        yield (f"moved by     {moves['least']:.2g} to {moves['most']:.2g} times a row's own norm, "
               f"half of them by less than {moves['median']:.2g}")
    yield f"undo         {'kept with the patch' if about['can_be_undone'] else 'from the base only'}"
    yield f"not carried  {', '.join(left) or 'nothing: the patch is the whole edit'}"
    if "tokens" in about:
        yield f"\n{'token':>9}  {'norm':>9}  {'was':>9}  {'moved by':>9}  piece"
    for token in about.get("tokens", ()):
        yield (f"{token['id']:>9}  {token['new_norm']:>9.4g}  {_number(token['original_norm'])}  {_number(token['move'])}  "
               f"{'' if token['piece'] is None else _shown(token['piece'])}")


def _shown(piece: str) -> str:
    """A vocabulary entry for a terminal: its leading space as a dot, and no character that could act there."""
    marked = f"·{piece[1:]}" if piece[:1] in ("Ġ", "▁") else piece
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in marked)


def _moves(patch: Patch) -> np.ndarray | None:
    if patch.originals is None:
        return None
    before = numerics.norms(patch.originals, patch.table.dtype)
    moved = [np.linalg.norm(patch.deltas("measure it", block), axis=1) for block in numerics.blocks(*patch.rows.shape)]
    return np.concatenate(moved) / np.maximum(before, np.finfo(np.float64).tiny)


def _spread(moves: np.ndarray) -> dict[str, float]:
    return {"least": float(moves.min()), "median": float(np.median(moves)), "most": float(moves.max())}


def _number(value: float | None) -> str:
    return f"{'' if value is None else format(value, '.4g'):>9}"


def _pieces(path: Path) -> dict[int, str]:
    """Pieces of text by token id, as the tokenizer's vocabulary has them; empty where it keeps them elsewhere."""
    if not path.is_file():
        return {}
    model = read_json(path, _LARGEST_TOKENIZER).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return {index: piece for piece, index in vocab.items() if type(index) is int} if isinstance(vocab, dict) else {}
