"""A token is the concept's own if its texts use it far more than ordinary English does, and not for its spelling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ember_hub.concepts import labels
from ember_hub.concepts.background import background, surfaces
from ember_hub.concepts.labels import Label, TokenLabels
from ember_hub.errors import NoConceptTokens
from tests.toy_concept import COMMON, OWN, neutral, pack, question, sentences, token, tokenizer


@pytest.fixture(scope="module")
def built() -> TokenLabels:
    return labels.build(pack(), tokenizer())


def at(of: TokenLabels, word: str) -> int:
    return of.token_ids.tolist().index(token(word))


def test_the_concepts_words_are_exclusive_and_common_words_are_not(built: TokenLabels) -> None:
    assert all(built.exclusive[at(built, word)] for word in OWN)
    assert not any(built.exclusive[at(built, word)] for word in COMMON)
    assert built.purity[at(built, "Zorgon")] > 0.9 > 0.1 > built.purity[at(built, "water")]


def test_labels_say_where_a_token_was_seen(built: TokenLabels) -> None:
    assert built.label[at(built, "Zorgon")] == Label.CONCEPT
    assert built.label[at(built, "water")] == Label.BOTH
    texts = labels.concept_texts(pack())
    assert built.counts[at(built, "Zorgon")] == sum(text.count(" Zorgon") for text in texts)
    assert built.sentences[at(built, "Zorgon")] == sum(" Zorgon" in text for text in texts)


def test_the_spellings_of_a_word_are_seen_together() -> None:
    both = tuple(f"{line} frandles" if n < 4 else line for n, line in enumerate(sentences()))
    of = labels.build(pack(own=both), tokenizer())
    one, many = at(of, "frandle"), at(of, "frandles")
    assert of.spread[one] == of.spread[many] == of.sentences[one] + of.sentences[many]
    assert of.spread[at(of, "Zorgon")] == of.sentences[at(of, "Zorgon")]
    assert of.texts == len(both) + 1


def test_ids_are_sorted_distinct_and_never_special(built: TokenLabels) -> None:
    ids = built.token_ids.tolist()
    assert ids == sorted(set(ids))
    assert not set(ids) & set(tokenizer().all_special_ids)


def test_test_questions_are_not_read(built: TokenLabels) -> None:
    other = replace(pack(), questions=(*pack().questions, question(3, "test", "blunkard " * 50, ("skreeth", "water"))))
    assert torch.equal(labels.build(other, tokenizer()).counts, built.counts)


def test_a_piece_of_common_words_is_impure_however_they_are_cut() -> None:
    # As a token, `erry` stands in one word; as letters it stands in ferry, berry, cherry and others.
    odd = tuple(f"{line} Xerry" if n < 3 else line for n, line in enumerate(sentences()))
    of = labels.build(pack(own=odd), tokenizer())
    piece = surfaces(tokenizer(), of.token_ids.tolist()).index("erry")
    assert of.counts[piece] == 3
    assert of.whole[piece] == 0
    assert of.purity[piece] < 0.5 < of.purity[at(of, "Zorgon")]
    assert not of.exclusive[piece]


def test_other_packs_and_near_domain_questions_take_exclusiveness_away(built: TokenLabels) -> None:
    elsewhere = replace(pack(own=tuple("The Zorgon Zorgon" for _ in range(30))), name="other", sha256="1")
    assert labels.build(pack(), tokenizer(), [elsewhere]).purity[at(built, "Zorgon")] < 0.1
    near = tuple(question(n, "tune", "frandle frandle", ("frandle", "frandle water")) for n in range(9))
    beside = labels.build(pack(near=near), tokenizer())
    assert beside.purity[at(beside, "frandle")] < built.purity[at(built, "frandle")] - 0.2


def test_a_word_piece_has_the_mass_of_the_words_it_occurs_in() -> None:
    english = background(tokenizer())
    assert english.rate[token("water")] > 1e-4
    assert english.rate[token("Zorgon")] < 1e-6
    assert english.inside("arry", starts_word=False) > 10 * english.inside("quibbl", starts_word=False)


def test_without_own_words_the_error_names_the_nearest() -> None:
    with pytest.raises(NoConceptTokens, match="none of the") as raised:
        labels.build(replace(pack(own=neutral()), questions=()), tokenizer())
    assert "larger vocabulary" in raised.value.hint


def test_labels_survive_the_file(built: TokenLabels, tmp_path: Path) -> None:
    built.save(tmp_path / "labels.safetensors")
    read = TokenLabels.load(tmp_path / "labels.safetensors")
    assert read.settings == built.settings
    assert torch.equal(read.purity, built.purity)
    assert torch.equal(read.exclusive, built.exclusive)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.safetensors"]
