"""The rows of several concepts as one edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ember_hub.features.evidence import Evidence, FeatureEvidence, TokenEvidence
from ember_hub.features.selection import ConceptRows


def join(parts: Sequence[ConceptRows]) -> ConceptRows:
    """All rows of all concepts, side by side in the directions; a row that belongs to several loses what each writes into it."""
    if len(parts) == 1:
        return parts[0]
    ids = torch.cat([part.token_ids for part in parts]).unique()
    G = torch.zeros(len(ids), sum(part.F.shape[1] for part in parts))
    features: list[FeatureEvidence] = []
    tokens: dict[int, TokenEvidence] = {}
    first = 0
    for part in parts:
        end = first + part.F.shape[1]
        G[torch.searchsorted(ids, part.token_ids), first:end] = part.G
        features += [replace(f, column=None if f.column is None else f.column + first) for f in part.evidence.features]
        for token in part.evidence.tokens:
            moved = replace(token, columns=tuple(column + first for column in token.columns))
            tokens[token.token_id] = _both(tokens.get(token.token_id), moved)
        first = end
    F = torch.cat([part.F for part in parts], dim=1)
    return ConceptRows(ids, G, F, Evidence(tuple(features), tuple(tokens.values())))


def _both(one: TokenEvidence | None, other: TokenEvidence) -> TokenEvidence:
    """What is said of a token that two concepts were asked about: accepted by one is accepted."""
    if one is None or (other.accepted and not one.accepted):
        return other
    if not (one.accepted and other.accepted):
        return one
    return replace(one, columns=one.columns + other.columns, reason=f"{one.reason}; {other.reason}")
