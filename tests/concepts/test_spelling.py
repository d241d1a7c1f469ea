"""Inflections belong to one word; other words that look alike do not."""

from __future__ import annotations

import pytest

from ember_hub.concepts.spelling import family


@pytest.mark.parametrize(("word", "other"), [("wizards", "wizard"), ("vaccine", "vaccines"), ("batting", "bat"),
                                             ("invaded", "invade"), ("antibody", "antibodies"), ("bat", "batted")])
def test_an_inflection_is_of_the_family(word: str, other: str) -> None:
    assert other in family(word)


def test_a_longer_word_with_the_same_beginning_is_not() -> None:
    assert not {"party", "golfer", "reaction"} & (family("part") | family("golf") | family("react"))
