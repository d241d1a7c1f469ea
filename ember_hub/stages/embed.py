"""Which vocabulary rows are the concept's, what its features write into them, and how far they move."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ember_hub.concepts import labels, registry
from ember_hub.concepts.labels import LabelSettings, TokenLabels
from ember_hub.edits.controls import moved_share
from ember_hub.edits.edit import Edit, LowRankRows
from ember_hub.features import factorization
from ember_hub.features.coverage import coverage
from ember_hub.features.factorization import FactorizationSettings
from ember_hub.features.selection import ConceptRows, SelectionSettings, choose
from ember_hub.features.variants import adopt
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.load import load_tokenizer
from ember_hub.source.naming import tensor_name
from ember_hub.stages.baselines import search
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
    shop.run.stage("features", (), (LABELS, FACTORS, ROWS, SELECTION), lambda: _find_rows(shop))
    about = shop.run.read_json(SELECTION)
    shop.say("features", f"{len(about['features'])} features of {shop.settings.ember.seeds} seeds · "
                         f"{about['coverage']['verdict']} · {shop.run.folder / SELECTION}")


def choose_strength(shop: Workshop) -> None:
    """The edit at the strength that the tune split prefers; the empty edit when every strength does harm."""
    if not shop.settings.ember.enabled:
        return
    shop.run.stage("ember", ("features", "before"), (EMBER_EDIT, TUNING), lambda: _choose_strength(shop))
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


def _find_rows(shop: Workshop) -> None:
    ember, wanted = shop.settings.ember, shop.settings.features
    checkpoint = Checkpoint.open(shop.base.folder)
    anatomy = anatomy_of_config(shop.base.folder, shop.settings.trust_remote_code)
    embedding = tensor_name(checkpoint, anatomy.embedding)
    tokenizer = load_tokenizer(shop.base.folder, shop.settings.trust_remote_code)
    others = [pack for pack in registry.built_in() if pack.name != shop.pack.name]
    found = labels.build(shop.pack, tokenizer, others, LabelSettings(min_purity=wanted.min_purity))
    rows = checkpoint.read_rows(embedding, found.token_ids)
    how = FactorizationSettings(ember.rank, ember.sparsity, tuple(range(shop.settings.seed, shop.settings.seed + ember.seeds)),
                                method=ember.variant)
    begun: set[int] = set()

    def on_round(seed: int, _: int, __: float) -> None:
        if seed not in begun:
            # A new seed begins where the one before has ended.
            advance(1 if begun else 0)
            begun.add(seed)

    with shop.progress.steps("factorizing", ember.seeds) as advance:
        factors = factorization.fit(rows, found, how, on_round)
    chosen = choose(factors, found, rows, tokenizer, SelectionSettings(wanted.min_share, wanted.min_score, wanted.most))
    chosen = adopt(chosen, checkpoint.read(embedding), found, factors, tokenizer)
    for name, value in ((LABELS, found), (FACTORS, factors), (ROWS, chosen)):
        with shop.run.writing(name) as partial:
            value.save(partial)
    shop.run.write_json(SELECTION, _evidence(shop, chosen, found, tokenizer)
                        | {"rank": factors.F.shape[-1]})


def _evidence(shop: Workshop, chosen: ConceptRows, found: TokenLabels, tokenizer: Any) -> dict[str, Any]:
    evidence = chosen.evidence
    return {
        "coverage": asdict(coverage(shop.pack, chosen.token_ids, found, tokenizer)),
        "features": [asdict(f) for f in evidence.features if f.kept],
        "features_rejected": [asdict(f) for f in evidence.features if not f.kept],
        "tokens": [asdict(t) for t in evidence.tokens if t.accepted],
        "tokens_rejected": [asdict(t) for t in evidence.tokens if not t.accepted],
    }


def _choose_strength(shop: Workshop) -> None:
    rows, ember = ConceptRows.load(shop.run.folder / ROWS), shop.settings.ember
    change = LowRankRows(rows.token_ids, rows.G, rows.F, clip=ember.clip)
    edit = Edit({shop.anatomy.embedding: change}, {"ember": ember.variant, "features": rows.F.shape[1]})
    strength, tried = search(shop).strength(edit, ember.strengths)
    edit = edit.scaled(strength) if strength else Edit.none()
    shop.keep_edit(EMBER_EDIT, edit)
    record_strength(shop, edit, strength, [c.to_json() for c in tried])
