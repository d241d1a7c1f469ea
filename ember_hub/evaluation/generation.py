"""What a model writes: continuations of prompts, greedy or sampled, in batches.

A prompt is read once however many samples are drawn from it, and an answer is told from its prompt by token count, never
by text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ember_hub.concepts.prompts import chat, has_chat
from ember_hub.progress import Progress, Quiet
from ember_hub.source.load import transformers_reports_to

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache
    from transformers.utils import ModelOutput

    from ember_hub.source.load import LoadedModel

ROWS_PER_BATCH = 192
TOKENS_PER_BATCH = 8192
"""Keys and values that one batch may hold: about a gigabyte in a model of 3B parameters."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as text, and as the model reads it."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """How much is written, and how each token is chosen.

    temperature: 0 takes the likeliest token; otherwise tokens are drawn from the whole distribution.
    samples: continuations of each prompt.
    """

    tokens: int
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """One continuation, without the token that ended it."""

    ids: tuple[int, ...]
    text: str


def prompt(tokenizer: PreTrainedTokenizerBase, turn: str, plain: str) -> Prompt:
    """`turn` as a user's turn, for a model with a chat template; `plain`, which the model continues, for any other."""
    is_chat = has_chat(tokenizer)
    text = chat(turn, tokenizer) if is_chat else plain
    return Prompt(text, tuple(tokenizer(text, add_special_tokens=not is_chat).input_ids))


def write(loaded: LoadedModel, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress | None = None
          ) -> list[tuple[Written, ...]]:
    """The model's continuations of every prompt. The same seed gives the same texts; no global state moves."""
    listener = progress or Quiet()
    ends = _ends(loaded)
    written: list[tuple[Written, ...]] = [()] * len(prompts)
    with (listener.steps("writing", len(prompts)) as advance, transformers_reports_to(listener),
          _without_defaults(loaded.model), _own_dice(loaded.device, decoding.seed)):
        for batch in _batches(prompts, decoding):
            continued = _continue(loaded, [prompts[i].ids for i in batch], decoding, ends)
            for place, index in enumerate(batch):
                rows = continued[place * decoding.samples:(place + 1) * decoding.samples]
                written[index] = tuple(_until(ends, row, loaded.tokenizer) for row in rows)
            advance(len(batch))
    return written


def _batches(prompts: Sequence[Prompt], decoding: Decoding) -> Iterator[list[int]]:
    """Indices of prompts of similar length, in batches of bounded size."""
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids)):
        rows = (len(batch) + 1) * decoding.samples
        if batch and (rows > ROWS_PER_BATCH or rows * (len(prompts[index].ids) + decoding.tokens) > TOKENS_PER_BATCH):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _continue(loaded: LoadedModel, prompts: Sequence[Sequence[int]], decoding: Decoding, ends: frozenset[int]) -> list[list[int]]:
    """What comes after each prompt, padded; the samples of one prompt stand together."""
    width, samples = max(map(len, prompts)), decoding.samples
    # Padded on the left by hand: any token will do under the mask, and the tokenizer need not have one for it.
    ids = torch.tensor([[*[0] * (width - len(p)), *p] for p in prompts], device=loaded.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=loaded.device)
    cache = _read(loaded.model, ids[:, :-1], mask[:, :-1], samples) if samples > 1 else None
    draw = partial(_draw, decoding.temperature) if decoding.temperature else None
    output = _generate(loaded.model, ids.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0), cache, draw,
                       max_new_tokens=decoding.tokens, eos_token_id=sorted(ends) or None)
    return output.sequences[:, width:].tolist()


def _read(model: PreTrainedModel, ids: Int[Tensor, "prompts width"], mask: Int[Tensor, "prompts width"], samples: int
          ) -> Cache | None:
    """Keys and values of the prompts, once for each sample; None from a model whose memory is of another kind."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = getattr(_generate(model, ids, mask, None, max_new_tokens=1), _cache_name(), None)
    # Layers with a recurrent state inherit a way to be repeated that leaves the state out.
    if cache is None or not {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return None
    cache.batch_repeat_interleave(samples)
    return cache


def _draw(temperature: float, _: Tensor, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
    """Leaves of every row one token, drawn from the softmax.

    One random number for each row, looked up in the cumulative distribution: what transformers draws with, one for each row
    and token, takes longer than the whole pass of a small model.
    """
    below = (logits / temperature).softmax(1).cumsum(1)
    dice = torch.rand(len(below), 1, device=below.device) * below[:, -1:]
    drawn = torch.searchsorted(below, dice, right=True).clamp_max(below.shape[1] - 1)
    return torch.full_like(logits, -torch.inf).scatter_(1, drawn, 0.0)


def _generate(model: PreTrainedModel, ids: Tensor, mask: Tensor, cache: Cache | None,
              draw: Callable[[Tensor, Tensor], Tensor] | None = None, **options: Any) -> ModelOutput:
    from transformers import GenerationConfig, LogitsProcessorList

    given = {} if cache is None else {_cache_name(): cache}
    # Asked for by number, the last hidden state is a view with gaps, for which the CPU copies the head once for every row.
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = torch.tensor([-1])
    config = GenerationConfig(return_dict_in_generate=True, pad_token_id=0, **options)
    processors = LogitsProcessorList([draw] if draw else [])
    return model.generate(ids, attention_mask=mask, generation_config=config, logits_processor=processors, **given)


def _cache_name() -> str:
    """What transformers calls keys and values: `cache` from 5.24 on, which warns of the older name."""
    from transformers.generation import GenerateDecoderOnlyOutput

    return "cache" if "cache" in {field.name for field in fields(GenerateDecoderOnlyOutput)} else "past_key_values"


def _until(ends: frozenset[int], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Written:
    """The tokens before the first that ends an answer."""
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return Written(tuple(ids[:length]), tokenizer.decode(ids[:length]).strip())


def _ends(loaded: LoadedModel) -> frozenset[int]:
    """The tokens that end an answer: every special one, for the end of a turn has many names, and some checkpoints lack it."""
    stated = loaded.model.generation_config.eos_token_id
    special = (token for token, added in loaded.tokenizer.added_tokens_decoder.items() if added.special)
    return frozenset((*special, *loaded.tokenizer.all_special_ids, *(stated if isinstance(stated, list) else [stated]))) - {None}


@contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Inside, nothing is filled in from the checkpoint's own generation config: no penalties, no truncation, no lengths."""
    from transformers import GenerationConfig

    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept


@contextmanager
def _own_dice(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, tokens are drawn by this seed; outside, torch's random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
