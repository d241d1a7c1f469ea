"""Relearning: fine-tune the edited model on paragraphs about the concept, and see what comes back.

Two levels. `paper` is the published protocol: every parameter, batch 1, 2 epochs, learning rate 1e-5, weights trained
in the model's own dtype. Adam moves a coordinate by at most about steps × learning rate, and bfloat16 swallows small
updates, so that attack cannot move a row far. `strong` keeps float32 masters, uses a higher rate, and a still higher
one for the embedding rows. Source: EMBER (arXiv 2606.03695), relearning; the strong level is ours.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ember_hub.edits.apply import write
from ember_hub.edits.edit import Edit
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

Level = Literal["paper", "strong"]
MAX_TOKENS = 256


@dataclass(frozen=True)
class Protocol:
    """How an attacker trains."""

    epochs: int
    batch_size: int
    learning_rate: float
    embedding_rate: float
    weight_decay: float
    has_masters: bool


PROTOCOLS: dict[Level, Protocol] = {
    "paper": Protocol(epochs=2, batch_size=1, learning_rate=1e-5, embedding_rate=1e-5, weight_decay=0.01,
                      has_masters=False),
    "strong": Protocol(epochs=3, batch_size=4, learning_rate=5e-5, embedding_rate=5e-4, weight_decay=0.0,
                       has_masters=True),
}


def attack_bytes(parameters: int, itemsize: int, protocol: Protocol) -> int:
    """Bytes that the copy under attack takes: weights, two moments of AdamW, and float32 masters where there are any."""
    state = 4 * 3 if protocol.has_masters else itemsize * 2
    return parameters * (itemsize + state)


def relearn(loaded: LoadedModel, edit: Edit, paragraphs: Sequence[str], protocol: Protocol, *, seed: int,
            after_epoch: Callable[[LoadedModel, int], None], progress: Progress) -> LoadedModel:
    """The edited model after the attack, on a copy that the caller throws away; `loaded` is as it was.

    `after_epoch` sees the copy before training (epoch 0) and after every epoch.
    """
    from dataclasses import replace

    victim = replace(loaded, model=copy.deepcopy(loaded.model))
    write(victim.model, edit)
    texts = _encode(victim, paragraphs)
    shuffle = random.Random(seed)
    trainer = _Trainer(victim.model, protocol)
    steps = protocol.epochs * -(-len(texts) // protocol.batch_size)
    after_epoch(victim, 0)
    with progress.steps("relearning", steps) as advance:
        for epoch in range(1, protocol.epochs + 1):
            shuffle.shuffle(texts)
            for batch in _batches(texts, protocol.batch_size):
                trainer.step(batch, victim.device)
                advance(1)
            after_epoch(victim, epoch)
    trainer.release()
    return victim


class _Trainer:
    """AdamW over every parameter, in float32 masters where the protocol says so.

    Each parameter is stepped as soon as its gradient is there, which is then dropped: gradients of the whole model are
    never held together.
    """

    def __init__(self, model: nn.Module, protocol: Protocol) -> None:
        self._model = model
        embedding = model.get_input_embeddings().weight
        self._hooks = []
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            rate = protocol.embedding_rate if parameter is embedding else protocol.learning_rate
            master = parameter.detach().float().clone() if protocol.has_masters else parameter
            optimizer = torch.optim.AdamW([master], lr=rate, weight_decay=protocol.weight_decay, fused=True)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(_stepper(master, optimizer)))

    def step(self, texts: Sequence[Sequence[int]], device: torch.device) -> None:
        width = max(map(len, texts))
        ids = torch.tensor([[*t, *[0] * (width - len(t))] for t in texts], device=device)
        counts = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts], device=device)
        logits = self._model(input_ids=ids, attention_mask=counts, use_cache=False).logits
        labels = ids.masked_fill(counts == 0, -100)
        cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100).backward()

    def release(self) -> None:
        """Drop optimizer states and masters, and freeze the model again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._model.requires_grad_(False)


def _stepper(master: Tensor, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], None]:
    @torch.no_grad()
    def step(parameter: Tensor) -> None:
        if master is not parameter:
            master.grad = parameter.grad.float()
        optimizer.step()
        if master is not parameter:
            parameter.copy_(master)
            master.grad = None
        parameter.grad = None
    return step


def _encode(loaded: LoadedModel, paragraphs: Sequence[str]) -> list[list[int]]:
    encoded = loaded.tokenizer(list(paragraphs)).input_ids
    return [ids[:MAX_TOKENS] for ids in encoded if len(ids) > 1]


def _batches(texts: Sequence[list[int]], size: int) -> Iterator[Sequence[list[int]]]:
    return (texts[i:i + size] for i in range(0, len(texts), size))
