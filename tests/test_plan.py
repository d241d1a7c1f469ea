"""The plan: what would change and what it would take, said before a weight file is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ember_hub.cli.plan_table import lines
from ember_hub.errors import NoConceptTokens
from ember_hub.pipeline import plan
from ember_hub.settings import Settings, resolve
from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)
from tests.toy_run import SETTINGS, Toy, ember_hub


def settings(model: Path, pack: Path, *more: str) -> Settings:
    return resolve({"model": str(model), "concept": str(pack)}, environment={},
                   assignments=["ember.sparsity=0.1", "ember.seeds=2", *more])


@pytest.fixture(scope="module")
def made(toy: Toy) -> dict[str, Any]:
    return plan(settings(toy.model, toy.pack))


def test_every_token_comes_with_its_uses_its_neighbours_and_a_sentence(made: dict[str, Any], toy: Toy) -> None:
    by = {token["text"].strip(): token for token in made["tokens"]}
    assert {"Velmora", "Quillon", "Tolvane"} <= set(by)
    sentences = (toy.pack / "sentences.txt").read_text().splitlines()
    own = {token["id"] for token in made["tokens"]}
    for token in made["tokens"]:
        assert 0 <= token["outside"] <= 1
        assert token["moved"] > 0
        assert token["examples"]
        assert set(token["examples"]) <= set(sentences)
        assert len(token["neighbours"]) == 3
        assert not own & {n["id"] for n in token["neighbours"]}
        assert all(-1 <= n["cosine"] <= 1 for n in token["neighbours"])
    assert by["honour"]["outside"] > by["Velmora"]["outside"], "a word of ordinary English is used elsewhere too"
    assert [t["outside"] for t in made["tokens"]] == sorted((t["outside"] for t in made["tokens"]), reverse=True)


def test_each_way_says_what_it_would_take(made: dict[str, Any], toy: Toy) -> None:
    first, *measured = made["ways"]
    assert (first["form"], first["methods"], first["is_measured"], first["download"]) == ("patch", [], False, 0)
    assert {(way["form"], *way["methods"]) for way in measured} == {
        (form, *methods) for form in ("patch", "full", "both") for methods in ((), ("rmu",))}
    by = {way["flags"]: way for way in measured}
    full, patch = (by[f"--method none --as {form} --battery quick"] for form in ("full", "patch"))
    size = (toy.model / "model.safetensors").stat().st_size
    assert full["disk"] - patch["disk"] > size / 2
    assert all(way["memory"] > size and way["blocked"] is None for way in measured)
    assert by["--method rmu --as full --battery quick"]["seconds"] > full["seconds"]
    thorough = plan(settings(toy.model, toy.pack, 'verify.battery="full"'))
    assert {way["flags"].rpartition(" ")[2] for way in thorough["ways"][1:]} == {"full"}
    quick, long = ((p["ways"][-1]["seconds"] - p["ways"][0]["seconds"]) * p["machine"]["speed"] for p in (made, thorough))
    assert long > 2 * quick, "the battery is that of the settings, and quick by itself"


def test_a_machine_that_is_too_small_is_told_so_and_the_patch_stays_possible(toy: Toy, tmp_path: Path) -> None:
    config = json.loads((toy.model / "config.json").read_text())
    folder = tmp_path / "deep"
    folder.mkdir()
    for file in toy.model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 10**9}))
    made = plan(settings(folder, toy.pack))
    assert [way["blocked"] for way in made["ways"]] == [None, *["more memory than there is"] * 6]
    assert any("more memory" in limit for limit in made["limits"])


def test_a_vocabulary_without_the_concept_is_refused_with_what_to_do(llama_folder: Path, toy: Toy) -> None:
    with pytest.raises(NoConceptTokens) as caught:
        plan(settings(llama_folder, toy.pack))
    assert "larger vocabulary" in caught.value.hint


def test_the_plan_of_a_repository_reads_rows_by_range_and_writes_nothing_but_the_cache(
        hub, hub_environment: dict[str, str], toy: Toy, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "here").mkdir()
    hub.add_repo("maker/toy-model", toy.model, gated=True)
    hub.grant("maker/toy-model", "tester")
    environment = hub_environment | {"EMBER_HUB_CACHE": str(tmp_path / "cache")}
    words = ("maker/toy-model", "--concept", str(toy.pack), *SETTINGS)
    done = ember_hub("plan", *words, "--json", environment=environment, cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    asked = hub.seen("GET", r"\.safetensors")
    assert asked
    assert all(request.range for request in asked), "no weight file was downloaded"
    assert 0 < found["read"]["bytes_fetched"] < (toy.model / "model.safetensors").stat().st_size
    assert found["ways"][1]["download"] > 0
    assert any("gated" in note for note in found["notes"])
    dry = ember_hub("erase", *words, "--method", "none", "--dry-run", "--quiet", environment=environment, cwd=tmp_path / "here")
    assert dry.returncode == 0, dry.stderr
    assert dry.stderr == ""
    assert list((tmp_path / "here").iterdir()) == []
    assert len(hub.seen("GET", r"\.safetensors")) == len(asked), "what was read is kept"
    assert all(len(line) <= 100 for line in dry.stdout.splitlines())
    assert "Velmora" in dry.stdout


def test_strange_tokens_stay_on_their_line(made: dict[str, Any]) -> None:
    strange = made["tokens"][0] | {"text": "\x1b[31m\n\u202ered", "neighbours": [{"id": 1, "text": "\r" * 90, "cosine": 0.5}] * 3}
    shown = list(lines(made | {"tokens": [strange]}))
    assert all(line.lstrip("\n").isprintable() and len(line) <= 101 for line in shown)
