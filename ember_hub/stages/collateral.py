"""The tokens that an edit would change, and what else they stand for: uses elsewhere, neighbours, and sentences with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ember_hub.concepts.background import background, surfaces, token_ids
from ember_hub.concepts.labels import TokenLabels
from ember_hub.concepts.pack import ConceptPack
from ember_hub.edits.controls import moved_share
from ember_hub.edits.edit import LowRankRows
from ember_hub.features.evidence import TokenEvidence
from ember_hub.linalg.smf.table import ScaledRows, products_with
from ember_hub.settings import Settings
from ember_hub.stages.rows import Concept, Found, Vocabulary

NEIGHBOURS, EXAMPLES = 3, 2


def tokens(found: Found, pack: ConceptPack, vocabulary: Vocabulary, settings: Settings) -> list[dict[str, Any]]:
    """A row for each token that would change, those that are used most elsewhere first."""
    accepted = {t.token_id: t for t in found.rows.evidence.tokens if t.accepted}
    ids = found.rows.token_ids
    change = LowRankRows(ids, found.rows.G, found.rows.F, settings.ember.untuned_strength, settings.ember.clip)
    moved = dict(zip(ids.tolist(), moved_share(change, vocabulary.read_rows(ids)).tolist(), strict=True))
    near: dict[int, list[dict[str, Any]]] = {}
    for concept in found.concepts:
        near |= _neighbours(concept, set(accepted), vocabulary)
    examples = _examples(pack, vocabulary, set(accepted))
    uses = _uses(list(accepted.values()), found.labels, pack, vocabulary)
    rows = [{"id": i, "text": token.text, "uses": token.counts, "texts": token.sentences, **uses[i], "moved": round(moved[i], 3),
             "variant_of": token.variant_of, "neighbours": near.get(i, []), "examples": examples.get(i, [])}
            for i, token in accepted.items()]
    return sorted(rows, key=lambda row: (-row["outside"], row["id"]))


def _uses(accepted: Sequence[TokenEvidence], labels: TokenLabels, pack: ConceptPack, vocabulary: Vocabulary
          ) -> dict[int, dict[str, Any]]:
    """For each token: its uses in a million words of English and in the neutral sentences, and the share outside the concept."""
    english = background(vocabulary.tokenizer).rate
    neutral = Counter(i for row in token_ids(vocabulary.tokenizer, pack.neutral) for i in row)
    told, written = int(labels.counts.sum()), sum(neutral.values())
    counts = dict(zip(labels.token_ids.tolist(), labels.counts.tolist(), strict=True))
    found = {}
    for token in accepted:
        # A spelling that the texts lack would be used as often as its word.
        own = max(counts.get(token.token_id, 0), counts.get(token.variant_of or -1, 0)) / max(told, 1)
        rate = float(english[token.token_id]) if token.token_id < len(english) else 0.0
        other = labels.settings.prior_odds * max(rate, neutral[token.token_id] / max(written, 1))
        found[token.token_id] = {"outside": round(other / (own + other), 4) if own + other else 0.0,
                                 "per_million": round(1e6 * rate, 2), "neutral_uses": neutral[token.token_id]}
    return found


def _neighbours(concept: Concept, changed: set[int], vocabulary: Vocabulary) -> dict[int, list[dict[str, Any]]]:
    """The tokens of V' nearest to each changed one that are not the concept's own: cosines of centred rows."""
    labels, factors, ids = concept.labels, concept.factors, concept.rows.token_ids
    table = ScaledRows(vocabulary.read_rows(labels.token_ids), factors.mean, factors.norms)
    cosines = products_with(table, factors.unit(vocabulary.read_rows(ids)))
    inside = labels.exclusive | torch.isin(labels.token_ids, torch.tensor(sorted(changed)))
    cosines[inside] = -torch.inf
    best = cosines.topk(min(NEIGHBOURS, int((~inside).sum())), dim=0)
    shown = _texts(labels.token_ids[best.indices.flatten()], vocabulary)
    return {i: [{"id": int(j), "text": shown[int(j)], "cosine": round(float(cosine), 3)}
                for j, cosine in zip(labels.token_ids[best.indices[:, at]], best.values[:, at], strict=True)]
            for at, i in enumerate(ids.tolist())}


def _texts(ids: Tensor, vocabulary: Vocabulary) -> Mapping[int, str]:
    unique = ids.unique().tolist()
    return dict(zip(unique, surfaces(vocabulary.tokenizer, unique), strict=True))


def _examples(pack: ConceptPack, vocabulary: Vocabulary, changed: set[int]) -> dict[int, list[str]]:
    """Sentences of the pack with each token, the shortest first: there the token says most."""
    found: dict[int, list[str]] = {}
    sentences = sorted(pack.sentences, key=len)
    for sentence, ids in zip(sentences, token_ids(vocabulary.tokenizer, sentences), strict=True):
        for i in changed.intersection(ids):
            if len(found.setdefault(i, [])) < EXAMPLES:
                found[i].append(sentence)
    return found
