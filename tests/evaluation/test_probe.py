"""The linear probe: what it fits, what it leaves out, and that phrasing alone can be learned, which its control is for."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from ember_hub.concepts import pack as packs
from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.evaluation.attacks.probe import FEWEST, LinearProbe, fit
from ember_hub.source.load import load
from tests.evaluation.subjects import subject
from tests.models import SENTENCES
from tests.toy_run import Toy

WORDS = sorted({word.strip(".") for sentence in SENTENCES for word in sentence.split() if len(word) > 3})


def options(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The question of each option, and a right one for each question."""
    owners = torch.tensor([question for question, count in enumerate(counts) for _ in range(count)])
    dice, right = random.Random(0), torch.zeros(len(owners), dtype=torch.float64)
    for question, count in enumerate(counts):
        right[(owners == question).nonzero().flatten()[dice.randrange(count)]] = 1
    return owners, right


def random_states(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hits(scores: torch.Tensor, owners: torch.Tensor, right: torch.Tensor) -> float:
    """Share of questions whose right option has the highest score."""
    return sum(bool(right[owners == q][scores[owners == q].argmax()]) for q in owners.unique()) / len(owners.unique())


@pytest.mark.parametrize("width", [6, 300])
def test_a_left_out_question_is_scored_as_if_it_had_never_been_there(width: int) -> None:
    owners, right = options([4, 3, 4, 2, 4, 4, 3, 4])
    states = random_states(len(owners), width)
    found = fit(states, owners, right)
    same = (owners[:, None] == owners).double()
    within = torch.eye(len(owners), dtype=torch.float64) - same / same.sum(1)
    apart, wanted = within @ states, within @ right
    apart = apart / apart.std(0)
    # The penalty that the whole fit found, from its own normal equations.
    raw = found.weights * (within @ states).std(0)
    penalty = float((apart.T @ (wanted - apart @ raw)) @ raw / raw.square().sum())
    for question in owners.unique():
        others = owners != question
        gram = apart[others].T @ apart[others] + penalty * torch.eye(width, dtype=torch.float64)
        refitted = torch.linalg.solve(gram, apart[others].T @ wanted[others])
        torch.testing.assert_close(found.left_out[~others], apart[~others] @ refitted, rtol=1e-6, atol=1e-9)


def test_a_planted_direction_is_found_however_large_the_topic_and_noise_is_not() -> None:
    owners, right = options([4] * 40)
    states, topic = random_states(160, 200), 100 * random_states(40, 200, 1)
    planted = states + topic[owners] + 2 * right[:, None] * random_states(1, 200, 2)
    new = random_states(160, 200, 3) + 2 * right[:, None] * random_states(1, 200, 2)
    found, nothing = fit(planted, owners, right), fit(states + topic[owners], owners, right)
    assert hits(found.left_out, owners, right) > 0.9
    assert hits(new @ found.weights, owners, right) > 0.9
    assert hits(nothing.left_out, owners, right) < 0.45
    assert found.error < 0.8 * nothing.error


def phrased(pack: ConceptPack, is_telling: bool) -> ConceptPack:
    """Questions on nothing; where the phrasing is telling, the right option alone ends in "river"."""
    dice, questions = random.Random(0), []
    for number in range(48):
        topic, *words = dice.sample(WORDS, 5)
        places = {dice.randrange(4)} if is_telling else set(range(4))
        right = min(places) if is_telling else dice.randrange(4)
        answers = tuple(f"{word} {'river' if i in places else 'bridge'}" for i, word in enumerate(words))
        split = "test" if number % 3 else "tune"
        questions.append(Question(f"q{number}", split, f"What of the {topic}?", answers, answers[right]))
    return replace(pack, questions=tuple(questions), near_domain=(), general=())


@pytest.mark.parametrize("folder", ["llama_folder", "gemma_folder", "gpt2_folder"])
def test_telling_phrasing_is_learned_even_where_nothing_is_known_and_even_phrasing_teaches_nothing(
        folder: str, request: pytest.FixtureRequest, toy: Toy) -> None:
    model, pack = load(request.getfixturevalue(folder)), packs.load(toy.pack)
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    telling, even = (LinearProbe().measure(subject(model, phrased(pack, is_telling))) for is_telling in (True, False))
    assert [len(measured.readings[0].values) for measured in (telling, even)] == [32, 32]
    assert telling.readings[0].mean > 0.9
    assert even.readings[0].mean < 0.5
    assert telling.readings[0].mean == telling.details["layers"][telling.details["layer"]]
    assert len(telling.details["layers"]) == len(telling.details["low"]) == model.anatomy.n_layers
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())


def test_only_known_questions_are_fitted_while_there_are_enough(toy: Toy) -> None:
    model, pack = load(toy.model), packs.load(toy.pack)
    everything = subject(model, pack)
    few = {split: {part: frozenset(sorted(ids)[:2]) for part, ids in parts.items()}
           for split, parts in everything.syllabus.known.items()}
    fewer = replace(everything, syllabus=replace(everything.syllabus, known=few | {"test": everything.syllabus.known["test"]}))
    # Six known tune questions are too few: all twenty-four are fitted, as when all are known.
    assert LinearProbe().measure(fewer).readings == LinearProbe().measure(everything).readings
    assert LinearProbe().cost(fewer) == LinearProbe().cost(everything)
    four = {part: frozenset(sorted(ids)[:4]) for part, ids in everything.syllabus.known["tune"].items()}
    some = replace(everything, syllabus=replace(everything.syllabus, known={**everything.syllabus.known, "tune": four}))
    assert LinearProbe().cost(some).read < LinearProbe().cost(everything).read


def test_with_too_few_tune_questions_it_says_so(toy: Toy) -> None:
    pack = packs.load(toy.pack)
    assert LinearProbe().missing(pack) is None
    bare = replace(pack, questions=pack.questions[: FEWEST - 1], near_domain=(), general=())
    assert f"{len(bare.asked('questions', 'tune'))} tune questions" in LinearProbe().missing(bare)
