"""A concept of four invented words, a tokenizer that keeps them whole, and an embedding in which they stand together."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ember_hub.concepts import labels
from ember_hub.concepts.labels import TokenLabels
from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.features.factorization import Factorization, FactorizationSettings, fit

OWN = ("Zorgon", "frandle", "quibbly", "vorpins", "skreeth", "blunkard")
"""The concept's words: in no dictionary."""
COMMON = ("water", "house", "music", "river", "people", "yellow", "garden", "market", "winter", "dinner")
ALSO = ("zorgon", "ZORGON", "Frandle", "frandles")
"""Other spellings: in the vocabulary, not in the concept's sentences."""
WIDTH = 48


def sentences() -> tuple[str, ...]:
    """Thirty sentences on the concept; each own word stands in many, together with common ones."""
    return tuple(f"The {OWN[i % 6]} and the {OWN[(i + 1 + i // 6) % 6]} {COMMON[i % 10]} near the {COMMON[(i * 3) % 10]}"
                 for i in range(30))


def neutral() -> tuple[str, ...]:
    return tuple(f"The {COMMON[i % 10]} and the {COMMON[(i * 7 + 3) % 10]} near the {COMMON[(i * 3 + 1) % 10]}"
                 for i in range(30))


def question(number: int, split: str, text: str, options: tuple[str, ...]) -> Question:
    return Question(id=f"q{number}", split=split, question=text, options=options, answer=options[0])


def pack(own: tuple[str, ...] | None = None, near: tuple[Question, ...] = ()) -> ConceptPack:
    """The toy pack, with other concept sentences if given."""
    asked = (question(1, "tune", "What does the Zorgon eat?", ("frandle", "water")),
             question(2, "test", "Who hunts the quibbly?", ("Zorgon", "people")))
    return ConceptPack(name="toy", title="Toy", description="", aliases=(), keywords=("Zorgon", "quibbly", "water"),
                       licence="", source="", sentences=sentences() if own is None else own, questions=asked,
                       near_domain=near, relearning=(), neutral=neutral(), general=(), sha256="0", folder=Path("."))


@functools.lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has every word of the toy texts as one token, and pieces for all others."""
    built = Tokenizer(models.BPE(unk_token=None))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    words = (*OWN, *COMMON, *ALSO, "The", "and", "the", "near", "carry", "marry", "ferry")
    corpus = [f" {word}" for word in words for _ in range(50)]
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=2, special_tokens=["<pad>", "<eos>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    built.train_from_iterator([*corpus, *sentences(), *neutral()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=built, pad_token="<pad>", eos_token="<eos>")


def token(word: str) -> int:
    """The id of one word after a space, which must be one token."""
    ids = tokenizer()([f" {word}"], add_special_tokens=False)["input_ids"][0]
    assert len(ids) == 1, f"{word!r} is cut into {len(ids)} tokens"
    return ids[0]


def embedding() -> Tensor:
    """(vocab, WIDTH): random rows; the concept's words and their spellings share a direction and, by word, a second."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(tokenizer()), WIDTH, generator=generator)
    shared, single = torch.randn(2, WIDTH, generator=generator)
    for word in OWN:
        rows[token(word)] = 2.0 * shared + 0.6 * rows[token(word)]
    for spelling in ALSO:
        # One spelling means something else to the model.
        near = rows[token("Zorgon" if spelling.lower() == "zorgon" else "frandle")]
        rows[token(spelling)] = 2.0 * single if spelling == "zorgon" else near + 0.3 * rows[token(spelling)]
    return rows


@dataclass(frozen=True)
class Toy:
    labels: TokenLabels
    rows: Tensor
    vocabulary: Tensor
    factorization: Factorization


def toy(seeds: tuple[int, ...] = (0, 1, 2)) -> Toy:
    """The toy concept, labelled and factorized."""
    labelled, vocabulary = labels.build(pack(), tokenizer()), embedding()
    rows = vocabulary[labelled.token_ids]
    return Toy(labelled, rows, vocabulary, fit(rows, labelled, FactorizationSettings(rank=6, seeds=seeds, sparsity=0.2)))
