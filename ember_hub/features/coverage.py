"""How much of what is said of a concept passes through the rows that would be edited."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import wordfreq
from torch import Tensor

from ember_hub.concepts.background import Tokenizer, token_ids
from ember_hub.concepts.labels import TokenLabels, concept_texts
from ember_hub.concepts.pack import ConceptPack

_FEW_ROWS = 20
_LITTLE = 0.2
_MUCH = 0.6
_UNLISTED = 1e-6


@dataclass(frozen=True)
class Coverage:
    """What an edit of these rows would reach.

    rows, exclusive: how many rows would change, how many tokens are exclusive to the concept.
    keywords, question_words: fractions in [0, 1] that contain at least one of the rows; none if there are no such words.
    missed: words of either kind without any.
    verdict: one plain sentence.
    """

    rows: int
    exclusive: int
    keywords: float | None
    question_words: float | None
    missed: tuple[str, ...]
    verdict: str


def coverage(pack: ConceptPack, ids: Tensor, labels: TokenLabels, tokenizer: Tokenizer) -> Coverage:
    """Coverage of the pack's keywords and of the concept words in its test questions and their options.

    The test questions are only counted here; no row is chosen by them.
    """
    rows = set(ids.tolist())
    asked = [text for q in pack.asked("questions", "test") for text in (q.question, *q.options)]
    words = concept_words(pack, asked, labels)
    keywords_hit = _hit(pack.keywords, rows, tokenizer)
    words_hit = _hit(words, rows, tokenizer)
    missed = [word for word, hit in zip((*pack.keywords, *words), (*keywords_hit, *words_hit), strict=True) if not hit]
    exclusive = int(labels.exclusive.sum())
    shares = [sum(hits) / len(hits) if hits else None for hits in (keywords_hit, words_hit)]
    return Coverage(len(rows), exclusive, shares[0], shares[1], tuple(dict.fromkeys(missed)),
                    _verdict(len(rows), [share for share in shares if share is not None]))


def concept_words(pack: ConceptPack, texts: Iterable[str], labels: TokenLabels) -> tuple[str, ...]:
    """The words of some texts that are the concept's own, by the measure that labels tokens, as they are written."""
    told = re.findall(r"[^\W\d_]+", " ".join(concept_texts(pack)))
    counts: dict[str, int] = {}
    for word in told:
        counts[word.lower()] = counts.get(word.lower(), 0) + 1
    own: dict[str, None] = {}
    for word in re.findall(r"[^\W\d_]+", " ".join(texts)):
        rate = counts.get(word.lower(), 0) / max(len(told), 1)
        ordinary = wordfreq.word_frequency(word, "en") + _UNLISTED
        purity = rate / (rate + labels.settings.prior_odds * ordinary)
        if purity >= labels.settings.min_purity and counts.get(word.lower(), 0) >= 2:
            own.setdefault(word)
    return tuple(own)


def _hit(words: Sequence[str], rows: set[int], tokenizer: Tokenizer) -> list[bool]:
    """Whether each word, written after a space, holds at least one of the rows."""
    return [not rows.isdisjoint(ids) for ids in token_ids(tokenizer, [f" {word}" for word in words])]


def _verdict(rows: int, shares: Sequence[float]) -> str:
    reached = sum(shares) / len(shares) if shares else 0.0
    told = f"{rows} rows, and {reached:.0%} of the concept's words pass through them"
    if rows < _FEW_ROWS or reached < _LITTLE:
        return f"EMBER can do little here: this vocabulary has few tokens of the concept's own ({told})"
    return f"EMBER reaches {'most' if reached >= _MUCH else 'a part'} of the concept: {told}"
