"""Features are kept for the concept's tokens that they hold, and tokens for what all the seeds agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ember_hub.errors import CorruptCheckpoint, NoFeatureSelected
from ember_hub.features import statistics
from ember_hub.features.coverage import coverage
from ember_hub.features.factorization import Factorization, fit
from ember_hub.features.selection import ConceptRows, SelectionSettings, choose
from tests.toy_concept import COMMON, OWN, Toy, pack, token, tokenizer, toy

# A toy space is small: fewer tokens to be close to, and larger cosines between any two.
SETTINGS = SelectionSettings(min_kinship=0.3)


@pytest.fixture(scope="module")
def planted() -> Toy:
    return toy()


@pytest.fixture(scope="module")
def chosen(planted: Toy) -> ConceptRows:
    return choose(planted.factorization, planted.labels, planted.rows, tokenizer(), SETTINGS)


def test_the_planted_words_and_no_others_are_chosen(chosen: ConceptRows) -> None:
    assert set(chosen.token_ids.tolist()) == {token(word) for word in OWN}


def test_contributions_point_along_the_rows_in_raw_units(planted: Toy, chosen: ConceptRows) -> None:
    centred = planted.vocabulary[chosen.token_ids] - planted.factorization.mean
    cosines = torch.cosine_similarity(chosen.contributions, centred)
    assert cosines.min() > 0.5
    assert (chosen.contributions.norm(dim=1) <= 1.2 * centred.norm(dim=1)).all()


def test_multiplying_the_embedding_multiplies_the_contributions(planted: Toy, chosen: ConceptRows) -> None:
    scaled = fit(planted.rows * 7, planted.labels, planted.factorization.settings)
    again = choose(scaled, planted.labels, planted.rows * 7, tokenizer(), SETTINGS)
    assert torch.allclose(again.contributions, 7 * chosen.contributions, rtol=1e-2, atol=1e-2)


def test_every_decision_carries_its_evidence(chosen: ConceptRows) -> None:
    kept = [feature for feature in chosen.evidence.features if feature.kept]
    assert [feature.column for feature in kept] == list(range(chosen.F.shape[1]))
    assert all(feature.share >= SETTINGS.min_share and "≥" in feature.reason for feature in kept)
    refused = {t.token_id: t for t in chosen.evidence.tokens if not t.accepted}
    assert "too little evidence" in refused[token(COMMON[0])].reason
    assert json.loads(chosen.evidence.json())["tokens"][0]["accepted"]
    assert asdict(chosen.evidence)["features"]


def test_no_more_than_the_surest_are_taken_and_the_others_are_told_why(planted: Toy) -> None:
    few = choose(planted.factorization, planted.labels, planted.rows, tokenizer(), replace(SETTINGS, most=2))
    assert len(few.token_ids) == 2
    left = [t for t in few.evidence.tokens if t.text.strip() in OWN and not t.accepted]
    assert len(left) == len(OWN) - 2
    assert all("beyond the 2 surest" in t.reason for t in left)


def test_a_word_of_few_texts_or_of_everyday_english_needs_more(planted: Toy) -> None:
    consensus = torch.ones(len(planted.labels.token_ids))
    rare, everyday = (SETTINGS.score(planted.factorization, planted.labels, consensus, torch.full_like(consensus, zipf))
                      for zipf in (3.0, 5.0))
    own = torch.isin(planted.labels.token_ids, torch.tensor([token(word) for word in OWN]))
    assert torch.allclose(rare[own] - everyday[own], torch.tensor(SETTINGS.common_weight))
    seldom = replace(planted.labels, spread=torch.ones_like(planted.labels.spread))
    assert SETTINGS.score(planted.factorization, seldom, consensus, consensus).isinf().all()


def test_one_leave_out_prediction_equals_a_fit_without_the_row() -> None:
    generator = torch.Generator().manual_seed(1)
    for n, d in ((30, 8), (8, 30)):
        rows, purity = torch.randn(n, d, generator=generator).double(), torch.rand(n, generator=generator).double()
        predicted = statistics.affinity(rows, purity)
        target = purity - purity.mean()
        without = rows[1:]
        weights = torch.linalg.solve(without.T @ without + torch.eye(d, dtype=torch.float64), without.T @ target[1:])
        assert torch.isclose(predicted[0], rows[0] @ weights + purity.mean())


def test_nothing_reaches_an_impossible_share_and_the_hint_says_which_would_do(planted: Toy) -> None:
    with pytest.raises(NoFeatureSelected, match=r"best: 1\.00") as raised:
        choose(planted.factorization, planted.labels, planted.rows, tokenizer(), SelectionSettings(min_share=1.1))
    assert "--set features.min_share=0.90" in raised.value.hint


def test_rows_that_are_not_numbers_are_a_corrupt_checkpoint(planted: Toy) -> None:
    broken = planted.rows.clone()
    broken[3, 0] = float("nan")
    with pytest.raises(CorruptCheckpoint, match="1 embedding rows hold NaN") as raised:
        fit(broken, planted.labels, planted.factorization.settings)
    assert "download" in raised.value.hint


def test_factorization_and_choice_survive_the_file(planted: Toy, chosen: ConceptRows, tmp_path: Path) -> None:
    planted.factorization.save(tmp_path / "factorization.safetensors")
    read = Factorization.load(tmp_path / "factorization.safetensors")
    assert read.settings == planted.factorization.settings
    assert torch.equal(read.activations(1), planted.factorization.activations(1))
    chosen.save(tmp_path / "rows.safetensors")
    back = ConceptRows.load(tmp_path / "rows.safetensors")
    assert back.evidence == chosen.evidence
    assert torch.equal(back.contributions, chosen.contributions)


def test_coverage_counts_words_that_pass_through_the_rows(planted: Toy, chosen: ConceptRows) -> None:
    reach = coverage(pack(), chosen.token_ids, planted.labels, tokenizer())
    assert reach.keywords == pytest.approx(2 / 3)
    assert reach.question_words == 1.0
    assert reach.missed == ("water",)
    # Six rows are few, whatever share of so small a world they reach.
    assert reach.verdict.startswith("EMBER can do little here")
