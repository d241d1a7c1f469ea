"""Scoring questions through a tree of shared prefixes against one option at a time: rate, and whether answers agree."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import torch

from ember_hub.concepts.pack import Question
from ember_hub.concepts.registry import built_in
from ember_hub.evaluation.presentation import pose
from ember_hub.evaluation.token_tree import Text, token_logprobs
from ember_hub.progress import Quiet
from ember_hub.source.load import LoadedModel, load
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import resolve
from tests.bundled_model import bundled_model

QUESTIONS = {True: 30, False: 200}


def measure(quick: bool, model: str | None = None) -> dict[str, dict[str, float | int]]:
    """Both ways over the same questions, one presentation each, in one process.

    In bfloat16 a rounding can turn a near tie; float32, on fewer questions, shows that the arithmetic is the same.

    Args:
        model: any model; by default the bundled one.
    """
    folder = resolve(ModelRef.parse(model or bundled_model() or ""), Quiet()).folder
    return {dtype: _measure(load(folder, dtype=dtype), _questions(count))
            for dtype, count in (("bfloat16", QUESTIONS[quick]), ("float32", 30))}


def _measure(loaded: LoadedModel, questions: Sequence[Question]) -> dict[str, float | int]:
    posed = [p for p in pose(questions, "answer", "measure", loaded.tokenizer) if p.presentation == 0]
    texts = [text for p in posed for text in p.texts]
    token_logprobs(loaded, texts[:4])
    start = time.perf_counter()
    batched = [float(l.sum()) for l in token_logprobs(loaded, texts)]
    middle = time.perf_counter()
    single = [_one(loaded, text) for text in texts]
    end = time.perf_counter()
    width = len(posed[0].texts)
    agree = sum(_best(batched, i, width) == _best(single, i, width) for i in range(0, len(texts), width))
    return {"questions": len(posed), "options": len(texts), "seconds_tree": middle - start, "seconds_one_at_a_time": end - middle,
            "ratio": (end - middle) / (middle - start), "same_answers": agree / len(posed),
            "largest_difference_nats": max(abs(a - b) for a, b in zip(batched, single, strict=True)),
            "threads": torch.get_num_threads()}


def _questions(count: int) -> list[Question]:
    found = {q.id: q for pack in built_in() for q in (*pack.questions, *pack.near_domain, *pack.general)}
    return list(found.values())[:count]


@torch.inference_mode()
def _one(loaded: LoadedModel, text: Text) -> float:
    logits = loaded.model(input_ids=torch.tensor([text.ids], device=loaded.device), use_cache=False).logits[0].float()
    logprobs = logits.log_softmax(-1)
    return float(sum(logprobs[i - 1, text.ids[i]] for i in range(text.start, len(text.ids))))


def _best(values: list[float], first: int, width: int) -> int:
    return max(range(width), key=lambda i: values[first + i])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", type=str)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(measure(given.quick, given.model), indent=1) + "\n")
