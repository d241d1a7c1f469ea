"""One command, from a model that knows to files that do not: run for real on a toy world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.comparison import compare
from tests.toy_run import SETTINGS, Toy, ember_hub


@pytest.fixture(scope="module")
def finished(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, Path]:
    """A finished run: its folder, its report as printed, and the --output it was given."""
    output = tmp_path_factory.mktemp("runs")
    done = ember_hub(*toy.erase(output), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (folder,) = (output / "toy-model--toy-inventors").iterdir()
    return folder, report, output


def score(report: dict, name: str, stage: str) -> dict:
    (found,) = [s for s in report["scores"] if (s["name"], s["stage"]) == (name, stage)]
    return found


def test_the_concept_goes_and_its_neighbours_stay(finished: tuple[Path, dict, Path]) -> None:
    _, report, _ = finished
    assert score(report, "concept_known", "base")["value"] == 1.0
    assert score(report, "concept_known", "edited")["value"] < 0.5
    assert score(report, "near_domain_known", "edited")["value"] > 0.8
    assert report["efficacy"] > 0.6
    assert report["specificity"] > 0.8
    assert report["coherence"] > 0.8


def test_every_score_has_a_count_and_an_interval_around_it(finished: tuple[Path, dict, Path]) -> None:
    _, report, _ = finished
    for row in report["scores"]:
        assert row["n"] > 0
        assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9, row


def test_every_answer_behind_an_accuracy_can_be_read(finished: tuple[Path, dict, Path]) -> None:
    folder, report, _ = finished
    rows = [json.loads(line) for line in (folder / "samples/after.jsonl").read_text().splitlines()]
    known = [row for row in rows if row["part"] == "concept" and row["known"]]
    assert sum(row["accuracy"] for row in known) / len(known) == score(report, "concept_known", "edited")["value"]
    assert all(row["accuracy"] == sum(c == row["answer"] for c in row["chosen"]) / len(row["chosen"]) for row in rows)


def test_relearning_is_measured_with_its_controls(finished: tuple[Path, dict, Path]) -> None:
    folder, report, _ = finished
    stages = {s["stage"] for s in report["scores"]}
    controls = {f"control:{state}+relearn-few" for state in ("base", "rmu-only", "random-edit", "never-known")}
    assert {"attack:relearn-few", *controls} <= stages
    assert report["worst_attack"]["name"] in {row["name"] for row in report["attacks"]}
    assert (folder / "reports/figures/relearning.png").stat().st_size > 10_000


def test_the_model_written_differs_from_the_base_only_where_the_report_says(finished, toy: Toy) -> None:
    folder, report, _ = finished
    proof = compare(Checkpoint.open(toy.model), Checkpoint.open(folder / "out/model"))
    assert set(proof.changed) == set(report["out"]["model"]["changed"])
    assert proof.added == ("lm_head.weight",), "a tied base gets a head of its own"
    assert "model.embed_tokens.weight" in proof.changed
    assert all("down_proj" in name for name in proof.changed if name != "model.embed_tokens.weight")
    assert json.loads((folder / "out/model/config.json").read_text())["tie_word_embeddings"] is False


def test_model_and_patch_load_with_plain_transformers_and_the_head_is_untouched(finished, toy: Toy) -> None:
    folder, report, _ = finished
    base, edited = (AutoModelForCausalLM.from_pretrained(f) for f in (toy.model, folder / "out/model"))
    patched = AutoModelForCausalLM.from_pretrained(folder / "out/patch")
    rows = [t["id"] for t in report["ember"]["tokens"]]
    moved = (base.get_input_embeddings().weight != edited.get_input_embeddings().weight).any(dim=1).nonzero()[:, 0]
    assert sorted(rows) == moved.tolist()
    assert torch.equal(base.lm_head.weight, edited.lm_head.weight)
    ids = torch.tensor([rows[:6]])
    with torch.inference_mode():
        assert not torch.equal(base(ids).logits, patched(ids).logits)
    assert AutoTokenizer.from_pretrained(folder / "out/patch")("Velmora").input_ids


def test_the_card_says_what_was_measured_and_no_path_of_this_machine(finished: tuple[Path, dict, Path]) -> None:
    folder, report, output = finished
    for form in ("model", "patch"):
        card = (folder / f"out/{form}/README.md").read_text()
        assert f"{score(report, 'concept_known', 'edited')['value']:.2f}" in card
        assert "Toy inventors" in card
    for file in (folder / "out").rglob("*"):
        if file.suffix in {".md", ".json"} and file.name not in {"adapter_config.json", "tokenizer.json"}:
            assert str(output) not in file.read_text(), file


def test_typed_again_it_only_reads(finished: tuple[Path, dict, Path], toy: Toy) -> None:
    folder, report, output = finished
    before = {f: f.stat().st_mtime_ns for f in (folder / "out/model").glob("*.safetensors")}
    start = time.monotonic()
    done = ember_hub(*toy.erase(output), "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["scores"] == report["scores"]
    assert again["seconds"] == report["seconds"], "no stage ran again"
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert time.monotonic() - start < 60


def test_a_gate_that_fails_says_so_first_and_exits_with_three(finished: tuple[Path, dict, Path], toy: Toy) -> None:
    _, _, output = finished
    done = ember_hub(*toy.erase(output), "--fail-under", "neutral_kl=1")
    assert done.returncode == 3
    assert done.stdout.startswith("FAILED   neutral_kl is ")
    assert "neutral_kl" in done.stderr.splitlines()[-2]
    assert done.stderr.splitlines()[-1].startswith("Hint: ")


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_killed_in_the_middle_the_same_command_goes_on(toy: Toy, tmp_path: Path, kill: signal.Signals) -> None:
    words = [*toy.erase(tmp_path), "--method", "none", "--only", "questions", "--only", "relearn-few"]
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    child = subprocess.Popen([sys.executable, "-m", "ember_hub.cli", *words], stderr=subprocess.PIPE, text=True,
                             env=os.environ | {"PYTHONUNBUFFERED": "1"},
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("features"):
            child.send_signal(kill)
            break
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait() == (130 if kill == signal.SIGINT else -9)
    assert "Traceback" not in rest
    (folder,) = (tmp_path / "toy-model--toy-inventors").iterdir()
    assert not (folder / "out").exists()
    kept = json.loads((folder / "stages/features.json").read_text())
    done = ember_hub(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "stages/features.json").read_text()) == kept, "the finished stage was not repeated"
    assert not list(folder.rglob("*.partial-*"))
    assert "efficacy" in done.stdout


def test_a_patch_alone_carries_everything_when_no_method_ran(toy: Toy, tmp_path: Path) -> None:
    done = ember_hub(*toy.erase(tmp_path), "--method", "none", "--as", "patch", "--only", "questions", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (folder,) = (tmp_path / "toy-model--toy-inventors").iterdir()
    assert report["out"]["model"] is None
    assert report["out"]["patch"]["carries"] == "everything"
    assert not (folder / "out/model").exists()
    assert SETTINGS[1].split(".")[0] in report["command"]


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded(tmp_path: Path, toy: Toy) -> None:
    """A checkpoint of a few kilobytes on disk whose config and header claim a hundred billion parameters."""
    from tests.models import claim_huge

    folder = claim_huge(toy.model, tmp_path / "huge")
    done = ember_hub("erase", str(folder), "--concept", str(toy.pack), "--output", str(tmp_path / "runs"))
    assert done.returncode == 1
    assert "GB" in done.stderr.splitlines()[-2]
    assert "Hint: make room" in done.stderr or "Hint: leave out" in done.stderr
