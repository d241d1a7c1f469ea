"""Tasks of lm-evaluation-harness, run by the harness itself on what was written to disk: a folder, or a base with its patch.

It runs as a process of its own, the one a user would start (`lm-eval run`): it configures logging and seeds, imports hundreds of
modules, loads the model anew and gives all of its memory back. It also shows that the published files work in other hands.

A patch goes through a model type of our own. The harness ties the weights again after it has loaded a `peft=`, which fails on a
tied base (lm-eval 0.4.13, transformers 5.23). It also cuts a padded vocabulary to the tokenizer's first, by which a patch
would score a little differently from the edited folder.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ember_hub.errors import EvaluationError
from ember_hub.evaluation.score import Z95, Score, wilson
from ember_hub.progress import Progress

BATCH = 8
PATCHED = "ember-hub-patched"
METRICS = ("acc", "acc_norm", "exact_match", "em")
"""Metrics that are the share of right answers; of several, the first that a task reports counts."""
_BAR = re.compile(r"Running (\w+) requests: .*\| (\d+)/(\d+) ")
_ERROR = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt)): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Tasks:
    """What the harness shall run, and how it shall load a model.

    names: of tasks and groups of tasks. limit: most questions of each task. include: folder with more tasks, as YAML.
    device: "auto" is the harness's choice. dtype: "auto" is the checkpoint's own. is_spread: over all devices there are.
    """

    names: Sequence[str]
    limit: int | None = None
    include: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    is_spread: bool = False

    def config(self, model: Path, patch: Path | None, results: Path) -> dict[str, Any]:
        """The harness's configuration file."""
        loading = {"pretrained": str(model), "dtype": self.dtype} | ({"peft": str(patch)} if patch else {})
        loading |= {"trust_remote_code": True} if self.trust_remote_code else {}
        loading |= {"parallelize": True} if self.is_spread else {}
        return {"model": PATCHED if patch else "hf", "model_args": loading, "tasks": list(self.names), "limit": self.limit,
                "batch_size": BATCH, "device": None if self.device == "auto" else self.device,
                "include_path": str(self.include) if self.include else None, "output_path": str(results)}


def run_harness(model: Path, patch: Path | None, tasks: Tasks, *, stage: str, output: Path, progress: Progress) -> list[Score]:
    """Accuracy of a folder, or of a base with a patch, on tasks and groups of tasks; `bench_TASK` is a score's name.

    The harness's own results stay in `output`, with its log beside them.

    Raises:
        EvaluationError: the harness is not installed, has no such task, or stopped; or a task reports no accuracy.
    """
    require_harness()
    output.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", stage)
    log, results = output / f"lm-eval-{name}.log", output / f"lm-eval-{name}.json"
    with tempfile.TemporaryDirectory(dir=output) as room:
        config = Path(room, "config.yaml")
        # JSON is YAML; on the command line a comma in a path would end it.
        config.write_text(json.dumps(tasks.config(model, patch, Path(room, "results.json"))), "utf-8")
        if _run([__name__ if patch else "lm_eval", "run", "--config", str(config)], log, progress):
            raise _stopped(log)
        next(Path(room).glob("results_*.json")).replace(results)
    return read_results(results, stage)


def require_harness() -> None:
    """Refuse early.

    Raises:
        EvaluationError: the harness is not installed.
    """
    if not find_spec("lm_eval"):
        raise EvaluationError("lm-evaluation-harness is not installed", hint="pip install 'ember-hub[bench]'")


def require_tasks(names: Sequence[str], include: Path | None = None) -> None:
    """Refuse, before any work is done, what the harness would refuse at its end. Takes it some seconds.

    Raises:
        EvaluationError: the harness is not installed, or has no such task.
    """
    require_harness()
    words = [sys.executable, "-m", "lm_eval", "validate", "--tasks", ",".join(names)]
    words += ["--include_path", str(include)] if include else []
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace",
                          check=False)
    if found := re.search(r"^Tasks not found: (.+)$", done.stdout + done.stderr, re.MULTILINE):
        raise _no_task(found[1])


def read_results(file: Path, stage: str) -> list[Score]:
    """One score for each task and group, in a results file of the harness, that is not a part of another.

    Raises:
        EvaluationError: a task reports no accuracy.
    """
    found = json.loads(file.read_text("utf-8"))
    groups: Mapping[str, Sequence[str]] = found["group_subtasks"]
    inner = {task for tasks in groups.values() for task in tasks}
    waiting, scores = [name for name in found["results"] if name not in inner], []
    while waiting:
        name = waiting.pop(0)
        row = found["results"].get(name, {})
        keys = [key for key in row if key.split(",")[0] in METRICS]
        if keys:
            scores.append(_score(name, keys[0], row, stage, _chance(found, name)))
        elif groups.get(name):
            # A group without an aggregate is its tasks.
            waiting = [*groups[name], *waiting]
        else:
            metrics = sorted({key.split(",")[0] for key in row if "," in key and "_stderr" not in key})
            raise EvaluationError(f"the task {name} reports no accuracy, but {', '.join(metrics) or 'nothing'}",
                                  hint=f"leave it out; what the harness found is in {file}")
    return scores


def main() -> None:
    """`lm-eval` with one model type more: a base with an adapter, as transformers loads it."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM

    @register_model(PATCHED)
    class Patched(HFLM):
        def _create_model(self, *args: Any, peft: str, **options: Any) -> None:
            super()._create_model(*args, **options)
            self._model.load_adapter(peft)
            # They are tied by now, and only this keeps the harness from doing it again.
            for config in (self._model.config, self._model.config.get_text_config()):
                config.tie_word_embeddings = False

    cli_evaluate()


def _run(words: Sequence[str], log: Path, progress: Progress) -> int:
    """The exit status of a module run as a program; what it says goes into the log."""
    with log.open("w", encoding="utf-8") as kept:
        process = subprocess.Popen([sys.executable, "-m", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace")
        with process:
            assert process.stdout is not None
            try:
                kept.writelines(_followed(process.stdout, progress))
                return process.wait()
            finally:
                process.kill()


def _followed(lines: Iterable[str], progress: Progress) -> Iterator[str]:
    """The lines that are no progress bar; bars of requests move ours."""
    with ExitStack() as bars:
        kind, done = "", 0
        advance: Callable[[int], None] | None = None
        for line in lines:
            if bar := _BAR.search(line):
                if advance is None or bar[1] != kind:
                    bars.close()
                    kind, done = bar[1], 0
                    advance = bars.enter_context(progress.steps(f"lm-eval {kind}", int(bar[3])))
                advance(int(bar[2]) - done)
                done = int(bar[2])
            elif "%|" not in line:
                yield line


def _stopped(log: Path) -> EvaluationError:
    """What the harness failed of: the last exception in its log."""
    kind, says = (_ERROR.findall(log.read_text("utf-8")) or [("", "it stopped without saying why")])[-1]
    if says.startswith("Tasks not found: "):
        return _no_task(says.removeprefix("Tasks not found: "))
    if kind in ("ConnectionError", "OfflineModeIsEnabled"):
        return EvaluationError(f"lm-evaluation-harness: {says}", hint="a task's dataset is fetched from the Hub the first time; "
                               "check the connection and HF_HUB_OFFLINE")
    return EvaluationError(f"lm-evaluation-harness: {says}", hint=f"its log is {log}")


def _no_task(names: str) -> EvaluationError:
    return EvaluationError(f"lm-evaluation-harness has no task {names.strip()!r}", hint="`lm-eval ls tasks` lists them")


def _score(name: str, key: str, row: Mapping[str, Any], stage: str, chance: float | None) -> Score:
    value, count = row[key], row["sample_len"]
    metric, filtered = key.split(",")
    error = row.get(f"{metric}_stderr,{filtered}")
    # A single question has no standard error ("N/A"), and when all are right or all wrong it is 0.
    low, high = (max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)) if isinstance(error, float) and error > 0 \
        else wilson(value * count, count)
    return Score(f"bench_{name}", stage, "test", value, count, low, high, "accuracy", chance)


def _chance(found: Mapping[str, Any], name: str) -> float | None:
    """One in the number of options, where every question of the task has the same."""
    parts = found["group_subtasks"].get(name)
    if parts:
        chances = {_chance(found, part) for part in parts}
        return chances.pop() if len(chances) == 1 else None
    options = found["configs"].get(name, {}).get("doc_to_choice")
    return 1 / len(options) if isinstance(options, list) else None


if __name__ == "__main__":
    main()
