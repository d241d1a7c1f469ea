"""The edited rows of the input embedding, for people: how far each moved, and how specific it is to the concept."""

from __future__ import annotations

from typing import Any

from ember_hub.concepts.background import surfaces
from ember_hub.concepts.specificity import tf_idf
from ember_hub.edits.edit import Replaced
from ember_hub.evaluation.evidence import EDITED
from ember_hub.stages.workshop import Workshop

TOKENS = "reports/tokens.json"


def describe_tokens(shop: Workshop) -> None:
    """Write the table of edited tokens, the farthest moved first."""
    shop.run.stage("tokens", shop.edit_stages(), (TOKENS,), lambda: shop.run.write_json(TOKENS, _table(shop)))


def edited_tokens(shop: Workshop) -> list[dict[str, Any]]:
    """What the report says of them."""
    return shop.run.read_json(TOKENS)


def _table(shop: Workshop) -> list[dict[str, Any]]:
    change = shop.edit_of(EDITED).changes.get(shop.anatomy.embedding)
    if change is None or isinstance(change, Replaced):
        return []
    ids = change.token_ids.tolist()
    rows = shop.embedding_rows(change.token_ids).double()
    length = (change.moved(rows) - rows).norm(dim=1)
    share = length / rows.norm(dim=1).clamp_min(1e-12)
    texts = surfaces(shop.tokenizer, ids)
    specific = tf_idf(shop.pack, shop.tokenizer, ids)
    table = [{"id": i, "text": text, "moved": round(float(s), 4), "mu": round(float(m), 5), "tfidf": round(t, 4)}
             for i, text, s, m, t in zip(ids, texts, share, length, specific, strict=True)]
    return sorted(table, key=lambda row: -row["mu"])
