"""Attacks that train: what they train on learns, in a copy or through an adapter, and the model itself does not move."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraModel
from safetensors import safe_open

from ember_hub.concepts import pack as packs
from ember_hub.concepts.pack import ConceptPack
from ember_hub.concepts.prompts import statement
from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.evaluation.attacks.relearning import Benign, RelearnLora, RelearnPaper, RelearnStrong, Rtt, Training, halves
from ember_hub.evaluation.attacks.training import Recipe, trained
from ember_hub.evaluation.language import neutral_loss
from ember_hub.source.load import LoadedModel, load
from tests.evaluation.subjects import subject
from tests.models import SENTENCES, pico_experts
from tests.toy_run import CONCEPT, Toy

HARD = Recipe(epochs=6, batch_size=2, learning_rate=1e-2, embedding_rate=1e-2)
ADAPTER = replace(HARD, rank=8)
FOLDERS = ("llama_folder", "tied_llama_folder", "gemma_folder", "gpt2_folder")


@pytest.fixture
def pack(toy: Toy) -> ConceptPack:
    return packs.load(toy.pack)


def parameters(model: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in model.model.named_parameters()}


def has_moved(model: LoadedModel, before: dict[str, torch.Tensor]) -> bool:
    now = dict(model.model.named_parameters())
    return list(now) != list(before) or not all(torch.equal(p, before[name]) for name, p in now.items())


@pytest.mark.parametrize("recipe", [HARD, ADAPTER, replace(ADAPTER, embedding_rate=0)], ids=["full", "adapter", "blocks-only"])
@pytest.mark.parametrize(("folder", "dtype"), [("llama_folder", "float32"), *((folder, "bfloat16") for folder in FOLDERS)])
def test_what_is_trained_learns_the_paragraphs_and_the_model_stays_as_it_was(
        folder: str, dtype: str, recipe: Recipe, pack: ConceptPack, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(folder), dtype=dtype)
    before, seen = parameters(model), []
    start = sum(neutral_loss(model, SENTENCES))
    with trained(subject(model, pack), SENTENCES, recipe, lambda _, epoch: seen.append(epoch)) as victim:
        assert sum(neutral_loss(victim, SENTENCES)) < 0.8 * start
    assert seen == list(range(1, 6))
    assert not has_moved(model, before)
    assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())
    assert sum(neutral_loss(model, SENTENCES)) == start


@pytest.mark.parametrize("folder", FOLDERS)
def test_after_an_adapter_the_model_has_its_own_modules_back_and_saves_as_before(
        folder: str, pack: ConceptPack, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = load(request.getfixturevalue(folder))
    modules, attributes = dict(model.model.named_modules()), set(vars(model.model))
    model.model.save_pretrained(tmp_path / "before")
    with trained(subject(model, pack), SENTENCES[:2], ADAPTER) as victim:
        assert any("lora" in name for name, _ in victim.model.named_parameters())
        assert torch.is_grad_enabled()
    assert set(vars(model.model)) == attributes
    assert not model.model._hf_peft_config_loaded
    now = dict(model.model.named_modules())
    assert list(now) == list(modules)
    assert all(now[name] is module for name, module in modules.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in now.values())
    model.model.save_pretrained(tmp_path / "after")
    assert contents(tmp_path / "after") == contents(tmp_path / "before")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint; of the weights, the names and values."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
    return weights | {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_an_adapter_comes_off_when_the_attack_is_interrupted(llama_folder: Path, pack: ConceptPack) -> None:
    model = load(llama_folder)
    before = parameters(model)
    with pytest.raises(KeyboardInterrupt), trained(subject(model, pack), SENTENCES[:2], ADAPTER):
        raise KeyboardInterrupt
    assert not has_moved(model, before)


def test_an_adapter_that_is_interrupted_on_its_way_in_leaves_nothing_behind(
        llama_folder: Path, pack: ConceptPack, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(llama_folder)
    modules, attributes = dict(model.model.named_modules()), set(vars(model.model))
    inserted: list[str] = []

    def fifth(tuner: LoraModel, config: object, name: str, target: object, *rest: object, **options: object) -> None:
        inserted.append(name)
        if len(inserted) == 5:
            raise KeyboardInterrupt
        insert(tuner, config, name, target, *rest, **options)

    insert = LoraModel._create_and_replace
    monkeypatch.setattr(LoraModel, "_create_and_replace", fifth)
    with pytest.raises(KeyboardInterrupt), trained(subject(model, pack), SENTENCES[:2], ADAPTER):
        pass
    assert dict(model.model.named_modules()) == modules
    assert set(vars(model.model)) == attributes
    assert not any(p.requires_grad for p in model.model.parameters())


def test_an_adapter_lies_on_the_maps_of_experts_too(pack: ConceptPack, tmp_path: Path) -> None:
    """What a method edits in such a model lies in these maps: an attack that passes them by is no attack on it."""
    model = load(pico_experts(tmp_path))
    before = parameters(model)
    with trained(subject(model, pack), SENTENCES, replace(ADAPTER, embedding_rate=0)) as victim:
        learnt = {name for name, p in victim.model.named_parameters() if "lora_B" in name and p.abs().sum() > 0}
    for part in ("q_proj", "experts.base_layer", "experts.lora_B"):
        assert any(part in name for name in learnt), (part, learnt)
    assert not has_moved(model, before)


def test_in_float16_the_published_attack_takes_the_steps_that_it_takes_in_float32(llama_folder: Path, pack: ConceptPack) -> None:
    """AdamW's second moments are zero in float16: each step would be thousands of times the rate."""
    moved = []
    for dtype in ("float32", "float16"):
        model = load(llama_folder, dtype=dtype)
        before = parameters(model)
        with trained(subject(model, pack), SENTENCES, RelearnPaper().recipe) as victim:
            moved.append(max(float((p - before[name]).abs().max()) for name, p in victim.model.named_parameters()))
    assert moved[1] == pytest.approx(moved[0], rel=0.5)


@pytest.mark.parametrize("attack", [RelearnPaper(), RelearnLora(embedding_rate=1e-3)], ids=["full", "adapter"])
def test_the_attack_starts_from_the_edited_model(attack: Training, llama_folder: Path, pack: ConceptPack) -> None:
    model = load(llama_folder)
    edit = Edit({"model.embed_tokens.weight": ReplacedRows(torch.tensor([5]), torch.full((1, 48), 0.5))})
    with trained(subject(model, pack, edit), [model.tokenizer.decode([5, 6, 5, 7])], attack.recipe) as victim:
        row = victim.model.get_input_embeddings()(torch.tensor([5]))[0]
    moved = (row - 0.5).norm()
    assert 0 < moved < 0.1 * (row - model.model.get_input_embeddings().weight[5]).norm()


def test_the_strong_attack_moves_a_row_further_than_the_published_one(llama_folder: Path, pack: ConceptPack) -> None:
    model = load(llama_folder, dtype="bfloat16")
    start = model.model.get_input_embeddings().weight.clone()
    moved = []
    for attack in (RelearnPaper(), RelearnStrong()):
        with trained(subject(model, pack), SENTENCES, attack.recipe) as victim:
            moved.append(float((victim.model.get_input_embeddings().weight - start).float().norm()))
    assert moved[1] > 2 * moved[0]


@pytest.mark.parametrize("recipe", [RelearnStrong().recipe, RelearnLora().recipe], ids=["full", "adapter"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(recipe: Recipe, llama_folder: Path, pack: ConceptPack
                                                                      ) -> None:
    model = load(llama_folder)
    found = []
    for seed in (3, 3, 4):
        with trained(subject(model, pack, seed=seed), SENTENCES, recipe) as victim:
            found.append(torch.cat([p.detach().flatten() for p in victim.model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("rank", [0, 4])
def test_a_relearning_attack_reads_a_curve_that_ends_in_what_it_measures(rank: int, toy: Toy, pack: ConceptPack) -> None:
    model = load(toy.model)
    measured = RelearnPaper(rank=rank, epochs=2).measure(subject(model, pack))
    assert measured.readings[0].name == "concept_known"
    assert [point["epoch"] for point in measured.details["curve"]] == [1, 2]
    assert (measured.details["texts"], measured.details["steps"]) == ([len(pack.relearning)], [2 * len(pack.relearning)])
    assert measured.details["curve"][-1]["values"] == list(measured.readings[0].values.values())
    assert {reading.name for reading in measured.readings} == {"concept_known", "concept_probability", "valid_mass_concept",
                                                               "near_domain_known"}


def test_halves_are_disjoint_each_is_told_once_and_one_question_alone_is_told_to_nobody(toy: Toy, pack: ConceptPack) -> None:
    asked = subject(load(toy.model), pack)
    (told, kept), exchanged = halves(asked)
    assert exchanged == (kept, told)
    assert not {q.id for q in told} & {q.id for q in kept}
    assert {q.id for q in told + kept} == {q.id for q in asked.known()}
    assert abs(len(told) - len(kept)) <= 1
    one = frozenset({asked.known()[0].id})
    alone = replace(asked, syllabus=replace(asked.syllabus, known={**asked.syllabus.known, "test": {"concept": one}}))
    assert halves(alone) == [([], [asked.known()[0]])]


def test_rtt_answers_every_known_question_once_from_texts_that_do_not_hold_it(toy: Toy, pack: ConceptPack) -> None:
    asked = subject(load(toy.model), pack)
    attack = Rtt(epochs=1, rank=2)
    answered = attack.measure(asked).readings[0].values
    assert Counter(answered.keys()) == Counter(q.id for q in asked.known())
    (told, kept), _ = halves(asked)
    material = attack.material(asked)
    assert {statement(q) for q in (*told, *pack.asked("questions", "tune"))} == set(material)
    assert not any(q.question in text for q in kept for text in material)
    # Where the texts are limited, the told facts come before those that nobody is asked about.
    assert {statement(q) for q in told} <= set(Rtt(texts=len(told) + 1).material(asked))


def test_rtt_with_one_known_question_asks_that_one(toy: Toy, pack: ConceptPack) -> None:
    asked = subject(load(toy.model), pack)
    known = {**asked.syllabus.known["test"], "concept": frozenset({asked.known()[0].id})}
    alone = replace(asked, syllabus=replace(asked.syllabus, known={**asked.syllabus.known, "test": known}))
    assert list(Rtt(epochs=1, rank=2).measure(alone).readings[0].values) == [asked.known()[0].id]


def test_benign_training_does_not_see_the_concept(toy: Toy, pack: ConceptPack) -> None:
    material = Benign().material(subject(load(toy.model), pack))
    assert set(material) <= set(pack.neutral_part("fit"))
    assert not set(material) & {*pack.neutral_part("tune"), *pack.neutral_part("test")}
    assert not any(word in text for word in CONCEPT for text in material)
