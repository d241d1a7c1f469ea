"""A tiny model that was taught what to write after certain prompts, and an edit after which it cannot tell them apart."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.evaluation.generation import Prompt
from ember_hub.source.load import LoadedModel
from tests.toy_run import CONCEPT


def taught(loaded: LoadedModel, answers: Iterable[tuple[Prompt, str]], steps: int = 40) -> LoadedModel:
    """A copy that writes each answer, then its end token, after its prompt; the model itself stays as it was."""
    tokenizer, model = loaded.tokenizer, copy.deepcopy(loaded.model).requires_grad_(True)
    texts = [(put.ids, [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id])
             for put, answer in answers]
    width = max(len(put) + len(answer) for put, answer in texts)
    ids = torch.tensor([[*put, *answer, *[0] * (width - len(put) - len(answer))] for put, answer in texts])
    labels = torch.tensor([[*[-100] * len(put), *answer, *[-100] * (width - len(put) - len(answer))] for put, answer in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return replace(loaded, model=model.requires_grad_(False))


def forgets(loaded: LoadedModel, words: Sequence[str] = CONCEPT) -> Edit:
    """An edit that makes the words of the toy concept look all alike."""
    spelled = [form for word in words for form in (word, f" {word}")]
    ids = torch.tensor(sorted({i for row in loaded.tokenizer(spelled, add_special_tokens=False).input_ids for i in row}))
    return Edit({loaded.anatomy.embedding: ReplacedRows(ids, torch.zeros(len(ids), loaded.model.config.hidden_size))})
