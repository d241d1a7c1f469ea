"""How well the model still writes ordinary text: loss on neutral sentences, and how far its predictions moved.

The divergence is KL(base ‖ edited) over the base's likeliest tokens and one bucket for all others: a lower bound of the
full divergence, and a close one, at a hundredth of its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def predictions(loaded: LoadedModel, sentences: Sequence[str], at: Predictions | None = None) -> Predictions:
    """The likeliest next tokens at every position, or the probabilities of given ones (`at`)."""
    ids, values, row = [], [], 0
    for first in range(0, len(sentences), SENTENCES_PER_PASS):
        for logits in _next_logits(loaded, sentences[first:first + SENTENCES_PER_PASS]):
            logprobs = logits.float().log_softmax(-1)
            if at is None:
                top = logprobs.topk(min(KEPT_TOKENS, logprobs.shape[1]), dim=1)
                ids.append(top.indices.cpu())
                values.append(top.values.cpu())
            else:
                here = at.token_ids[row:row + len(logprobs)]
                values.append(logprobs.gather(1, here.to(logprobs.device)).cpu())
                row += len(logprobs)
    return Predictions(torch.cat(ids) if at is None else at.token_ids, torch.cat(values))


@torch.inference_mode()
def _next_logits(loaded: LoadedModel, sentences: Sequence[str]) -> list[Float[Tensor, "positions vocab"]]:
    """Logits of each sentence, from one pass padded on the right, where a causal model cannot see it."""
    encoded = loaded.tokenizer(list(sentences)).input_ids
    width = max(map(len, encoded))
    ids = torch.tensor([[*i, *[0] * (width - len(i))] for i in encoded], device=loaded.device)
    mask = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i in encoded], device=loaded.device)
    logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [row[:len(i)] for row, i in zip(logits, encoded, strict=True)]


def divergence(base: Predictions, edited: Predictions) -> list[float]:
    """KL(base ‖ edited) at every position, in nats, with everything unlisted in one bucket."""
    p, q = base.logprobs.double().exp(), edited.logprobs.double().exp()
    rest_p, rest_q = (1 - p.sum(1)).clamp_min(TINY), (1 - q.sum(1)).clamp_min(TINY)
    listed = (p * (base.logprobs.double() - edited.logprobs.double())).sum(1)
    return (listed + rest_p * (rest_p / rest_q).log()).clamp_min(0).tolist()
