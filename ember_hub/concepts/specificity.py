"""How specific a token is to a concept's texts, as information retrieval measures it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from ember_hub.concepts.background import Tokenizer, token_ids
from ember_hub.concepts.pack import ConceptPack


def tf_idf(pack: ConceptPack, tokenizer: Tokenizer, ids: Iterable[int]) -> list[float]:
    """TF-IDF of each token: occurrences per thousand tokens of the concept's sentences, times ln((1 + D) / (1 + df)).

    The documents are the pack's D neutral sentences, of which df contain the token; a token that the sentences of the concept never
    use scores 0.

    Source: Spärck Jones 1972, J. Documentation 28, 11-21, with add-one smoothing.
    """
    concept = Counter(i for text in token_ids(tokenizer, pack.sentences) for i in text)
    total = max(1, sum(concept.values()))
    documents = [set(text) for text in token_ids(tokenizer, pack.neutral)]
    found = Counter(i for text in documents for i in text)
    return [1000 * concept[i] / total * math.log((1 + len(documents)) / (1 + found[i])) for i in ids]
