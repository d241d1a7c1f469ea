"""Many texts in one forward pass, every shared prefix computed once.

Texts are merged into a tree of tokens: a node is one token after one particular prefix, and attends to its ancestors
only. Its position is its depth. So the options of a question share the question, and questions share their preamble;
nothing is padded. A text's log-likelihood is the sum over its path.

Some models (state spaces, convolutions, ALiBi) do not follow such a mask. `tried` finds out, and they get one row for each text:
slower, same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from ember_hub.progress import Progress, Quiet

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

TOKENS_PER_PASS = 768
"""Nodes in one forward pass: enough to keep the matrix units busy, little enough that T^2 attention stays cheap."""
ROWS_PER_SOFTMAX = 64
CLOSE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}
"""How far a log-probability may lie from that of a plain pass, in nats, by the model's number type: rounding, no more."""


@dataclass(frozen=True)
class Text:
    """One text to score: the tokens from `start` on, given those before."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        assert 0 < self.start < len(self.ids), "there must be something to score, and something before it"


@dataclass(frozen=True)
class TokenTree:
    """The nodes of a few texts in depth-first order, parents before children."""

    ids: Int[np.ndarray, " nodes"]
    parents: Int[np.ndarray, " nodes"]
    depths: Int[np.ndarray, " nodes"]
    paths: tuple[tuple[int, ...], ...]
    """For every text, its nodes from the root to the end."""

    @classmethod
    def of(cls, texts: Sequence[Text]) -> TokenTree:
        nodes: dict[tuple[int, int], int] = {}
        ids, parents, depths, paths = [], [], [], []
        for text in texts:
            node, path = -1, []
            for depth, token in enumerate(text.ids):
                child = nodes.setdefault((node, token), len(ids))
                if child == len(ids):
                    ids.append(token)
                    parents.append(node)
                    depths.append(depth)
                node = child
                path.append(node)
            paths.append(tuple(path))
        return cls(np.array(ids), np.array(parents), np.array(depths), tuple(paths))

    def attention(self) -> Bool[np.ndarray, "nodes nodes"]:
        """True where a row's node may look: at itself and its ancestors."""
        sees = np.eye(len(self.ids), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


def tried(loaded: LoadedModel) -> LoadedModel:
    """The same model, with the knowledge whether trees are read as they are meant: a few texts are scored both ways."""
    ids = [i for i in range(len(loaded.tokenizer)) if i not in set(loaded.tokenizer.all_special_ids)]
    stem, other = tuple(ids[40:52]), tuple(ids[60:66])
    texts = [Text(stem + other, 4), Text(stem + other[::-1], 4), Text(stem[:3] + other, 2)]
    rows = token_logprobs(replace(loaded, reads_trees=False), texts)
    try:
        trees = token_logprobs(replace(loaded, reads_trees=True), texts)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return replace(loaded, reads_trees=False)
    apart = max(float((a - b).abs().max()) for a, b in zip(rows, trees, strict=True))
    return replace(loaded, reads_trees=apart <= CLOSE[loaded.dtype])


@torch.inference_mode()
def token_logprobs(loaded: LoadedModel, texts: Sequence[Text], *, progress: Progress | None = None,
                   title: str = "scoring") -> list[Float[Tensor, " scored"]]:
    """Log-probability of every scored token of every text, in nats, float32 on the CPU."""
    score = _score if loaded.reads_trees else _score_rows
    results: list[Tensor | None] = [None] * len(texts)
    with (progress or Quiet()).steps(title, len(texts)) as advance:
        for batch in _batches(texts):
            for index, logprobs in zip(batch, score(loaded.model, [texts[i] for i in batch]), strict=True):
                results[index] = logprobs
            advance(len(batch))
    return [r for r in results if r is not None]


def _batches(texts: Sequence[Text]) -> Iterator[list[int]]:
    """Indices of texts in lexicographic order, which puts shared prefixes side by side, in passes of bounded size."""
    batch: list[int] = []
    nodes, previous = 0, ()
    for index in sorted(range(len(texts)), key=lambda i: texts[i].ids):
        ids = texts[index].ids
        new = len(ids) - _shared(previous, ids)
        if batch and nodes + new > TOKENS_PER_PASS:
            yield batch
            batch, nodes, new = [], 0, len(ids)
        batch.append(index)
        nodes += new
        previous = ids
    if batch:
        yield batch


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def _score(model: torch.nn.Module, texts: Sequence[Text]) -> list[Tensor]:
    tree = TokenTree.of(texts)
    # The nodes whose next token is scored: only there are logits needed.
    asked = sorted({path[i - 1] for text, path in zip(texts, tree.paths, strict=True) for i in range(text.start, len(path))})
    rows = {node: row for row, node in enumerate(asked)}
    logits = _logits(model, tree, asked)
    wanted = [(rows[path[i - 1]], tree.ids[path[i]]) for text, path in zip(texts, tree.paths, strict=True)
              for i in range(text.start, len(path))]
    picked = _pick(logits, wanted)
    return list(picked.split([len(text.ids) - text.start for text in texts]))


def _score_rows(model: torch.nn.Module, texts: Sequence[Text]) -> list[Tensor]:
    """One row for each text, padded on the right, where a causal model cannot see it."""
    width, device = max(len(text.ids) for text in texts), model.get_input_embeddings().weight.device
    ids = torch.tensor([[*text.ids, *[0] * (width - len(text.ids))] for text in texts], device=device)
    mask = torch.tensor([[1] * len(text.ids) + [0] * (width - len(text.ids)) for text in texts], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [_pick(row[text.start - 1:len(text.ids) - 1], list(enumerate(text.ids[text.start:])))
            for row, text in zip(logits, texts, strict=True)]


def _logits(model: torch.nn.Module, tree: TokenTree, asked: Sequence[int]) -> Float[Tensor, "asked vocab"]:
    weight = model.get_input_embeddings().weight
    sees = torch.from_numpy(tree.attention()).to(weight.device)
    mask = torch.zeros(sees.shape, dtype=weight.dtype, device=weight.device).masked_fill_(~sees, torch.finfo(weight.dtype).min)
    output = model(
        input_ids=torch.from_numpy(tree.ids)[None].to(weight.device),
        position_ids=torch.from_numpy(tree.depths)[None].to(weight.device),
        attention_mask=mask[None, None],
        logits_to_keep=torch.tensor(asked, device=weight.device),
        use_cache=False,
    )
    return output.logits[0]


def _pick(logits: Float[Tensor, "asked vocab"], wanted: Sequence[tuple[int, int]]) -> Float[Tensor, " wanted"]:
    """Log-softmax in float32, a few rows at a time, so that no (asked, vocab) float32 copy is made."""
    rows = torch.tensor([row for row, _ in wanted], device=logits.device)
    ids = torch.tensor([int(token) for _, token in wanted], device=logits.device)
    picked = torch.empty(len(wanted), device=logits.device)
    for first in range(0, len(logits), ROWS_PER_SOFTMAX):
        inside = (rows >= first) & (rows < first + ROWS_PER_SOFTMAX)
        logprobs = log_softmax(logits[first:first + ROWS_PER_SOFTMAX].float(), dim=-1)
        picked[inside] = logprobs[rows[inside] - first, ids[inside]]
    return picked.cpu()
