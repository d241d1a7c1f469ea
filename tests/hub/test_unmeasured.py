"""A patch from rows read by range: no weight file, no model, and a report that says nothing was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ember_hub.errors import ConfigError, UsageError
from ember_hub.patches.patch import Patch
from ember_hub.pipeline import erase, verify
from ember_hub.publish.report.schema import report_schema
from ember_hub.settings import resolve
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.ref import ModelRef
from ember_hub.stages.unmeasured import decided
from tests.toy_run import SETTINGS, Toy, ember_hub

from .server import LoopbackHub

BASE, PATCH = "maker/toy-model", "tester/toy-model-ember-toy-inventors-patch"


def words(toy: Toy, output: Path, *more: str) -> list[str]:
    return ["erase", BASE, "--concept", str(toy.pack), "--method", "none", "--as", "patch", "--output", str(output), *SETTINGS,
            *more]


def test_the_patch_is_made_and_pushed_from_rows_and_can_be_audited_later(
        hub: LoopbackHub, hub_environment: dict[str, str], toy: Toy, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    hub.add_repo(BASE, toy.model)
    environment = hub_environment | {"EMBER_HUB_CACHE": str(tmp_path / "cache")}
    done = ember_hub(*words(toy, tmp_path / "runs", "--push", "--json"), environment=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert all(request.range for request in hub.seen("GET", rf"{BASE}/.*\.safetensors")), "no weight file was downloaded"
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert (report["battery"], report["scores"], report["attacks"], report["known"]) == ("none", [], [], None)
    assert [report[name] for name in ("efficacy", "specificity", "coherence", "harmonic", "recovered")] == [None] * 5
    assert "nothing about the answers was measured" in report["warnings"][0]
    assert f"ember-hub verify REPO --base {BASE}" in report["warnings"][0]
    (folder,) = (tmp_path / "runs/toy-model--toy-inventors").iterdir()
    patch = Patch.open(folder / "out/patch")
    assert patch.base.commit == report["model"]["commit"]
    assert (patch.originals == Checkpoint.open(toy.model).read_row_bytes(patch.table.tensor, patch.token_ids)).all()
    assert hub.read(PATCH, "adapter_model.safetensors") == (folder / "out/patch/adapter_model.safetensors").read_bytes()
    again = ember_hub(*words(toy, tmp_path / "runs", "--fail-under", "efficacy=0.1"), environment=environment)
    assert again.returncode == 3
    assert again.stdout.startswith("FAILED   efficacy is not measured")
    assert "nothing about the answers" in again.stdout
    audit = ember_hub("verify", PATCH, "--concept", str(toy.pack), "--only", "questions", "--json",
                      "--output", str(tmp_path / "runs"), environment=environment)
    assert audit.returncode == 0, audit.stderr
    assert json.loads(audit.stdout)["efficacy"] > 0.5, "the patch can be measured later, and this one works"


@pytest.fixture(scope="module")
def unmeasured(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The full model and the patch of a folder, with nothing measured."""
    return erase(resolve({
        "model": str(toy.model), "concept": str(toy.pack), "methods": [], "output": tmp_path_factory.mktemp("runs"),
        "verify": {"battery": "none"}}, assignments=["ember.sparsity=0.1", "ember.seeds=2", "ember.untuned_strength=2"],
        environment={}))


def test_a_folder_can_go_unmeasured_too_and_both_forms_hold_the_same_rows(unmeasured: Any) -> None:
    patch, model = Patch.open(unmeasured.patch), Checkpoint.open(unmeasured.model)
    assert (model.read_row_bytes(patch.table.tensor, patch.token_ids) == patch.rows).all()
    assert unmeasured.report["ember"]["strength"] == 2.0
    assert "no model was loaded" in unmeasured.report["out"]["patch"]["reload"]
    assert unmeasured.report["methods"][0]["settings"]["untuned_strength"] == 2.0


def test_what_has_to_be_chosen_by_measuring_cannot_go_unmeasured(toy: Toy) -> None:
    def settings(**more: Any) -> Any:
        return resolve({"model": BASE, "concept": "toy"} | more, environment={})

    ref = ModelRef.parse(BASE)
    with pytest.raises(UsageError) as caught:
        decided(settings(verify={"battery": "none"}), ref)
    assert "--method none" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        decided(settings(methods=[], verify={"battery": "none", "only": ["questions"]}), ref)
    assert "one of them" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        verify(settings(verify={"battery": "none"}), "maker/edited")
    assert "--battery none" in caught.value.hint
    with pytest.raises(ConfigError):
        settings(verify={"battery": "nothing"})


@pytest.mark.parametrize(("more", "battery"), [
    ({"publish": {"form": "patch"}, "methods": []}, "none"), ({"publish": {"form": "patch"}}, "quick"),
    ({"methods": []}, "quick"), ({"publish": {"form": "patch"}, "methods": [], "verify": {"battery": "full"}}, "full"),
    ({"publish": {"form": "patch"}, "methods": [], "verify": {"skip": ["sampling"]}}, "quick"),
    ({"model": ".", "publish": {"form": "patch"}, "methods": []}, "quick")])
def test_nothing_is_measured_only_where_a_patch_of_rows_is_all_that_is_asked_for(more: dict[str, Any], battery: str) -> None:
    settings = resolve({"model": BASE, "concept": "toy"} | more, environment={})
    assert decided(settings, ModelRef.parse(settings.model)).verify.battery == battery
