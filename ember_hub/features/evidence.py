"""Why a feature or a token was taken or refused: plain values, ready for JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class FeatureEvidence:
    """One feature of one seed.

    share: of its absolute activation that lies on the concept's own tokens.
    ratio: mean activation on concept-only over neutral-only tokens (the paper's statistic, smoothed).
    column: where it stands in the handed-on directions; none if it was rejected.
    """

    seed: int
    feature: int
    share: float
    ratio: float
    top_tokens: tuple[str, ...]
    kept: bool
    reason: str
    column: int | None = None


@dataclass(frozen=True)
class TokenEvidence:
    """One token.

    purity: how exclusive its counts make it; belief: log-odds (nats) with its neighbourhood in embedding space.
    kinship: its mean cosine with the nearest of the surest tokens.
    consensus: the fraction of seeds in which it has a kept entry in a selected feature.
    columns: the selected features that write into it; `variant_of`: the token it was adopted for.
    """

    token_id: int
    text: str
    purity: float
    belief: float
    kinship: float
    counts: int
    sentences: int
    consensus: float
    columns: tuple[int, ...]
    accepted: bool
    reason: str
    variant_of: int | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything a person needs to judge a selection."""

    features: tuple[FeatureEvidence, ...]
    tokens: tuple[TokenEvidence, ...]

    def with_tokens(self, more: tuple[TokenEvidence, ...]) -> Evidence:
        """The same with further tokens; a token that was judged before is judged anew."""
        again = {token.token_id for token in more}
        return Evidence(self.features, (*(t for t in self.tokens if t.token_id not in again), *more))

    def json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Evidence:
        """What `json` wrote."""
        read = json.loads(text)
        features = tuple(FeatureEvidence(**{**f, "top_tokens": tuple(f["top_tokens"])}) for f in read["features"])
        return cls(features, tuple(TokenEvidence(**{**t, "columns": tuple(t["columns"])}) for t in read["tokens"]))
