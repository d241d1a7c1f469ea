"""An accepted word brings its other spellings along, unless they mean something else."""

from __future__ import annotations

import pytest
import torch

from ember_hub.features.selection import ConceptRows, SelectionSettings, choose
from ember_hub.features.variants import VariantSettings, adopt
from tests.toy_concept import OWN, Toy, token, tokenizer, toy

SETTINGS = VariantSettings(min_kinship=0.3)


@pytest.fixture(scope="module")
def planted() -> Toy:
    return toy()


@pytest.fixture(scope="module")
def chosen(planted: Toy) -> ConceptRows:
    return choose(planted.factorization, planted.labels, planted.rows, tokenizer(), SelectionSettings(min_kinship=0.3))


@pytest.fixture(scope="module")
def wider(planted: Toy, chosen: ConceptRows) -> ConceptRows:
    return adopt(chosen, planted.vocabulary.__getitem__, planted.labels, planted.factorization, tokenizer(), SETTINGS)


def test_capitals_and_plurals_join_their_word(wider: ConceptRows) -> None:
    added = set(wider.token_ids.tolist()) - {token(word) for word in OWN}
    assert {token("ZORGON"), token("Frandle"), token("frandles")} <= added


def test_a_spelling_that_means_something_else_is_refused_with_the_reason(wider: ConceptRows) -> None:
    refused = next(t for t in wider.evidence.tokens if t.token_id == token("zorgon"))
    assert not refused.accepted
    assert f"refused as a variant of token {token('Zorgon')}" in refused.reason
    assert token("zorgon") not in wider.token_ids


def test_a_variant_gets_its_words_features_and_nothing_else(chosen: ConceptRows, wider: ConceptRows) -> None:
    ids = wider.token_ids.tolist()
    word, variant = wider.G[ids.index(token("Zorgon"))], wider.G[ids.index(token("ZORGON"))]
    assert torch.equal(word != 0, variant != 0)
    cosine = torch.cosine_similarity(wider.F @ word, wider.F @ variant, dim=0)
    assert cosine > 0.7


def test_the_accepted_words_stay_as_they_were(chosen: ConceptRows, wider: ConceptRows) -> None:
    assert wider.token_ids.tolist() == sorted(wider.token_ids.tolist())
    kept = torch.isin(wider.token_ids, chosen.token_ids)
    assert torch.equal(wider.G[kept], chosen.G)
    assert torch.equal(wider.F, chosen.F)


def test_a_variant_that_is_common_elsewhere_is_refused(planted: Toy, chosen: ConceptRows) -> None:
    strict = VariantSettings(min_kinship=0.3, min_purity=0.9999)
    assert torch.equal(adopt(chosen, planted.vocabulary.__getitem__, planted.labels, planted.factorization, tokenizer(), strict).G,
                       chosen.G)
