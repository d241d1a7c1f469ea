"""A word's spellings: the simple inflections that share its meaning, in lower case."""

from __future__ import annotations

from collections.abc import Iterator

_ENDINGS = ("s", "es", "ed", "ing", "'s")
_VOWELS = "aeiou"
_SHORTEST = 3


def family(word: str) -> set[str]:
    """The word, what it inflects to, and what it may be inflected from."""
    stems = {word, *_stems(word)}
    return {form for stem in stems for form in (stem, *_inflections(stem)) if len(form) >= _SHORTEST}


def _inflections(word: str) -> Iterator[str]:
    for ending in _ENDINGS:
        yield word + ending
    if word.endswith("e"):
        yield word[:-1] + "ing"
        yield word + "d"
    if word.endswith("y"):
        yield word[:-1] + "ies"
        yield word[:-1] + "ied"
    if len(word) >= _SHORTEST and word[-1] not in _VOWELS and word[-2] in _VOWELS:
        yield word + word[-1] + "ed"
        yield word + word[-1] + "ing"


def _stems(word: str) -> Iterator[str]:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST:
            stem = word.removesuffix(ending)
            yield stem
            if ending in ("ing", "ed"):
                yield stem + "e"
            if ending in ("ing", "ed") and stem[-1] == stem[-2]:
                yield stem[:-1]
    if word.endswith("ies"):
        yield word[:-3] + "y"
