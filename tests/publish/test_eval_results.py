"""Results for the Hub's leaderboards: only of its own benchmarks, only in full, only of the edited model."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub._eval_results import parse_eval_result_entries

from ember_hub.publish.eval_results import eval_results


def report(limit: int | None = None) -> dict[str, Any]:
    rows = [("bench_mmlu", "base", 0.5, 14042), ("bench_mmlu", "edited", 0.4875, 14042), ("bench_wmdp_bio", "edited", 0.25, 1273),
            ("bench_mine", "edited", 0.9, 10), ("mmlu", "edited", 0.3, 400), ("concept_known", "edited", 0.1, 21)]
    scores = [{"name": name, "stage": stage, "value": value, "n": n} for name, stage, value, n in rows]
    return {"bench": {"tasks": ["mmlu", "wmdp_bio", "mine"], "limit": limit}, "scores": scores}


def test_full_benchmarks_of_the_hub_are_written_as_its_client_reads_them() -> None:
    files = eval_results(report())
    assert sorted(files) == [".eval_results/mmlu.yaml", ".eval_results/wmdp.yaml"]
    (mmlu,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/mmlu.yaml"]))
    assert (mmlu.dataset_id, mmlu.task_id, mmlu.value) == ("cais/mmlu", "mmlu", 48.75)
    assert "percent over 14042 questions" in mmlu.notes


def test_a_part_of_a_benchmark_is_no_result() -> None:
    assert eval_results(report(limit=10)) == {}
    assert eval_results({"scores": []}) == {}
