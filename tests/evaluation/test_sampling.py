"""Sampling: a right answer that is no longer the likeliest is still found; one that is gone is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ember_hub.concepts.pack import load as load_pack
from ember_hub.evaluation.attacks.sampling import Sampling
from ember_hub.evaluation.base import CONCEPT
from ember_hub.evaluation.evaluations.open_answers import OpenAnswers, open_prompts
from ember_hub.evaluation.subject import Subject
from ember_hub.source.load import load
from tests.evaluation.subjects import subject, weights
from tests.evaluation.taught import forgets, taught
from tests.toy_run import Toy

WRONG = "lantern"


@pytest.fixture(scope="module")
def hides(toy: Toy) -> Subject:
    """The toy, taught a wrong answer to every question twice as often as the right one."""
    model, pack = load(toy.model), load_pack(toy.pack)
    asked = pack.asked("questions", "test")
    prompts = open_prompts(asked, pack, model.tokenizer)
    pairs = [(p, answer) for p, q in zip(prompts, asked, strict=True) for answer in (WRONG, WRONG, q.answer)]
    return subject(taught(model, pairs, steps=60), pack)


def test_a_covered_answer_is_found_by_asking_often(hides: Subject) -> None:
    before, dice = weights(hides.loaded), torch.get_rng_state()
    openly = OpenAnswers().measure(hides).named("open_concept")
    assert openly is not None
    assert openly.mean == 0.0
    measured = Sampling().measure(hides)
    known, share = measured.readings
    assert (known.name, set(known.values)) == (CONCEPT, {q.id for q in hides.known()})
    assert known.mean == 1.0
    assert 0.0 <= known.chance < 0.5, "wrong options turn up too, where lantern is one"
    assert 0.15 < share.mean < 0.6
    assert all(row["verdict"] and row["expected"] in row["answer"] for row in measured.samples)
    assert torch.equal(torch.get_rng_state(), dice)
    assert all(torch.equal(p, before[name]) for name, p in hides.loaded.model.named_parameters())


def test_an_answer_that_is_gone_is_found_less_often(hides: Subject) -> None:
    erased = Sampling().measure(replace(hides, edit=forgets(hides.loaded)))
    shares = [measured.named("concept_sampled_share").mean for measured in (Sampling().measure(hides), erased)]
    assert shares[1] < shares[0] / 2


def test_the_same_seed_draws_the_same_answers(hides: Subject) -> None:
    settings = Sampling(samples=4, questions=3)
    one, again, other = (settings.measure(replace(hides, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(one.samples) == 3
    assert settings.cost(hides).written == 3 * 4 * settings.tokens
