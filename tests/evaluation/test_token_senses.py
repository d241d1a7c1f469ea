"""Coherence around the edited tokens: each token speaks for itself, and only the edited ones are heard."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ember_hub.concepts.pack import ConceptPack
from ember_hub.concepts.pack import load as load_pack
from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.errors import EvaluationError, PackInvalid
from ember_hub.evaluation.evaluations.token_senses import SENSES, TokenSenses
from ember_hub.evaluation.language import neutral_loss
from ember_hub.source.load import LoadedModel, load
from tests.evaluation.subjects import subject
from tests.toy_run import Toy

WORDS = (" lantern", " compass", " kettle")


@pytest.fixture(scope="module")
def model(toy: Toy) -> LoadedModel:
    return load(toy.model)


@pytest.fixture(scope="module")
def pack(toy: Toy) -> ConceptPack:
    return load_pack(toy.pack)


def token(model: LoadedModel, text: str) -> int:
    (found,) = model.tokenizer(text).input_ids
    return found


def test_a_broken_row_is_heard_under_its_own_token_only(model: LoadedModel, pack: ConceptPack) -> None:
    lantern, compass, kettle = tokens = tuple(token(model, word) for word in WORDS)
    embedding = model.model.get_input_embeddings().weight
    before = embedding.clone()
    broken = Edit({model.anatomy.embedding: ReplacedRows(torch.tensor([compass]), -20 * before[[compass]])})
    base, edited = (TokenSenses().measure(subject(model, pack, edit, tokens)) for edit in (None, broken))
    (unmoved,), (moved,) = base.readings, edited.readings
    assert (moved.name, moved.unit, moved.better) == ("token_senses_loss", "nats", "lower")
    assert moved.values[str(compass)] > unmoved.values[str(compass)] + 0.1
    for other in (lantern, kettle):
        assert moved.values[str(other)] == pytest.approx(unmoved.values[str(other)], abs=1e-5)
    assert torch.equal(embedding, before)


def test_rows_that_are_no_numbers_are_refused_in_one_line(model: LoadedModel, pack: ConceptPack) -> None:
    compass = token(model, WORDS[1])
    rows = torch.full((1, model.anatomy.d_model), torch.nan)
    broken = Edit({model.anatomy.embedding: ReplacedRows(torch.tensor([compass]), rows)})
    with pytest.raises(EvaluationError, match="NaN on text with edited tokens") as caught:
        TokenSenses().measure(subject(model, pack, broken, (compass,)))
    assert "edited rows" in caught.value.hint


def test_every_prompt_reads_its_token_and_the_continuation_repeats_it(model: LoadedModel, pack: ConceptPack) -> None:
    tokens = tuple(token(model, word) for word in WORDS)
    samples = TokenSenses().measure(subject(model, pack, tokens=tokens)).samples
    assert len(samples) == len(tokens) * len(SENSES)
    for row in samples:
        prompt, whole = model.tokenizer([row["prompt"], row["prompt"] + row["answer"]]).input_ids
        assert prompt.count(row["token"]) == 1
        assert whole.count(row["token"]) == 2


def test_whole_words_come_first_and_what_no_text_can_show_is_left_out(model: LoadedModel, pack: ConceptPack) -> None:
    words = {token(model, word) for word in WORDS}
    piece, special = token(model, "Q"), model.tokenizer.eos_token_id
    tokens = (special, piece, *words)

    def heard(most: int) -> set[str]:
        return set(TokenSenses(tokens=most).measure(subject(model, pack, tokens=tokens)).readings[0].values)

    assert piece < min(words)
    assert heard(2) == {str(i) for i in sorted(words)[:2]}
    assert heard(24) == {str(i) for i in (piece, *words)}


def test_a_packs_own_sentences_are_scored_whole_and_without_edited_tokens_there_is_nothing_else(
        model: LoadedModel, pack: ConceptPack, tmp_path: Path) -> None:
    assert TokenSenses().measure(subject(model, pack)).readings == ()
    lines = ("The compass of her voice was wide.", "He kept the kettle.")
    copied = Path(shutil.copytree(pack.folder, tmp_path / "pack"))
    (copied / "senses.txt").write_text(f"{lines[0]}\n\n{lines[1]}\n")
    own = load_pack(copied)
    (reading,) = TokenSenses().measure(subject(model, own)).readings
    assert reading.name == "pack_senses_loss"
    assert list(reading.values.values()) == neutral_loss(model, lines)
    (copied / "senses.txt").write_bytes(b"caf\xe9")
    with pytest.raises(PackInvalid, match="not UTF-8") as error:
        load_pack(copied)
    assert "UTF-8" in error.value.hint
