"""Results on benchmarks of the Hub, in the form that feeds its model pages and leaderboards: `.eval_results/*.yaml`.

Only benchmarks that have a dataset on the Hub and were run in full go there. The tests of a concept pack are no such
benchmark: their results stay in the card's `model-index`. The base's own results are never copied: this is another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FOLDER = ".eval_results"
DATASETS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "mmlu": ("cais/mmlu", "mmlu"), "wmdp": ("cais/wmdp", "wmdp"), "wmdp_bio": ("cais/wmdp", "wmdp_bio"),
    "wmdp_chem": ("cais/wmdp", "wmdp_chem"), "wmdp_cyber": ("cais/wmdp", "wmdp_cyber"),
    "arc_challenge": ("allenai/ai2_arc", "arc_challenge"), "hellaswag": ("Rowan/hellaswag", "hellaswag"),
    "gsm8k": ("openai/gsm8k", "gsm8k"), "winogrande": ("allenai/winogrande", "winogrande"),
})
"""Task of lm-evaluation-harness -> dataset on the Hub, and the task's name there."""
PREFIX = "bench_"


def eval_results(report: Mapping[str, Any]) -> dict[str, str]:
    """Files by path, relative to the repository; none where no benchmark of the Hub was run in full.

    Args:
        report: as it holds for the published form.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    bench = report.get("bench")
    if not bench or bench["limit"] is not None:
        return {}
    entries: dict[str, list[EvalResultEntry]] = {}
    for score in report["scores"]:
        task = score["name"].removeprefix(PREFIX)
        if score["stage"] == "edited" and score["name"].startswith(PREFIX) and task in DATASETS:
            dataset, name = DATASETS[task]
            notes = f"accuracy in percent over {score['n']} questions by lm-evaluation-harness; an edited model, see the card"
            entries.setdefault(dataset, []).append(
                EvalResultEntry(dataset_id=dataset, task_id=name, value=round(100 * score["value"], 2), notes=notes))
    return {f"{FOLDER}/{dataset.rpartition('/')[2]}.yaml": yaml.safe_dump(eval_result_entries_to_yaml(found), sort_keys=False)
            for dataset, found in entries.items()}
