"""Two concepts in one run: one edited model, and results for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ember_hub.patches.patch import Patch
from tests.toy_run import CONCEPT, SETTINGS, Toy, ember_hub, write_pack

HALVES = {"early-inventors": slice(0, 4), "late-inventors": slice(4, 8)}


@pytest.fixture(scope="module")
def finished(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder and the report of a run on both halves of the toy concept."""
    place = tmp_path_factory.mktemp("several")
    concepts = [word for name, half in HALVES.items() for word in ("--concept", str(write_pack(place / name, half)))]
    done = ember_hub("erase", str(toy.model), *concepts, "--as", "both", "--output", str(place / "runs"), *SETTINGS, "--json")
    assert done.returncode == 0, done.stderr
    (folder,) = (place / "runs").glob("toy-model--*/*")
    return folder, json.loads(done.stdout)


def values(report: dict, stage: str) -> dict[str, float]:
    return {score["name"]: score["value"] for score in report["scores"] if score["stage"] == stage}


def test_both_concepts_go_and_their_neighbours_stay(finished: tuple[Path, dict]) -> None:
    _, report = finished
    before, after = values(report, "base"), values(report, "edited")
    for name in HALVES:
        assert before[f"{name}_known"] == 1.0
        assert after[f"{name}_known"] <= 0.5
    right = {score["name"]: score["value"] * score["n"] for score in report["scores"] if score["stage"] == "edited"}
    assert right["concept_known"] == pytest.approx(sum(right[f"{name}_known"] for name in HALVES))
    assert after["near_domain_known"] > 0.8


def test_one_patch_holds_the_rows_of_both(finished: tuple[Path, dict], toy: Toy) -> None:
    folder, _ = finished
    edited = {text.strip() for text in AutoTokenizer.from_pretrained(toy.model).batch_decode(
        [[token] for token in Patch.open(folder / "out/patch").token_ids])}
    for half in HALVES.values():
        assert edited & set(CONCEPT[half])


def test_card_and_report_name_both(finished: tuple[Path, dict]) -> None:
    folder, _ = finished
    for text in ((folder / "out/model/README.md").read_text(), (folder / "reports/report.md").read_text()):
        assert all(name.capitalize().replace("-", " ") in text for name in HALVES)
