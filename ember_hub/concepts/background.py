"""How often each vocabulary row is used in ordinary English: what a concept's rows are measured against.

Word frequencies come from the `wordfreq` package. Every frequent word is tokenized as it stands in running text, so that
a word piece receives the mass of every word it occurs in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import wordfreq
from torch import Tensor

WORDS = 50_000
"""How many of the most frequent English words make up the background."""
# A word stands after a space nearly always; at the start of a line or after a bracket or quote about once in twenty.
_UNSPACED = 0.05
# Abbreviations are listed in lower case (`uk`): short words are also tried in capitals.
_ABBREVIATION = 4
_BATCH = 4096


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer here."""

    @property
    def all_special_ids(self) -> list[int]: ...

    def __len__(self) -> int: ...

    def __call__(self, text: list[str], *, add_special_tokens: bool = True) -> Any: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Background:
    """Ordinary English as one tokenizer sees it.

    rate: (vocab,) float64, occurrences of each token id per word of running text.
    words, frequency: the words themselves, for pieces that are judged by their letters.
    """

    rate: Tensor
    words: tuple[str, ...]
    frequency: tuple[float, ...]

    def inside(self, letters: str, starts_word: bool) -> float:
        """Summed frequency of the words that contain these letters (that begin with them), whatever their pieces are.

        A piece such as `arry` is one token in few words but a part of many; how a word is cut is an accident.
        """
        piece = letters.lower()
        found = str.startswith if starts_word else str.__contains__
        return sum(often for word, often in zip(self.words, self.frequency, strict=True) if found(word, piece))


@functools.lru_cache(maxsize=2)
def background(tokenizer: Tokenizer) -> Background:
    """Ordinary English for one tokenizer; kept in memory for the last two tokenizers."""
    words = tuple(wordfreq.top_n_list("en", WORDS))
    frequency = tuple(wordfreq.word_frequency(word, "en") for word in words)
    texts: list[str] = []
    weights: list[float] = []
    for space, share in ((" ", 1.0), ("", _UNSPACED)):
        for word, often in zip(words, frequency, strict=True):
            for form in _forms(word):
                texts.append(space + form)
                weights.append(often * share)
    ids = token_ids(tokenizer, texts)
    flat = torch.tensor([i for row in ids for i in row], dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in ids])
    mass = torch.tensor(weights, dtype=torch.float64).repeat_interleave(lengths)
    return Background(torch.zeros(len(tokenizer), dtype=torch.float64).index_add_(0, flat, mass), words, frequency)


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of every text, without special tokens, in batches: fast tokenizers work through one in parallel."""
    # Beside the ids a tokenizer holds offsets and masks of a whole batch: a hundred thousand texts would take 300 MB.
    batches = (list(texts[low : low + _BATCH]) for low in range(0, len(texts), _BATCH))
    return [ids for batch in batches for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]]


def surfaces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """How tokens stand in text, a leading space included; for display and for word boundaries, never as a key."""
    shown = []
    for i, raw in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        marked = raw is not None and raw[:1] in ("Ġ", "▁")
        if raw is None:
            shown.append("")
        elif raw.isascii():
            shown.append(raw)
        elif marked and raw[1:].isascii():
            shown.append(" " + raw[1:])
        else:
            shown.append((" " if marked else "") + tokenizer.decode([i]).removeprefix(" "))
    return shown


def letters_of(surface: str) -> str:
    """The token without its leading space if it is made of letters alone, else nothing."""
    bare = surface.removeprefix(" ")
    return bare if bare.isalpha() else ""


def _forms(word: str) -> list[str]:
    """A word as written within a sentence, as a name or at its start, and as an abbreviation."""
    forms = [word, word[:1].upper() + word[1:]]
    if len(word) <= _ABBREVIATION:
        forms.append(word.upper())
    # Every spelling gets the full frequency: the list does not say how often a word is a name.
    return list(dict.fromkeys(forms))
