"""How well the model still writes ordinary text: loss on neutral sentences, and how far its predictions moved.

The divergence is KL(base ‖ edited) over the base's likeliest tokens and one bucket for all others: a lower bound of the
full divergence, and a close one, at a hundredth of its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ember_hub.evaluation.token_tree import Text, token_logprobs
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

KEPT_TOKENS = 128
SENTENCES_PER_PASS = 8
TINY = 1e-12


@dataclass(frozen=True)
class Predictions:
    """What a model expects next at every position of some sentences."""

    token_ids: Int[Tensor, "positions kept"]
    logprobs: Float[Tensor, "positions kept"]


def neutral_loss(loaded: LoadedModel, sentences: Sequence[str], progress: Progress | None = None) -> list[float]:
    """Mean next-token loss of each sentence, in nats per token; the first token is given."""
    encoded = loaded.tokenizer(list(sentences)).input_ids
    texts = [Text(tuple(ids), 1) for ids in encoded if len(ids) > 1]
    return [-float(logprobs.double().mean()) for logprobs in token_logprobs(loaded, texts, progress=progress,
                                                                            title="neutral text")]


def predictions(loaded: LoadedModel, sentences: Sequence[str]) -> Predictions:
    """The likeliest next tokens at every position of every sentence."""
    found: list[torch.return_types.topk | None] = [None] * len(sentences)
    for index, _, logprobs in _read(loaded, sentences):
        found[index] = logprobs.topk(min(KEPT_TOKENS, logprobs.shape[1]), dim=1)
    return Predictions(torch.cat([top.indices.cpu() for top in found]), torch.cat([top.values.cpu() for top in found]))


def reread(loaded: LoadedModel, sentences: Sequence[str], base: Predictions) -> tuple[list[float], list[list[float]]]:
    """One reading of the sentences: the mean loss of each, and its divergence from the base at every position, both in nats.

    base: what the base predicted on the same sentences.
    """
    losses: dict[int, float] = {}
    values: list[Tensor | None] = [None] * len(sentences)
    lengths = [len(ids) for ids in loaded.tokenizer(list(sentences)).input_ids]
    expected = base.token_ids.split(lengths)
    for index, ids, logprobs in _read(loaded, sentences):
        values[index] = logprobs.gather(1, expected[index].to(logprobs.device)).cpu()
        if len(ids) > 1:
            following = torch.tensor(ids[1:], device=logprobs.device)[:, None]
            losses[index] = -float(logprobs[:-1].gather(1, following).double().mean())
    apart = iter(divergence(base, Predictions(base.token_ids, torch.cat(values))))
    return [losses[index] for index in sorted(losses)], [list(islice(apart, length)) for length in lengths]


@torch.inference_mode()
def _read(loaded: LoadedModel, sentences: Sequence[str]) -> Iterator[tuple[int, list[int], Float[Tensor, "positions vocab"]]]:
    """Index, tokens and next-token log-probabilities of each sentence, a few of about one length to a pass.

    They are padded on the right, where a causal model cannot see it.
    """
    encoded = loaded.tokenizer(list(sentences)).input_ids
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    for first in range(0, len(order), SENTENCES_PER_PASS):
        batch = order[first:first + SENTENCES_PER_PASS]
        width = len(encoded[batch[-1]])
        ids = torch.tensor([[*encoded[i], *[0] * (width - len(encoded[i]))] for i in batch], device=loaded.device)
        mask = torch.tensor([[1] * len(encoded[i]) + [0] * (width - len(encoded[i])) for i in batch], device=loaded.device)
        logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, index in zip(logits, batch, strict=True):
            yield index, encoded[index], row[:len(encoded[index])].float().log_softmax(-1)


def divergence(base: Predictions, edited: Predictions) -> list[float]:
    """KL(base ‖ edited) at every position, in nats, with everything unlisted in one bucket."""
    p, q = base.logprobs.double().exp(), edited.logprobs.double().exp()
    rest_p, rest_q = (1 - p.sum(1)).clamp_min(TINY), (1 - q.sum(1)).clamp_min(TINY)
    listed = (p * (base.logprobs.double() - edited.logprobs.double())).sum(1)
    return (listed + rest_p * (rest_p / rest_q).log()).clamp_min(0).tolist()
