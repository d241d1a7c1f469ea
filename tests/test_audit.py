"""`ember-hub verify` on models that others made: what they erased, what they broke, and what is no edit of the base at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import ember_hub as ember_hub_package
from tests.models import pico_llama
from tests.toy_run import Toy, ember_hub

QUICKEST = ("--only", "questions", "--only", "neutral-text", "--only", "restore-rows", "--only", "relearn-few")


def published(toy: Toy, folder: Path, change: Callable[[PreTrainedModel], None]) -> Path:
    """The toy model as somebody changed and saved it."""
    model = AutoModelForCausalLM.from_pretrained(toy.model)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy.model).save_pretrained(folder)
    return folder


def audit(toy: Toy, model: Path, output: Path, *more: str) -> tuple[int, dict, str]:
    done = ember_hub("verify", str(model), "--base", str(toy.model), "--concept", str(toy.pack), "--output", str(output), "--json",
                     *QUICKEST, *more)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_a_model_that_says_nothing_useful_is_called_broken_not_erased(toy: Toy, tmp_path: Path) -> None:
    silent = published(toy, tmp_path / "silent", lambda model: model.model.norm.weight.zero_())
    code, report, said = audit(toy, silent, tmp_path / "runs", "--fail-under", "efficacy=0.1", "--fail-under", "coherence=0.8")
    assert code == 3, said
    scores = {(s["name"], s["stage"]): s["value"] for s in report["scores"]}
    assert scores["concept_probability", "base"] > 0.9
    assert scores["concept_probability", "edited"] < 0.6, "the concept seems to be gone"
    assert report["coherence"] < 0.1
    assert [(gate["name"], gate["passed"]) for gate in report["gates"]] == [("coherence", False), ("efficacy", True)]
    assert "coherence is " in said.splitlines()[-2]
    assert report["kind"] == "audit"
    assert report["audited"]["name"] == "silent"
    assert {s["stage"] for s in report["scores"]} >= {"base", "edited", "control:random-edit"}


def test_an_adapter_names_its_own_base_and_is_audited_like_a_model(toy: Toy, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(toy.model)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    done = ember_hub("verify", str(tmp_path / "adapter"), "--concept", str(toy.pack), "--output", str(tmp_path / "runs"), "--json",
                     *QUICKEST)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["audited"]["kind"] == "adapter"
    assert report["audited"]["changed"] == model.config.num_hidden_layers
    assert "ember-hub verify adapter --base " in report["command"]
    page = next((tmp_path / "runs").glob("audit-adapter--*/*/reports/report.html"))
    assert "Toy inventors" in page.read_text()


def test_python_says_the_same_as_the_command(toy: Toy, tmp_path: Path) -> None:
    louder = published(toy, tmp_path / "louder", lambda model: model.model.layers[0].mlp.down_proj.weight.mul_(1.1))
    outcome = ember_hub_package.verify(str(louder), str(toy.pack), base=str(toy.model), output=tmp_path / "runs",
                                       verify={"only": ["questions", "restore-rows"]})
    assert outcome.report["audited"]["changed"] == 1
    assert outcome.report["recovered"] is None, "copying rows back is no attack that counts"
    assert outcome.model is None
    assert {"before", "difference"} <= outcome.report["seconds"].keys()
    assert "tune" not in outcome.report["seconds"], "no search will compare anything with the base"


def test_typed_again_an_audit_only_reads(toy: Toy, tmp_path: Path) -> None:
    noisy = published(toy, tmp_path / "noisy", lambda model: model.model.layers[0].mlp.down_proj.weight.mul_(1.1))
    _, first, _ = audit(toy, noisy, tmp_path / "runs")
    code, again, _ = audit(toy, noisy, tmp_path / "runs")
    assert code == 0
    assert again["seconds"] == first["seconds"]
    assert again["scores"] == first["scores"]


def test_a_file_of_questions_that_changed_is_asked_again(toy: Toy, tmp_path: Path) -> None:
    noisy = published(toy, tmp_path / "noisy", lambda model: model.model.layers[0].mlp.down_proj.weight.mul_(1.1))
    file, found = tmp_path / "mmlu.jsonl", []
    for count in (9, 12):
        options = ["one", "two", "three", "four"]
        rows = [{"question": f"Which number is {i}?", "choices": options, "answer": i % 4} for i in range(count)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        _, report, said = audit(toy, noisy, tmp_path / "runs", "--only", "mmlu", "--set", f"mmlu.source={file}")
        found += [s["n"] for s in report["scores"] if (s["name"], s["stage"]) == ("mmlu", "edited")]
    assert found == [9, 12], said


@pytest.mark.parametrize(("make", "says"), [
    (lambda toy, folder: toy.model, "byte for byte"),
    (lambda toy, folder: pico_llama(folder, tied=True), ""),
])
def test_what_is_no_edit_of_the_base_is_refused_in_one_line(toy: Toy, tmp_path: Path, make, says: str) -> None:
    code, report, said = audit(toy, make(toy, tmp_path / "other"), tmp_path / "runs")
    assert code == 1
    assert report == {}
    assert says in said
    assert said.splitlines()[-1].startswith("Hint: ")
    assert "Traceback" not in said


def test_a_checkpoint_without_its_base_is_a_usage_error(toy: Toy, tmp_path: Path) -> None:
    done = ember_hub("verify", str(toy.model), "--concept", str(toy.pack), "--output", str(tmp_path))
    assert done.returncode == 2
    assert "--base" in done.stderr
    assert list(tmp_path.iterdir()) == []
