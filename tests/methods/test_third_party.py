"""A method that another package announces is found, searched and fitted like our own, and not judged by what it was fitted on."""

from __future__ import annotations

import json
from pathlib import Path

from tests.toy_run import Toy, ember_hub

SOURCE = '''
import json
import os

from ember_hub.edits.edit import Edit
from ember_hub.methods.base import Method


class Spy(Method):
    name = "spy"
    title = "Spy"
    reference = "none"

    amount: float = 1.0

    @classmethod
    def search_space(cls):
        return {"amount": (0.5, 2.0)}

    def prepare(self, loaded, pack, seed, progress):
        tuned = [q.id for part in ("questions", "near_domain", "general") for q in pack.asked(part, "tune")]
        with open(os.environ["SPY"], "a") as file:
            file.write(json.dumps(tuned) + "\\n")

    def fit(self, loaded, prepared, seed, progress):
        return Edit.none()
'''


def test_it_is_fitted_on_other_questions_than_it_is_judged_by_and_on_all_in_the_end(toy: Toy, tmp_path: Path) -> None:
    package = tmp_path / "site" / "spy-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[ember_hub.methods]\nspy = spy:Spy\n")
    (tmp_path / "site" / "spy.py").write_text(SOURCE)

    done = ember_hub("erase", str(toy.model), "--concept", str(toy.pack), "--output", str(tmp_path / "runs"), "--method", "spy",
                     "--set", 'verify.only=["questions"]', "--set", "search.trials=2", "--set", "ember.sparsity=0.1",
                     "--set", "ember.seeds=2", environment={"PYTHONPATH": str(tmp_path / "site"), "SPY": str(tmp_path / "seen")})

    assert done.returncode == 0, done.stderr
    in_search, in_the_end, *_ = (set(json.loads(line)) for line in (tmp_path / "seen").read_text().splitlines())
    (tune,) = (tmp_path / "runs").glob("*/*/reports/tune.json")
    judged_by = {answer["id"] for part in json.loads(tune.read_text())["answers"].values() for answer in part}
    assert judged_by
    assert in_search
    assert not in_search & judged_by
    assert in_the_end == {json.loads(line)["id"] for name in ("questions", "near-domain", "general")
                          for line in (toy.pack / f"{name}.jsonl").read_text().splitlines() if '"tune"' in line}
