"""Which vocabulary rows are the concept's, what its features write into them, and how far they move."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from typing import Any

from ember_hub.edits.controls import moved_share
from ember_hub.edits.edit import Edit, LowRankRows
from ember_hub.features.selection import ConceptRows
from ember_hub.stages.baselines import search
from ember_hub.stages.rows import look
from ember_hub.stages.workshop import EMBER_EDIT, Workshop

LABELS = "concept/labels.safetensors"
FACTORS = "features/factorization.safetensors"
ROWS = "features/rows.safetensors"
SELECTION = "features/selection.json"
TUNING = "reports/tuning-ember.json"


def find_rows(shop: Workshop) -> None:
    """Label the vocabulary, factorize the concept's part of the embedding, and select what means the concept."""
    if not shop.settings.ember.enabled:
        return
    shop.run.stage("features", (), (*chain.from_iterable(_parts(shop)), ROWS, SELECTION), lambda: _find_rows(shop))
    about = shop.run.read_json(SELECTION)
    shop.say("features", f"{len(about['features'])} features of {shop.settings.ember.seeds} seeds · "
                         f"{about['coverage']['verdict']} · {shop.run.folder / SELECTION}")


def choose_strength(shop: Workshop) -> None:
    """The edit at the strength that the tune split prefers; the empty edit when every strength does harm."""
    if not shop.settings.ember.enabled:
        return
    shop.run.stage("ember", ("features", "tune"), (EMBER_EDIT, TUNING), lambda: _choose_strength(shop))
    chosen = shop.run.read_json(TUNING)
    shop.say("ember", f"{chosen['rows']} rows at strength {chosen['strength']:g} · {shop.run.folder / TUNING}"
             if chosen["rows"] else f"no strength passes the gates: no row is edited · {shop.run.folder / TUNING}")


def read_ember(shop: Workshop) -> dict[str, Any] | None:
    """What the report says of the embedding edit."""
    if not shop.settings.ember.enabled:
        return None
    about, chosen, ember = shop.run.read_json(SELECTION), shop.run.read_json(TUNING), shop.settings.ember
    reach = about["coverage"]
    moved = {token["id"]: token["moved"] for token in chosen["moved"]}
    tokens = [{"id": t["token_id"], "text": t["text"], "purity": round(t["purity"], 3), "moved": moved[t["token_id"]]}
              for t in about["tokens"] if t["token_id"] in moved]
    return {"rows": chosen["rows"], "strength": chosen["strength"], "clip": ember.clip, "features": len(about["features"]),
            "variant": ember.variant, "seeds": ember.seeds, "verdict": reach["verdict"],
            "coverage": {"keywords": reach["keywords"], "question_words": reach["question_words"]},
            "tokens": sorted(tokens, key=lambda t: -t["moved"])}


def record_strength(shop: Workshop, edit: Edit, strength: float, tried: list[dict[str, Any]]) -> None:
    """Write which strength was taken, which were tried, and how far each row moves at it."""
    moved = []
    for change in edit.changes.values():
        assert isinstance(change, LowRankRows), "the embedding edit is of no other kind"
        shares = moved_share(change, shop.embedding_rows(change.token_ids)).tolist()
        moved = [{"id": i, "moved": round(share, 4)} for i, share in zip(change.token_ids.tolist(), shares, strict=True)]
    shop.run.write_json(TUNING, {"strength": strength, "rows": edit.rows(), "tried": tried, "moved": moved})


def _evidence(chosen: ConceptRows) -> dict[str, Any]:
    """What spoke for and against the features and tokens, ready for JSON."""
    found = chosen.evidence
    return {
        "features": [asdict(f) for f in found.features if f.kept],
        "features_rejected": [asdict(f) for f in found.features if not f.kept],
        "tokens": [asdict(t) for t in found.tokens if t.accepted],
        "tokens_rejected": [asdict(t) for t in found.tokens if not t.accepted],
    }


def _find_rows(shop: Workshop) -> None:
    found = look(shop.vocabulary, shop.pack, shop.settings, shop.progress)
    for names, part in zip(_parts(shop), found.concepts, strict=True):
        for name, value in zip(names, (part.labels, part.factors), strict=True):
            with shop.run.writing(name) as partial:
                value.save(partial)
    with shop.run.writing(ROWS) as partial:
        found.rows.save(partial)
    shop.run.write_json(SELECTION, _evidence(found.rows) | {"coverage": asdict(found.coverage),
                                                            "rank": found.concepts[0].factors.F.shape[-1]})


def _parts(shop: Workshop) -> list[tuple[str, str]]:
    """Where labels and factorization of each concept of the run lie."""
    if not shop.pack.parts:
        return [(LABELS, FACTORS)]
    return [(f"concept/{part.name}/labels.safetensors", f"features/{part.name}/factorization.safetensors")
            for part in shop.pack.parts]


def _choose_strength(shop: Workshop) -> None:
    rows, ember = ConceptRows.load(shop.run.folder / ROWS), shop.settings.ember
    change = LowRankRows(rows.token_ids, rows.G, rows.F, clip=ember.clip)
    edit = Edit({shop.anatomy.embedding: change}, {"ember": ember.variant, "features": rows.F.shape[1]})
    strength, tried = search(shop).strength(edit, ember.strengths)
    edit = edit.scaled(strength) if strength else Edit.none()
    shop.keep_edit(EMBER_EDIT, edit)
    record_strength(shop, edit, strength, [c.to_json() for c in tried])
