"""A few neighbouring blocks of a decoder as a small model: what goes in, what comes out, with the rest never run again.

Blocks below the first trained one never change, so their output is computed once; the block's own arguments
(positions, masks) are kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel


MAX_TOKENS = 256


@dataclass(frozen=True)
class Passage:
    """One batch of texts, on its way through the blocks `first` to `last`."""

    entering: Float[Tensor, "batch seq d_model"]
    arguments: tuple[tuple[tuple, dict[str, Any]], ...]
    """For each block, the positional and named arguments besides the hidden state."""
    leaving: Float[Tensor, "batch seq d_model"]
    """What the unchanged blocks make of it."""
    counts: Bool[Tensor, "batch seq"]
    """False for padding, and for positions that shall not count."""


class _Reached(Exception):
    """Stops a forward pass once the last wanted block has answered."""


@torch.no_grad()
def passage(loaded: LoadedModel, texts: Sequence[str], first: int, last: int, after: Sequence[str] = ()) -> Passage:
    """Run a batch of texts up to block `last` (0-based, inclusive) and keep what enters block `first`.

    Args:
        after: beginnings of the texts whose positions shall not count, one for each text, or none. A text that has one is cut
            at its beginning where it is too long, any other at its end.
    """
    encoded, skipped = _encoded(loaded, texts), [0] * len(texts)
    if after:
        skipped = [len(begun) - max(0, len(ids) - MAX_TOKENS) for begun, ids in zip(_encoded(loaded, after), encoded, strict=True)]
        encoded = [ids[-MAX_TOKENS:] for ids in encoded]
    else:
        encoded = [ids[:MAX_TOKENS] for ids in encoded]
    width = max(len(ids) for ids in encoded)
    # Padding stands on the right, where a causal model cannot see it, whatever the tokenizer prefers.
    padded = torch.tensor([ids + [ids[-1]] * (width - len(ids)) for ids in encoded], device=loaded.device)
    real = torch.tensor([[i < len(ids) for i in range(width)] for ids in encoded], device=loaded.device)
    counts = torch.tensor([[skip <= i < len(ids) for i in range(width)] for ids, skip in zip(encoded, skipped, strict=True)],
                          device=loaded.device)
    blocks = loaded.model.get_submodule(loaded.anatomy.blocks)
    seen: dict[int, tuple[Tensor, tuple, dict[str, Any]]] = {}
    outputs: dict[int, Tensor] = {}

    def note(index: int):
        def hook(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            seen[index] = (hidden, args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"})
        return hook

    def stop(_: nn.Module, __: tuple, output: Any) -> None:
        outputs[last] = hidden_state(output)
        raise _Reached

    hooks = [blocks[i].register_forward_pre_hook(note(i), with_kwargs=True) for i in range(first, last + 1)]
    hooks.append(blocks[last].register_forward_hook(stop))
    try:
        loaded.model(input_ids=padded, attention_mask=real.long(), use_cache=False)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return Passage(seen[first][0], tuple(seen[i][1:] for i in range(first, last + 1)), outputs[last], counts)


def _encoded(loaded: LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids; special tokens are added to plain text alone, for a chat template has written its own."""
    tokenizer = loaded.tokenizer
    return [tokenizer(text, add_special_tokens=not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))).input_ids
            for text in texts]


def through(blocks: Sequence[nn.Module], batch: Passage, parameters: Sequence[Mapping[str, Tensor]]
            ) -> Float[Tensor, "batch seq d_model"]:
    """The batch through the blocks with some parameters exchanged, by name within each block; differentiable."""
    hidden = batch.entering
    for block, own, (args, kwargs) in zip(blocks, parameters, batch.arguments, strict=True):
        hidden = hidden_state(functional_call(block, dict(own), (hidden, *args), kwargs))
    return hidden


def hidden_state(output: Any) -> Tensor:
    """A block's output is the hidden state, or a tuple that begins with it."""
    return output[0] if isinstance(output, tuple) else output
