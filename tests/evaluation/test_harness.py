"""lm-evaluation-harness runs what is published, a folder or a patch, as it is."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ember_hub.concepts.pack import load as load_pack
from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.errors import EvaluationError
from ember_hub.evaluation.harness import Tasks, read_results, require_tasks, run_harness
from ember_hub.evaluation.score import Score
from ember_hub.progress import Quiet
from ember_hub.publish.export import export_model
from ember_hub.publish.patch import make_patch
from ember_hub.source.load import load
from tests.publish.edits import base_of
from tests.toy_run import CONCEPT, OTHERS, Toy

needs_harness = pytest.mark.skipif(not find_spec("lm_eval"), reason="lm-eval is not installed (the extra `bench`)")


@pytest.fixture(scope="module")
def tasks(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks about the two halves of the toy world, and a group of both, as the harness takes them: YAML with JSON lines."""
    folder, pack = tmp_path_factory.mktemp("tasks"), load_pack(toy.pack)
    for name, questions in (("toy_concept", pack.questions), ("toy_near", pack.near_domain)):
        rows = [{"question": q.question, "options": q.options, "right": q.right} for q in questions]
        task(folder, name, rows, output_type="multiple_choice", doc_to_choice="options", doc_to_target="right",
             doc_to_text="Q: {{question}}\nA:", metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}])
    (folder / "toy_world.yaml").write_text(json.dumps({
        "group": "toy_world", "task": ["toy_concept", "toy_near"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}))
    return folder


def task(folder: Path, name: str, rows: list[dict], **definition: object) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}}
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, "test_split": "test", **local, **definition}))


def concept_edit(toy: Toy) -> Edit:
    """The rows of the concept's names become one and the same row."""
    loaded = load(toy.model)
    named, others = ({i for name in names for i in loaded.tokenizer(f" {name}").input_ids} for names in (CONCEPT, OTHERS))
    ids = torch.tensor(sorted(named - others))
    middle = loaded.model.get_input_embeddings().weight.detach().mean(0)
    return Edit({loaded.anatomy.embedding: ReplacedRows(ids, middle.repeat(len(ids), 1))})


@needs_harness
def test_an_edited_folder_and_a_patch_of_a_tied_base_score_alike(toy: Toy, tasks: Path, tmp_path: Path) -> None:
    anatomy, edit = load(toy.model).anatomy, concept_edit(toy)
    assert anatomy.is_tied
    export_model(toy.model, anatomy, edit, tmp_path / "edited, in full", Quiet())
    make_patch(base_of(toy.model), anatomy, edit, tmp_path / "patch")
    steps: list[int] = []
    bench = functools.partial(run_harness, output=tmp_path / "bench", progress=Counting(steps))
    here = functools.partial(Tasks, include=tasks, device="cpu", dtype="float32")

    concept, near = bench(tmp_path / "edited, in full", None, here(["toy_concept", "toy_near"]), stage="edited")
    assert (concept.name, concept.stage, concept.unit, concept.n) == ("bench_toy_concept", "edited", "accuracy", 16)
    assert concept.low < concept.value < concept.high
    assert concept.value <= 0.5
    assert near.value > 0.8, "what the edit does not touch is as well known as before"
    assert sum(steps) == 2 * 16 * 4, "every option of every question is one step"

    (whole,) = bench(toy.model, tmp_path / "patch", here(["toy_world"]), stage="edited:patch")
    assert (whole.name, whole.n, whole.value) == ("bench_toy_world", 32, (concept.value + near.value) / 2)
    assert results(tmp_path / "bench/lm-eval-edited-patch.json") == results(tmp_path / "bench/lm-eval-edited.json")
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == [
        "lm-eval-edited-patch.json", "lm-eval-edited-patch.log", "lm-eval-edited.json", "lm-eval-edited.log"]


@needs_harness
def test_tasks_are_looked_for_before_any_work_is_done(tasks: Path) -> None:
    require_tasks(["toy_concept", "toy_world"], tasks)
    with pytest.raises(EvaluationError, match="has no task 'toy_nothing'") as error:
        require_tasks(["toy_concept", "toy_nothing"], tasks)
    assert "lm-eval ls tasks" in error.value.hint


def test_a_base_that_needs_its_own_code_or_all_devices_is_loaded_so(tmp_path: Path) -> None:
    plain = Tasks(["mmlu"]).config(tmp_path, None, tmp_path / "results.json")
    assert plain["model_args"] == {"pretrained": str(tmp_path), "dtype": "auto"}
    asked = Tasks(["mmlu"], trust_remote_code=True, is_spread=True).config(tmp_path, tmp_path / "patch", tmp_path / "results.json")
    assert asked["model_args"] == {**plain["model_args"], "peft": str(tmp_path / "patch"), "trust_remote_code": True,
                                   "parallelize": True}


@needs_harness
def test_an_unknown_task_is_named_and_leaves_its_log_only(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has no task 'no-such-task'") as error:
        run_harness(toy.model, None, Tasks(["no-such-task"]), stage="base", output=tmp_path / "bench", progress=Quiet())
    assert "lm-eval ls tasks" in error.value.hint
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["lm-eval-base.log"]


def test_without_the_harness_the_extra_is_named(tmp_path: Path) -> None:
    script = ("import sys; sys.modules['lm_eval'] = None\n"
              "from pathlib import Path\nfrom ember_hub.errors import EvaluationError\n"
              "from ember_hub.evaluation.harness import Tasks, run_harness\nfrom ember_hub.progress import Quiet\n"
              "try:\n    run_harness(Path('model'), None, Tasks(['mmlu']), stage='base', output=Path(sys.argv[1]),"
              " progress=Quiet())\n"
              "except EvaluationError as error:\n    sys.exit(f'{error}: {error.hint}')")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "bench"], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "lm-evaluation-harness is not installed: pip install 'ember-hub[bench]'"
    assert not (tmp_path / "bench").exists()


def test_groups_stand_for_their_tasks_and_chance_is_told_where_it_is_one(tmp_path: Path) -> None:
    letters, words = {"doc_to_choice": ["A", "B", "C", "D"]}, {"doc_to_choice": "options"}
    scores = read(tmp_path, {
        "wmdp": {"acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 30},
        "wmdp_bio": {"acc,none": 0.4, "acc_stderr,none": 0.1, "sample_len": 15},
        "wmdp_chem": {"acc,none": 0.6, "acc_stderr,none": 0.1, "sample_len": 15},
        "loose": {"sample_len": 20},
        "one": {"acc_norm,none": 1.0, "acc_norm_stderr,none": 0.0, "sample_len": 10},
        "other": {"exact_match,strict-match": 0.0, "exact_match_stderr,strict-match": "N/A", "sample_len": 1},
    }, groups={"wmdp": ["wmdp_bio", "wmdp_chem"], "loose": ["one", "other"]},
        configs={"wmdp_bio": letters, "wmdp_chem": letters, "one": words, "other": {}})
    assert [(s.name, s.value, s.n, s.chance) for s in scores] == [
        ("bench_wmdp", 0.5, 30, 0.25), ("bench_one", 1.0, 10, None), ("bench_other", 0.0, 1, None)]
    assert (scores[0].low, scores[0].high) == pytest.approx((0.304, 0.696), abs=1e-3)
    assert 0.6 < scores[1].low < 0.8, "ten right answers of ten are no certainty"
    assert 0.5 < scores[2].high < 1.0


def test_a_task_without_right_answers_is_refused_by_its_metrics(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="wikitext reports no accuracy, but bits_per_byte, word_perplexity") as error:
        read(tmp_path, {"wikitext": {"word_perplexity,none": 9.0, "word_perplexity_stderr,none": "N/A", "bits_per_byte,none": 0.8,
                                     "sample_len": 62}})
    assert "results.json" in error.value.hint


@dataclass(frozen=True)
class Counting(Quiet):
    """Notes the steps that it is told of."""

    done: list[int]

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        yield self.done.append


def results(file: Path) -> dict[str, dict]:
    """What was measured of every task."""
    found = json.loads(file.read_text())["results"]
    return {name: found[name] for name in ("toy_concept", "toy_near")}


def read(folder: Path, results: dict, groups: dict | None = None, configs: dict | None = None) -> list[Score]:
    file = folder / "results.json"
    file.write_text(json.dumps({"results": results, "group_subtasks": groups or {}, "configs": configs or {}}))
    return read_results(file, "edited")
