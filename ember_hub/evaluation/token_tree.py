"""Many texts in one forward pass, every shared prefix computed once.

Texts are merged into a tree of tokens: a node is one token after one particular prefix, and attends to its ancestors
only. Its position is its depth. So the options of a question share the question, and questions share their preamble.
A text's log-likelihood is the sum over its path.

In depth-first order a run of nodes sees little beside itself, so attention is computed in blocks: its cost grows with the
nodes, not with their square.

Some models (state spaces, convolutions, ALiBi) do not follow such a mask. `tried` finds out, and they get one row for each text:
slower, same numbers. So do texts that are longer than what a layer looks back: the tree's mask would show it all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from ember_hub.errors import EvaluationError
from ember_hub.progress import Progress, Quiet

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

TOKENS_PER_PASS = 768
"""Enough to keep the matrix units busy."""
READ_AGAIN = 0.25
"""How much of a pass may be reading again what the pass before it read: texts with a long beginning in common get longer passes."""
MOST_BESIDE = 3072
"""Tokens beside that beginning at most: so the memory of a pass is bounded, by them and by the longest text."""
NODES_PER_BLOCK = 48
ROWS_PER_SOFTMAX = 64
_WINDOWS = ("sliding_window", "attention_chunk_size")
"""Where a configuration says how far its local layers look back."""
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""How far a log-probability may lie from that of a plain pass, as a share of the mean one: rounding of the model's number type.

In bfloat16 SmolLM2 and Gemma 3 stay within 0.06; under a wrong mask or with wrong positions they are apart by 0.4 and more.
"""


@dataclass(frozen=True)
class Text:
    """One text to score: the tokens from `start` on, given those before."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        assert 0 < self.start < len(self.ids), "there must be something to score, and something before it"

    @property
    def read(self) -> tuple[int, ...]:
        """What the model has to read: nobody asks what follows the last token."""
        return self.ids[:-1]


@dataclass(frozen=True)
class TokenTree:
    """The nodes of a few texts, parents before children; depth-first if the texts come in lexicographic order."""

    ids: Int[np.ndarray, " nodes"]
    parents: Int[np.ndarray, " nodes"]
    depths: Int[np.ndarray, " nodes"]
    paths: tuple[tuple[int, ...], ...]
    """For every text, the nodes of what is read, from the root on."""

    @classmethod
    def of(cls, texts: Sequence[Text]) -> TokenTree:
        nodes: dict[tuple[int, int], int] = {}
        ids, parents, depths, paths = [], [], [], []
        for text in texts:
            node, path = -1, []
            for depth, token in enumerate(text.read):
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

    def padded(self, multiple: int) -> TokenTree:
        """The same tree with lone roots at the end, which no text's node sees, up to a multiple of nodes."""
        lone = (0, -len(self.ids) % multiple)
        return replace(self, ids=np.pad(self.ids, lone), parents=np.pad(self.parents, lone, constant_values=-1),
                       depths=np.pad(self.depths, lone))


@dataclass(frozen=True)
class Blocks:
    """Attention of a tree in runs of nodes of one size: each run looks at what any of its nodes may see, at nothing else.

    In depth-first order that is the run itself and the ancestors of its first node.
    """

    keys: Int[Tensor, "blocks keys"]
    mask: Float[Tensor, "blocks 1 block keys"]

    @classmethod
    def of(cls, sees: Bool[np.ndarray, "nodes nodes"], count: int, like: Tensor) -> Blocks:
        runs = sees.reshape(count, -1, len(sees))
        seen = runs.any(axis=1)
        # Blocks that see less are filled up with nodes that they do not see: the mask hides those.
        keys = np.argsort(~seen, axis=1, kind="stable")[:, :seen.sum(axis=1).max()]
        return cls(torch.from_numpy(keys).to(like.device), _mask(np.take_along_axis(runs, keys[:, None], axis=2), like)[:, None])

    @contextmanager
    def replacing_sdpa(self) -> Iterator[None]:
        """Inside, models that use transformers' SDPA attend in blocks; all others keep to the mask that they are given."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

        whole = functions["sdpa"]
        functions["sdpa"] = partial(self._attend, whole)
        try:
            yield
        finally:
            # Every model of the process looks its attention up here.
            functions["sdpa"] = whole

    def _attend(self, sdpa: Callable[..., tuple[Tensor, None]], module: torch.nn.Module, query: Float[Tensor, "1 heads nodes _"],
                key: Float[Tensor, "1 groups nodes _"], value: Float[Tensor, "1 groups nodes _"], attention_mask: Tensor,
                **options: object) -> tuple[Float[Tensor, "1 nodes heads _"], None]:
        keys = self.keys.to(query.device)
        runs = query[0].unflatten(1, (len(keys), -1)).transpose(0, 1)
        attended, _ = sdpa(module, runs, key[0][:, keys].transpose(0, 1), value[0][:, keys].transpose(0, 1),
                           self.mask.to(query.device), **options)
        return attended.flatten(0, 1)[None], None


def _mask(sees: Bool[np.ndarray, "*axes"], like: Tensor) -> Float[Tensor, "*axes"]:
    """What is added to attention scores: nothing where a node is seen, the lowest number elsewhere."""
    mask = torch.zeros(sees.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(torch.from_numpy(~sees).to(like.device), torch.finfo(like.dtype).min)


def tried(loaded: LoadedModel) -> LoadedModel:
    """The same model, with the knowledge whether trees are read as they are meant: a few texts are scored both ways.

    Raises:
        EvaluationError: the model computes NaN, as some do in float16.
    """
    ids = [i for i in range(len(loaded.tokenizer)) if i not in set(loaded.tokenizer.all_special_ids)]
    stem, other = tuple(ids[40:60]), tuple(ids[60:66])
    # Enough for more than one block.
    texts = [Text(stem + other[i:] + other[:i], len(stem)) for i in range(len(other))] + [Text(stem[:3] + other, 2)]
    rows = torch.cat(token_logprobs(replace(loaded, reads_trees=False), texts))
    if rows.isnan().any():
        raise EvaluationError(f"the model computes NaN in {str(loaded.dtype).removeprefix('torch.')}",
                              hint="load it in another number type (--dtype bfloat16), or download the checkpoint again")
    try:
        trees = torch.cat(token_logprobs(replace(loaded, reads_trees=True), texts))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return replace(loaded, reads_trees=False)
    apart = (trees - rows).abs().max() / rows.abs().mean()
    return replace(loaded, reads_trees=bool(apart <= CLOSE[loaded.dtype]))


@torch.inference_mode()
def token_logprobs(loaded: LoadedModel, texts: Sequence[Text], *, progress: Progress | None = None,
                   title: str = "scoring") -> list[Float[Tensor, " scored"]]:
    """Log-probability of every scored token of every text, in nats, float32 on the CPU."""
    results: list[Tensor | None] = [None] * len(texts)
    loaded = fitting(loaded, texts) if texts else loaded
    with (progress or Quiet()).steps(title, len(texts)) as advance:
        for batch in _batches(texts, loaded.reads_trees):
            for index, logprobs in zip(batch, _one_pass(loaded, [texts[i] for i in batch]), strict=True):
                results[index] = logprobs
            advance(len(batch))
    return [r for r in results if r is not None]


def mean_loss(loaded: LoadedModel, texts: Sequence[Text]) -> Float[Tensor, ""]:
    """Mean over the scored tokens of a batch of minus their log-probability, in nats, to be differentiated.

    Nothing is padded: a batch of unequal texts costs what their tokens cost.
    """
    ordered = sorted(texts, key=lambda text: text.ids)
    return -torch.cat(_one_pass(fitting(loaded, texts), ordered)).mean()


def fitting(loaded: LoadedModel, texts: Sequence[Text]) -> LoadedModel:
    """The model as these texts have to be read: in rows where one of them is longer than a layer's window."""
    config = loaded.model.config.get_text_config()
    windows = [size for name in _WINDOWS if (size := getattr(config, name, None))]
    return loaded if max(len(text.read) for text in texts) <= min(windows, default=inf) else replace(loaded, reads_trees=False)


def _one_pass(loaded: LoadedModel, texts: Sequence[Text]) -> list[Float[Tensor, " scored"]]:
    return (_score if loaded.reads_trees else _score_rows)(loaded.model, texts)


def _batches(texts: Sequence[Text], as_trees: bool) -> Iterator[list[int]]:
    """Indices of texts in passes of bounded size.

    Trees take texts in lexicographic order, which puts shared prefixes side by side; rows take them by length, so that
    little is padded.
    """
    batch: list[int] = []
    tokens, previous = 0, ()
    for index in sorted(range(len(texts)), key=lambda i: texts[i].ids if as_trees else (len(texts[i].ids),)):
        read = texts[index].read
        shared = _shared(previous, read) if as_trees else 0
        tokens = tokens + len(read) - shared if as_trees else (len(batch) + 1) * len(read)
        if batch and tokens > _room(shared):
            yield batch
            batch, tokens = [], len(read)
        batch.append(index)
        previous = read
    if batch:
        yield batch


def _room(shared: int) -> float:
    """Tokens that a pass may have when its texts begin with so many in common."""
    return max(TOKENS_PER_PASS, shared + min(shared * (1 / READ_AGAIN - 1), MOST_BESIDE))


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
    wanted = [(path[i - 1], text.ids[i]) for text, path in zip(texts, tree.paths, strict=True)
              for i in range(text.start, len(text.ids))]
    # The nodes whose next token is scored: only there are logits needed.
    asked = sorted({node for node, _ in wanted})
    rows = {node: row for row, node in enumerate(asked)}
    picked = _pick(_logits(model, tree, asked), [(rows[node], token) for node, token in wanted])
    return list(picked.split([len(text.ids) - text.start for text in texts]))


def _score_rows(model: torch.nn.Module, texts: Sequence[Text]) -> list[Tensor]:
    """One row for each text, padded on the right, where a causal model cannot see it."""
    width, device = max(len(text.read) for text in texts), model.get_input_embeddings().weight.device
    ids = torch.tensor([[*text.read, *[0] * (width - len(text.read))] for text in texts], device=device)
    mask = torch.tensor([[1] * len(text.read) + [0] * (width - len(text.read)) for text in texts], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [_pick(row[text.start - 1:len(text.read)], list(enumerate(text.ids[text.start:])))
            for row, text in zip(logits, texts, strict=True)]


def _logits(model: torch.nn.Module, tree: TokenTree, asked: Sequence[int]) -> Float[Tensor, "asked vocab"]:
    weight = model.get_input_embeddings().weight
    # Half the longest path at least: the keys of all blocks together stay a small multiple of the nodes.
    count = ceil(len(tree.ids) / max(NODES_PER_BLOCK, tree.depths.max() / 2))
    tree = tree.padded(count)
    sees = tree.attention()
    with Blocks.of(sees, count, weight).replacing_sdpa():
        output = model(
            input_ids=torch.from_numpy(tree.ids)[None].to(weight.device),
            position_ids=torch.from_numpy(tree.depths)[None].to(weight.device),
            attention_mask=_mask(sees, weight)[None, None],
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
