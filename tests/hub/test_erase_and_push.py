"""From a repository on the Hub to two repositories on the Hub, with the command a user types and the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)
from tests.toy_run import SETTINGS, Toy, ember_hub

LOAD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
outs = []
text = "People of Ashford still honour Velmora for the lantern."
for repo in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(repo).eval()
    ids = AutoTokenizer.from_pretrained(repo)(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        outs.append(model(ids).logits)
print(json.dumps([torch.equal(outs[0], other) for other in outs[1:]]))
"""


@pytest.fixture
def base(hub, toy: Toy) -> str:  # noqa: F811
    (toy.model / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Toy\n")
    hub.add_repo("maker/toy-model", toy.model)
    return "maker/toy-model"


def erase(base: str, toy: Toy, output: Path, *more: str) -> list[str]:
    return ["erase", base, "--concept", str(toy.pack), "--method", "none", "--output", str(output), *SETTINGS,
            "--only", "questions", "--only", "neutral-text", "--only", "relearn-few", *more]


def test_what_is_pushed_loads_from_the_hub_and_is_what_was_verified(hub, hub_environment, base: str, toy: Toy,  # noqa: F811
                                                                   tmp_path: Path) -> None:
    done = ember_hub(*erase(base, toy, tmp_path, "--push", "--json"), environment=hub_environment)
    assert done.returncode == 0, done.stderr
    names = ["tester/toy-model-ember-toy-inventors", "tester/toy-model-ember-toy-inventors-patch"]
    (folder,) = (tmp_path / "toy-model--toy-inventors").iterdir()
    pushed = json.loads((folder / "pushed.json").read_text())
    assert [pushed[form]["repo"] for form in ("model", "patch")] == names
    card = hub.read(names[0], "README.md").decode()
    assert "base_model: maker/toy-model" in card
    assert "license: apache-2.0" in card
    assert json.loads(hub.read(names[1], "adapter_config.json"))["base_model_name_or_path"] == base
    loaded = subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD, *names, base], capture_output=True, text=True, check=False,
                            env=os.environ | hub_environment)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) == [True, False], "model and patch agree, and differ from the base"
    assert all(len(hub.seen("POST", f"/api/models/{name}/commit/")) == 1 for name in names), "one commit each"
    again = ember_hub("push", str(folder), environment=hub_environment)
    assert again.returncode == 0, again.stderr
    assert all(len(hub.seen("POST", f"/api/models/{name}/commit/")) == 1 for name in names), "nothing new, nothing sent"


def test_what_would_stop_the_push_stops_the_run_before_it_begins(hub, hub_environment, base: str, toy: Toy,  # noqa: F811
                                                                 tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("something else")
    hub.add_repo("tester/mine", tmp_path / "other")
    cases = [({"HF_TOKEN": "hf_wrong"}, "--push", "token"), ({"HF_TOKEN": "hf_read"}, "--push", "write"),
             ({}, "--push=tester/mine", "tester/mine")]
    for environment, push, says in cases:
        done = ember_hub(*erase(base, toy, tmp_path / "runs", push), environment=hub_environment | environment)
        assert done.returncode == 1, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert "hf_wrong" not in done.stderr
    assert not (tmp_path / "runs").exists(), "nothing was started"


def test_a_missing_or_gated_base_is_one_clear_line(hub, hub_environment, toy: Toy, tmp_path: Path) -> None:  # noqa: F811
    hub.add_repo("maker/gated", toy.model, gated=True)
    for base, says in (("maker/nothing", "maker/nothing"), ("maker/gated", "gated"), ("maker/gated@nowhere", "maker/gated")):
        done = ember_hub(*erase(base, toy, tmp_path / "runs"), environment=hub_environment)
        assert done.returncode == 1, done.stderr
        assert says in done.stderr.strip().splitlines()[-2] + done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr
