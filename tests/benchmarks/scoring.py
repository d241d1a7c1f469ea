"""Scoring questions through trees of shared prefixes: against one at a time, the machine's arithmetic, and plain float32.

One at a time is what one writes without trees: a forward pass for each text that asks for no logits it does not need.
Options that differ in their last token only share the pass, so a lettered question takes one, and its letters are read
from one distribution.

The limit is distinct tokens × 2 × parameters at the machine's own matrix rate, measured in the same run. Parameters are
all that multiply: the lookup of an embedding does not. `needed` is the least work there is: the last token of a text is
not read, and the head is asked only where a token is scored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from ember_hub.concepts.pack import Question
from ember_hub.concepts.registry import built_in
from ember_hub.evaluation.presentation import Format, Posed, pose
from ember_hub.evaluation.token_tree import TOKENS_PER_PASS, Text, token_logprobs
from ember_hub.progress import Quiet
from ember_hub.source.load import LoadedModel, load
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import resolve
from tests.bundled_model import bundled_model

QUESTIONS = {True: 30, False: 100}
FORMATS: tuple[Format, ...] = ("answer", "letter")
SIDE = 2048
ROUNDS = 2

Measured = dict[str, Any]
Returned = TypeVar("Returned")


def measure(quick: bool, model: str | None = None, one_thread: bool = False, questions: int | None = None,
            is_compared: bool = True) -> Measured:
    """Seconds, ratios and log-likelihoods of the questions, posed as `ask` does; the reference is one at a time in float32.

    Args:
        model: any model; by default the bundled one.
        one_thread: in CPU seconds of one thread, for a machine that is busy with other things.
        questions: how many are asked; a large model is slow enough with few.
        is_compared: whether float32 is asked too, which on a CPU takes longer than all the rest.
    """
    folder = resolve(ModelRef.parse(model or bundled_model() or ""), Quiet()).folder
    count = questions or QUESTIONS[quick]
    threads, clock = torch.get_num_threads(), time.process_time if one_thread else time.perf_counter
    torch.set_num_threads(1 if one_thread else threads)
    try:
        measured, found = _timed(load(folder, dtype="bfloat16"), count, clock)
        if not is_compared:
            return measured
        plain = load(folder, dtype="float32")
        for format in FORMATS:
            posed = _posed(plain, format, count)
            measured[format] |= _agreement(found[format] | {"float32_trees": _trees(plain, posed)}, _alone(plain, posed))
        return measured
    finally:
        torch.set_num_threads(threads)


def _timed(loaded: LoadedModel, questions: int, clock: Callable[[], float]) -> tuple[Measured, dict[Format, dict[str, Tensor]]]:
    posed = {format: _posed(loaded, format, questions) for format in FORMATS}
    _trees(loaded, posed["answer"][:8])
    rates, times, found = [_rates(loaded, clock)], {}, {}
    for format, asked in posed.items():
        trees, tree_seconds = _best(lambda asked=asked: _trees(loaded, asked), clock)
        alone, alone_seconds = _best(lambda asked=asked: _alone(loaded, asked), clock)
        found[format], times[format] = {"trees": trees, "one_at_a_time": alone}, (tree_seconds, alone_seconds)
        rates.append(_rates(loaded, clock))
    square, in_shapes = map(max, zip(*rates, strict=True))
    measured: Measured = {"threads": torch.get_num_threads(), "square_gflops": square / 1e9, "model_shapes_gflops": in_shapes / 1e9}
    return measured | {f: _compared(loaded, posed[f], *times[f], max(square, in_shapes)) for f in FORMATS}, found


def _compared(loaded: LoadedModel, posed: Sequence[Posed], tree: float, alone: float, rate: float) -> dict[str, float | int]:
    texts = [text for p in posed for text in p.texts]
    head = loaded.model.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for p in loaded.model.parameters()) - head - loaded.model.get_input_embeddings().weight.numel()
    distinct = len({text.ids[:n] for text in texts for n in range(1, len(text.ids) + 1)})
    read = len({text.ids[:n] for text in texts for n in range(1, len(text.ids))})
    asked = len({text.ids[:n] for text in texts for n in range(text.start, len(text.ids))})
    limit, needed = distinct * 2 * (layers + head) / rate, 2 * (read * layers + asked * head) / rate
    return {"prompts": len(posed), "texts": len(texts), "distinct_tokens": distinct, "tree_seconds": tree,
            "one_at_a_time_seconds": alone, "times_as_fast": alone / tree, "distinct_tokens_per_second": distinct / tree,
            "limit_seconds": limit, "share_of_limit": limit / tree, "needed_seconds": needed, "share_of_needed": needed / tree}


def _agreement(ways: dict[str, Tensor], reference: Tensor) -> dict[str, float]:
    """Of log-likelihoods, (prompts, options): the largest difference in nats, and the share of prompts with the same answer."""
    apart = {f"{way}_difference_nats": float((found - reference).abs().max()) for way, found in ways.items()}
    same = {f"{way}_same_answers": float((found.argmax(1) == reference.argmax(1)).double().mean()) for way, found in ways.items()}
    return apart | same


def _posed(loaded: LoadedModel, format: Format, count: int) -> list[Posed]:
    found: dict[str, Question] = {q.id: q for pack in built_in() for q in (*pack.questions, *pack.near_domain, *pack.general)}
    return pose(list(found.values())[:count], format, "measure", loaded.tokenizer)


def _trees(loaded: LoadedModel, posed: Sequence[Posed]) -> Tensor:
    sums = torch.stack([own.double().sum() for own in token_logprobs(loaded, [text for p in posed for text in p.texts])])
    return sums.view(len(posed), -1)


@torch.inference_mode()
def _alone(loaded: LoadedModel, posed: Sequence[Posed]) -> Tensor:
    sums = []
    for p in posed:
        passes: dict[tuple[int, ...], Tensor] = {}
        for text in p.texts:
            read = text.ids[:-1]
            if read not in passes:
                passes[read] = _next_logprobs(loaded, text)
            scored = torch.tensor(text.ids[text.start:])[:, None]
            sums.append(passes[read][-len(scored):].gather(1, scored).double().sum())
    return torch.stack(sums).view(len(posed), -1)


def _next_logprobs(loaded: LoadedModel, text: Text) -> Tensor:
    output = loaded.model(input_ids=torch.tensor([text.ids[:-1]]), logits_to_keep=len(text.ids) - text.start, use_cache=False)
    return output.logits[0].float().log_softmax(-1)


@torch.inference_mode()
def _rates(loaded: LoadedModel, clock: Callable[[], float]) -> tuple[float, float]:
    """Operations per second: of a square product, and of one pass's tokens with the matrices of the model's first block."""
    blocks = loaded.model.get_submodule(loaded.anatomy.blocks)
    weights = [p for p in blocks[0].parameters() if p.ndim == 2]
    inputs = [torch.randn(TOKENS_PER_PASS, w.shape[1]).to(w.dtype) for w in weights]
    square = torch.randn(SIDE, SIDE).to(loaded.dtype)
    _, whole = _best(lambda: linear(square, square), clock, 3 * ROUNDS)
    _, block = _best(lambda: [linear(x, w) for x, w in zip(inputs, weights, strict=True)], clock, 3 * ROUNDS)
    return 2 * SIDE**3 / whole, 2 * TOKENS_PER_PASS * sum(w.numel() for w in weights) / block


def _best(work: Callable[[], Returned], clock: Callable[[], float], rounds: int = ROUNDS) -> tuple[Returned, float]:
    """What it returns, and the seconds of the fastest round: others on the machine can only slow one down."""
    seconds = []
    for _ in range(rounds):
        start = clock()
        returned = work()
        seconds.append(clock() - start)
    return returned, min(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", type=str)
    parser.add_argument("--one-thread", action="store_true")
    parser.add_argument("--questions", type=int)
    parser.add_argument("--only-time", action="store_true", help="no comparison with float32")
    given = parser.parse_args()
    found = measure(given.quick, given.model, given.one_thread, given.questions, not given.only_time)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
