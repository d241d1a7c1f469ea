"""A published result is made again from its own recipe, and nothing that a stranger wrote into one decides more than the result."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ember_hub.concepts import pack as packs
from ember_hub.concepts.combined import combine
from ember_hub.errors import ConfigError, NotReproduced, RunNotFound, UsageError, WrongBase
from ember_hub.progress import Quiet
from ember_hub.publish.reproduce import ENVIRONMENT, RECIPE, SUMS, recipe
from ember_hub.publish.reproduce.comparison import compare
from ember_hub.publish.reproduce.environment import environment
from ember_hub.publish.reproduce.original import Original, open_original
from ember_hub.settings import Settings, resolve
from ember_hub.stages.again import Changes, settings_again
from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)
from tests.hub.pushing import published as on_hub
from tests.publish.test_card import example_report
from tests.toy_run import SETTINGS, Toy, ember_hub, write_pack

COMMIT = "12fd25f7" * 5
NAME = "tester/toy-model-ember-toy-inventors-patch"


def settings(**more: Any) -> Settings:
    return resolve({"model": "lab/pico", "concept": "toy", "output": "somewhere", **more}, environment={})


def list_again(folder: Path) -> None:
    """As a publisher would who changed something: the list fits what it lists."""
    def sha256(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    (folder / SUMS).write_text(recipe.sums(folder, sha256))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A published folder, small and whole; its weights are no weights."""
    folder, pack = tmp_path / "published", packs.load(write_pack(tmp_path / "toy"))
    (folder / "ember").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# A card\n")
    report = example_report() | {"ember_alone": None, "battery": "quick"}
    report["concept"] |= {"name": pack.name, "sha256": pack.sha256}
    report["model"] |= {"commit": COMMIT}
    (folder / "ember/report.json").write_text(json.dumps(report))
    dumped = settings().model_dump(mode="json")
    recipe.write(folder, recipe.recipe(dumped, f"lab/pico@{COMMIT}", pack.name), [], pack)
    list_again(folder)
    return folder


def opened(folder: Path) -> Original:
    (found,) = open_original(str(folder), Quiet())
    return found


def change_recipe(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = tomllib.loads((folder / RECIPE).read_text())
    change(content)
    (folder / RECIPE).write_text(tomli_w.dumps(content))
    list_again(folder)


def test_a_recipe_is_a_config_that_gives_the_same_settings_again(tmp_path: Path) -> None:
    made = settings(seed=7, methods=["rmu"], ember={"seeds": 2, "rank": 30}, verify={"battery": "quick", "skip": ["typo"]},
                    plugins={"rmu": {"steps": 9}, "quantize-4bit": {}}, gates={"recovered": 0.4}, publish={"form": "patch"})
    content = recipe.recipe(made.model_dump(mode="json"), f"lab/pico@{COMMIT}", "toy")
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(content))

    again = resolve({"model": "lab/pico", "concept": "toy"}, config=tmp_path / "recipe.toml", environment={})
    assert again.identity() == made.identity()
    assert (again.verify, again.gates, again.plugins["rmu"]) == (made.verify, made.gates, made.plugins["rmu"])


def test_a_recipe_names_no_place_of_a_machine_and_no_address(tmp_path: Path) -> None:
    made = settings(plugins={"mmlu": {"source": "/data/mmlu.jsonl", "questions": 50},
                             "open-answers": {"judge": "https://intern.example/v1", "judge_model": "m"}},
                    verify={"bench": ["mine"], "bench_include": "/data/tasks"}, loading={"offload": "/data/offload"},
                    publish={"push": True, "repo": "me/secret-name", "collection": "me/c-1"}).model_dump(mode="json")

    text = tomli_w.dumps(recipe.recipe(made, "pico", "toy"))
    for private in ("/data", "intern.example", "secret-name", "somewhere", "me/c-1"):
        assert private not in text
    assert "questions = 50" in text
    assert recipe.left_out(made) == ["mmlu.source", "open-answers.judge", "verify.bench_include"]


def test_a_pack_is_passed_on_whole_where_its_licence_lets_us_and_its_parts_by_number(tmp_path: Path) -> None:
    pack = packs.load(write_pack(tmp_path / "toy"))
    other = replace(pack, name="a/b 'c' \N{PILE OF POO}", sha256="0" * 64)
    content = recipe.recipe(settings().model_dump(mode="json"), "pico", "toy")

    recipe.write(tmp_path / "one", content, [], pack)
    assert packs.load(Path(str(recipe.pack_text(tmp_path / "one", pack.name)))).sha256 == pack.sha256
    recipe.write(tmp_path / "two", content, [], combine([pack, other]))
    folders = str(recipe.pack_text(tmp_path / "two", f"{pack.name}+{other.name}")).split("+")
    assert [Path(folder).name for folder in folders] == ["1", "2"]
    for licence in ("unknown", "all rights reserved", "CC-BY-NC-4.0", ""):
        recipe.write(tmp_path / "none", content, [], replace(pack, licence=licence))
        assert recipe.pack_text(tmp_path / "none", pack.name) is None
        assert "whose licence keeps it out" in (tmp_path / "none/reproduce/README.md").read_text()


def test_a_recipe_from_a_stranger_decides_the_result_and_nothing_else(published: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content |= {"output": "/home/victim", "trust_remote_code": True, "seed": 5}
        content["publish"] |= {"push": True, "repo": "evil/target", "yes": True, "push_anyway": True}
        content["loading"]["offload"] = "/home/victim"
        content["verify"]["bench_include"] = "/home/victim"
        content["plugins"] = {"open-answers": {"judge": "https://evil.example", "questions": 3}, "mmlu": {"source": "~/.ssh/id"}}

    change_recipe(published, change)
    original = opened(published)
    with pytest.raises(ConfigError, match="own Python code") as caught:
        settings_again(original, Changes(), Quiet())
    assert "--trust-remote-code" in caught.value.hint
    made = settings_again(original, Changes(output=Path("mine"), trust_remote_code=True), Quiet())
    assert made.publish == settings().publish
    assert (made.output, made.seed, made.loading.offload, made.verify.bench_include) == (Path("mine"), 5, None, None)
    assert made.plugins == {"open-answers": {"questions": 3}, "mmlu": {}}
    assert made.model == f"HuggingFaceTB/SmolLM2-135M-Instruct@{COMMIT}", "the base is the one that the report names"


def test_what_is_not_as_its_list_says_is_refused_before_anything_is_run(published: Path) -> None:
    good = published.with_name("good")
    shutil.copytree(published, good)

    def damaged(path: str, content: bytes | None) -> str:
        shutil.rmtree(published)
        shutil.copytree(good, published)
        if content is None:
            (published / path).unlink()
        else:
            (published / path).write_bytes(content)
        with pytest.raises(NotReproduced) as caught:
            opened(published)
        assert "nothing was run" in caught.value.hint
        return caught.value.message

    assert "model.safetensors" in damaged("model.safetensors", b"others")
    assert "is not there" in damaged("model.safetensors", None)
    assert RECIPE in damaged(RECIPE, b"seed = 1\n")
    assert "is damaged" in damaged(SUMS, b"0 model.safetensors\n")
    outside = (good / SUMS).read_bytes() + b"0" * 64 + b"  ../../secret\n"
    assert "is damaged" in damaged(SUMS, outside)
    (published / SUMS).unlink()
    with pytest.raises(RunNotFound) as caught:
        opened(published)
    assert "name a repository" in caught.value.hint


@pytest.mark.parametrize(("path", "content"), [
    (RECIPE, "seed = "), (RECIPE, "verify = 3"), (ENVIRONMENT, "[]"), (ENVIRONMENT, '{"versions": 1}'), ("ember/report.json", "{"),
    ("ember/report.json", json.dumps(example_report() | {"ember_alone": None, "scores": [{"name": 1}]}))])
def test_a_list_that_fits_makes_no_sense_of_nonsense(published: Path, path: str, content: str) -> None:
    (published / path).write_text(content)
    list_again(published)
    with pytest.raises(NotReproduced, match="cannot be read"):
        opened(published)


def test_another_base_or_pack_is_refused(published: Path, tmp_path: Path, llama_folder: Path) -> None:
    original = opened(published)
    with pytest.raises(WrongBase) as wrong:
        settings_again(original, Changes(base=str(llama_folder)), Quiet())
    assert "to the byte" in wrong.value.hint
    other = write_pack(tmp_path / "other")
    (other / "senses.txt").write_text("Marrow is in every bone.\n")
    with pytest.raises(NotReproduced, match="concept pack") as caught:
        settings_again(original, Changes(concept=str(other)), Quiet())
    assert "--concept FOLDER" in caught.value.hint
    original.report["model"]["source_kind"] = "gguf"
    with pytest.raises(UsageError) as usage:
        settings_again(original, Changes(), Quiet())
    assert COMMIT in usage.value.hint


def made_again(published: Path, tmp_path: Path, weights: bytes = b"weights", **scores: float) -> Any:
    """What the comparison says of a run that made these weights and measured these scores on the edited model."""
    original, folder = opened(published), tmp_path / "again"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    report = json.loads((published / "ember/report.json").read_text())
    for row in report["scores"]:
        if row["stage"] == "edited":
            row["value"] = scores.get(row["name"], row["value"])
    return lambda **here: compare(original, folder, report, original.environment | here)


def test_equal_files_are_the_same_result_wherever_they_were_made(published: Path, tmp_path: Path) -> None:
    found = made_again(published, tmp_path)
    here, elsewhere = found(), found(processor="another", versions={"torch": "1.0"})
    assert (here.is_reproduced, here.by, here.environment) == (True, "hash", ())
    assert (elsewhere.is_reproduced, elsewhere.by, elsewhere.is_same_machine) == (True, "hash", False)
    assert ("torch", "1.0") in [(d.name, d.here) for d in elsewhere.environment]


def test_other_files_from_the_same_machine_are_another_result_and_from_another_one_the_scores_decide(published: Path,
                                                                                                  tmp_path: Path) -> None:
    found = made_again(published, tmp_path, b"nearly the weights", neutral_loss=3.16)
    same, other = found(), found(gpu="another")
    assert (same.is_reproduced, same.by) == (False, "hash")
    with pytest.raises(NotReproduced, match=r"model\.safetensors is not the published file") as caught:
        same.require_reproduced()
    assert "machine and versions are the same" in caught.value.hint
    assert (other.is_reproduced, other.by) == (True, "scores")


def test_a_file_more_or_less_is_another_result(published: Path, tmp_path: Path) -> None:
    found = made_again(published, tmp_path)
    (tmp_path / "again/vocab.json").write_text("{}")
    assert (found().is_reproduced, found().different_files) == (False, ("vocab.json",))
    (tmp_path / "again/vocab.json").unlink()
    (tmp_path / "again/model.safetensors").unlink()
    assert (found().is_reproduced, found().different_files) == (False, ("model.safetensors",))


def test_a_score_outside_its_interval_is_another_result_even_with_equal_files(published: Path, tmp_path: Path) -> None:
    found = made_again(published, tmp_path, concept_known=0.9)()
    assert (found.is_reproduced, found.by, found.different_files) == (False, "hash", ())
    with pytest.raises(NotReproduced, match=r"concept_known of edited is 0\.900, published 0\.309"):
        found.require_reproduced()


def test_a_score_that_is_missing_is_a_difference_and_what_a_judge_said_is_none(published: Path) -> None:
    original, report = opened(published), json.loads((published / "ember/report.json").read_text())
    judged = original.report | {"evaluations": [{"name": "concept-by-judge", "reproducible": False}]}
    report["scores"] = [row for row in report["scores"] if not row["name"].startswith("concept")]
    strict, lenient = (compare(replace(original, report=r), published, report, original.environment)
                       for r in (original.report, judged))
    assert "was not measured again" in str(strict.different_scores[0])
    assert lenient.is_reproduced
    assert lenient.compared_scores < strict.compared_scores


def test_this_machine_is_told_without_names_of_hosts_or_folders() -> None:
    about = environment("cpu")
    assert about["device"] == "cpu"
    assert about["gpu"] == "none"
    assert {"torch", "transformers", "ember-hub"} <= about["versions"].keys()
    assert str(Path.home()) not in json.dumps(about)


@pytest.fixture
def on_the_hub(hub: Any, hub_environment: dict[str, str], toy: Toy, tmp_path: Path) -> Callable[..., Any]:  # noqa: F811
    """A patch from a base on the Hub, made from rows alone and pushed; the command line that talks to this Hub."""
    (toy.model / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Toy\n")
    hub.add_repo("maker/toy-model", toy.model)

    def command(*words: str) -> Any:
        return ember_hub(*words, environment=hub_environment, cwd=tmp_path)

    done = command("erase", "maker/toy-model", "--concept", str(toy.pack), "--method", "none", "--as", "patch", *SETTINGS, "--push")
    assert done.returncode == 0, done.stderr
    return command


def test_a_patch_on_the_hub_is_made_again_row_for_row_and_a_changed_recipe_is_found_out(
        hub: Any, on_the_hub: Callable[..., Any], tmp_path: Path) -> None:  # noqa: F811
    done = on_the_hub("reproduce", NAME, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["reproduced"], found["by"], found["files"]["different"]) == (True, "hash", [])
    assert found["files"]["equal"] >= 5
    assert not hub.seen("GET", rf"/{NAME}/resolve/.*adapter_model"), "what the Hub knows the hash of is not downloaded"

    theirs = tmp_path / "theirs"
    for path, content in on_hub(hub, NAME).items():
        (theirs / path).parent.mkdir(parents=True, exist_ok=True)
        (theirs / path).write_bytes(content)
    change_recipe(theirs, lambda content: content["ember"].update(untuned_strength=2.0))
    hub.add_repo(NAME, theirs)
    done = on_the_hub("reproduce", NAME)
    assert done.returncode == 1, done.stderr
    assert "NOT the same" in done.stdout
    assert "adapter_model.safetensors is not the published file" in done.stderr
    assert "Traceback" not in done.stderr
