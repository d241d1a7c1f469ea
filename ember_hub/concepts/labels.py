"""Which vocabulary rows belong to a concept: seen how often, in which texts, and how much more than elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ember_hub.concepts.background import Tokenizer, background, letters_of, surfaces, token_ids
from ember_hub.concepts.pack import ConceptPack
from ember_hub.concepts.spelling import family
from ember_hub.errors import NoConceptTokens

# Below the mass of the rarest listed word (3.5e-7 per word) nothing is known: a word off the list may be this frequent.
_UNLISTED = 1e-6
_QUANTILE = 0.84


class Label(IntEnum):
    """Where a token occurs among the texts of the pack."""

    NEUTRAL = 0
    CONCEPT = 1
    BOTH = 2


@dataclass(frozen=True)
class LabelSettings:
    """How much more often than elsewhere a token must occur to be the concept's own.

    prior_odds: the texts on other things that stand against one text on the concept, when purity is worked out.
    min_purity: tokens at or above it are exclusive.
    min_piece: pieces of words with fewer letters are never exclusive.
    near_weight: how much a near-domain question counts against a token, beside ordinary English.
    """

    prior_odds: float = 30.0
    min_purity: float = 0.5
    min_piece: int = 4
    near_weight: float = 0.1


@dataclass(frozen=True)
class TokenLabels:
    """The vocabulary V' of a pack, sorted by id, and what each row has to do with the concept.

    token_ids: (n,) int64.
    label: (n,) int8, a `Label`.
    counts: (n,) int64, occurrences in concept texts; `sentences`: how many of those texts contain it.
    spread: (n,) float32, `sentences` summed over all spellings of the word; `texts`: how many concept texts there are.
    purity: (n,) float32 in [0, 1], the odds that an occurrence speaks of the concept if `prior_odds` texts speak of
        other things for each that speaks of it; worked out with a cautious (lower) estimate of the concept's rate.
    whole: (n,) float32, the share of its concept occurrences in which it is a word by itself.
    exclusive: (n,) bool, the concept's own.
    """

    token_ids: Tensor
    label: Tensor
    counts: Tensor
    sentences: Tensor
    purity: Tensor
    whole: Tensor
    exclusive: Tensor
    spread: Tensor
    texts: int
    settings: LabelSettings

    def save(self, path: Path) -> None:
        """Write as safetensors, under a temporary name first."""
        part = path.with_name(path.name + ".part")
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        save_file(tensors, part, metadata={"settings": json.dumps(asdict(self.settings)), "texts": str(self.texts)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> TokenLabels:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            settings = LabelSettings(**json.loads(about["settings"]))
            return cls(**{name: file.get_tensor(name) for name in _TENSORS}, texts=int(about["texts"]), settings=settings)


_TENSORS = ("token_ids", "label", "counts", "sentences", "purity", "whole", "exclusive", "spread")


@dataclass(frozen=True)
class _Texts:
    """Some texts as token ids, one after the other.

    flat: (tokens,) int64; owner: (tokens,) int64, which text each token stands in; size: of the vocabulary.
    """

    flat: Tensor
    owner: Tensor
    size: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], size: int) -> _Texts:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        flat = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
        return cls(flat, torch.arange(len(rows)).repeat_interleave(lengths), size)

    @property
    def counts(self) -> Tensor:
        """(vocab,) int64, occurrences of each token."""
        return torch.bincount(self.flat, minlength=self.size)

    @property
    def spread(self) -> Tensor:
        """(vocab,) int64, in how many of the texts each token occurs."""
        pairs = torch.unique(torch.stack([self.owner, self.flat], dim=1), dim=0)
        return torch.bincount(pairs[:, 1], minlength=self.size)

    @property
    def rate(self) -> Tensor:
        """(vocab,) float64, a cautious estimate of each token's rate: the lower fifth of what its count allows."""
        counts = self.counts.double().clamp(min=1)
        # Wilson and Hilferty's approximation of a gamma quantile.
        low = counts * (1 - 1 / (9 * counts) - _QUANTILE / (3 * counts.sqrt())) ** 3
        return torch.where(self.counts > 0, low, 0.0) / max(len(self.flat), 1)


def build(pack: ConceptPack, tokenizer: Tokenizer, other_packs: Iterable[ConceptPack] = (),
          settings: LabelSettings = LabelSettings()) -> TokenLabels:
    """Label every token of the pack's concept and neutral texts.

    Concept texts are the sentences and the tune questions with their answers; no test question is read. Purity is
    measured against ordinary English, the neutral sentences, other packs' sentences and the near-domain tune questions.

    Raises:
        NoConceptTokens: the vocabulary has no row that is the concept's own.
    """
    concept, neutral, near, others = _tokenized(pack, other_packs, tokenizer)
    used = (concept.counts + neutral.counts) > 0
    used[torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.int64)] = False
    ids = used.nonzero()[:, 0]
    seen, elsewhere = concept.counts[ids] > 0, neutral.counts[ids] > 0
    label = torch.where(seen & elsewhere, Label.BOTH, torch.where(seen, Label.CONCEPT, Label.NEUTRAL)).to(torch.int8)
    shown = surfaces(tokenizer, ids.tolist())
    whole = _whole_share(concept, ids, shown)
    english = background(tokenizer)
    texts = torch.maximum(neutral.rate, others.rate) + settings.near_weight * near.rate
    ordinary = english.rate[ids] + texts[ids]
    purity = _purity(concept.rate[ids], ordinary, settings)
    for i in ((purity >= settings.min_purity) & (whole < 0.5)).nonzero()[:, 0].tolist():
        # A piece is judged by every word that holds its letters: how another word is cut is an accident.
        inside = english.inside(letters_of(shown[i]), shown[i].startswith(" "))
        purity[i] = _purity(concept.rate[ids[i]], ordinary[i] + inside, settings)
    named = torch.tensor([len(letters_of(surface)) for surface in shown])
    purity[named == 0] = 0.0
    exclusive = (purity >= settings.min_purity) & ((whole >= 0.5) | (named >= settings.min_piece))
    if not exclusive.any():
        raise _nothing_exclusive(pack, shown, purity)
    sentences = concept.spread[ids]
    return TokenLabels(ids, label, concept.counts[ids], sentences, purity.float(), whole, exclusive,
                       _spread(sentences, whole, shown), len(concept_texts(pack)), settings)


def concept_texts(pack: ConceptPack) -> tuple[str, ...]:
    """What the pack says of the concept: its sentences, and its tune questions with their answers."""
    return (*pack.sentences, *(f"{q.question} {q.answer}" for q in pack.asked("questions", "tune")))


def _tokenized(pack: ConceptPack, other_packs: Iterable[ConceptPack], tokenizer: Tokenizer) -> list[_Texts]:
    """Concept, neutral, near-domain and other packs' texts."""
    near = tuple(" ".join((q.question, *q.options)) for q in pack.asked("near_domain", "tune"))
    others = tuple(line for other in other_packs if other.sha256 != pack.sha256 for line in other.sentences)
    parts = (concept_texts(pack), pack.neutral, near, others)
    rows = iter(token_ids(tokenizer, [text for part in parts for text in part]))
    return [_Texts.of([next(rows) for _ in part], len(tokenizer)) for part in parts]


def _purity(own: Tensor, ordinary: Tensor, settings: LabelSettings) -> Tensor:
    return own / (own + settings.prior_odds * (ordinary + _UNLISTED))


def _whole_share(concept: _Texts, ids: Tensor, shown: Sequence[str]) -> Tensor:
    """(n,) float32: how often a token is a word by itself, neither continuing nor continued by letters."""
    if len(concept.flat) == 0:
        return torch.ones(len(ids))
    begins, ends = torch.zeros(concept.size, dtype=torch.bool), torch.zeros(concept.size, dtype=torch.bool)
    begins[ids] = torch.tensor([surface[:1].isalpha() for surface in shown])
    ends[ids] = torch.tensor([surface[-1:].isalpha() for surface in shown])
    joined = ends[concept.flat[:-1]] & begins[concept.flat[1:]] & (concept.owner[:-1] == concept.owner[1:])
    alone = torch.ones(len(concept.flat))
    alone[1:][joined] = 0.0
    alone[:-1][joined] = 0.0
    total = torch.zeros(concept.size).index_add_(0, concept.flat, alone)
    return total[ids] / concept.counts[ids].clamp(min=1)


def _spread(sentences: Tensor, whole: Tensor, shown: Sequence[str]) -> Tensor:
    """(n,) float32: in how many texts the word stands, summed over its spellings; a piece stands for itself."""
    words = [surface.strip().lower() for surface in shown]
    place: dict[str, set[int]] = {}
    for i, word in enumerate(words):
        place.setdefault(word, set()).add(i)
    spread = sentences.float()
    for i in ((sentences > 0) & (whole >= 0.5)).nonzero()[:, 0].tolist():
        relatives = {i}.union(*(place.get(form, ()) for form in family(words[i])))
        spread[i] = sentences[sorted(relatives)].sum()
    return spread


def _nothing_exclusive(pack: ConceptPack, shown: Sequence[str], purity: Tensor) -> NoConceptTokens:
    best = int(purity.argmax())
    return NoConceptTokens(
        f"none of the {len(shown)} tokens of {pack.name!r} is the concept's own (nearest: {shown[best]!r}, "
        f"purity {purity[best]:.2f})",
        hint="take a model with a larger vocabulary, or add concept sentences that use the concept's own words")
