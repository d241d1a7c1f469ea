"""The logit lens: what each layer would answer if it were the last.

Knowledge that an edit only covers up can still be read in the middle of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.evaluation.attacks.hidden import Choices, hidden_states
from ember_hub.evaluation.base import Attack, Battery, Cost
from ember_hub.evaluation.presentation import Posed, pose
from ember_hub.evaluation.reading import Measured
from ember_hub.methods.blocks import hidden_state

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject
    from ember_hub.evaluation.token_tree import Text
    from ember_hub.source.load import LoadedModel

LOGITS_AT_ONCE = 2**25
"""128 MiB in float32."""
TOKENS_OF_QUESTION = 100


class LogitLens(Attack):
    """Every layer's residual stream through the final norm and the head; the layer is chosen on the tune questions."""

    name: ClassVar[str] = "logit-lens"
    title: ClassVar[str] = "logit lens: the best layer answers"
    reference: ClassVar[str] = "nostalgebraist 2020; arXiv 2409.18025"
    battery: ClassVar[Battery] = "standard"

    def missing(self, pack: ConceptPack) -> str | None:
        return None if pack.asked("questions", "tune") else "no tune questions: nothing to choose the layer on"

    def cost(self, subject: Subject) -> Cost:
        # The head at every layer is about as much work again.
        return Cost(read=2 * 2 * (len(subject.known()) + len(_tune(subject))) * TOKENS_OF_QUESTION)

    def measure(self, subject: Subject) -> Measured:
        with subject.state() as loaded:
            tune, test = (_choices(loaded, subject, questions) for questions in (_tune(subject), subject.known()))
        layer = tune.best_layer
        return Measured(test.readings(layer), details=test.curve(layer))


def _tune(subject: Subject) -> tuple[Question, ...]:
    """The tune questions that the base knows; all of them where it knows none."""
    asked = subject.pack.asked("questions", "tune")
    known = subject.syllabus.known["tune"]["concept"]
    return tuple(q for q in asked if q.id in known) or asked


def _choices(loaded: LoadedModel, subject: Subject, questions: Sequence[Question]) -> Choices:
    posed = pose(questions, subject.syllabus.format, "measure", loaded.tokenizer)
    return Choices.of(posed, _scores(loaded, posed, subject))


def _scores(loaded: LoadedModel, posed: Sequence[Posed], subject: Subject) -> list[Float[Tensor, "layer option"]]:
    """Log-likelihood of every option at every layer."""
    texts = [text for p in posed for text in p.texts]
    sums = torch.empty(loaded.anatomy.n_layers, len(texts), dtype=torch.float64)
    with subject.progress.steps("logit lens", len(texts)) as advance:
        for states in hidden_states(loaded, posed, _predicting, advance):
            own = [texts[i] for i in states.texts]
            logprobs = _logprobs(loaded, states.values, [row for rows in states.rows for row in rows],
                                 [token for text in own for token in text.ids[text.start:]])
            parts = logprobs.split([len(rows) for rows in states.rows], dim=1)
            sums[:, states.texts] = torch.stack([part.sum(1) for part in parts], dim=1)
    return list(sums.split([len(p.texts) for p in posed], dim=1))


def _predicting(text: Text) -> range:
    """The positions whose next token is part of the option."""
    return range(text.start - 1, len(text.ids) - 1)


def _logprobs(loaded: LoadedModel, states: Float[Tensor, "layer rows d_model"], rows: Sequence[int], tokens: Sequence[int]
              ) -> Float[Tensor, "layer wanted"]:
    """Log-probability of each token after its row, at every layer, in nats."""
    layers, count, _ = states.shape
    flat = states.flatten(0, 1)
    wanted = torch.arange(layers)[:, None] * count + torch.tensor(rows)
    ids = torch.tensor(tokens).expand(layers, -1)
    found = torch.empty(wanted.shape, dtype=torch.float64)
    step = max(1, LOGITS_AT_ONCE // loaded.anatomy.vocab)
    for first in range(0, len(flat), step):
        inside = (wanted >= first) & (wanted < first + step)
        logprobs = _read_out(loaded, flat[first:first + step]).float().log_softmax(-1)
        found[inside] = logprobs[(wanted[inside] - first).to(logprobs.device), ids[inside].to(logprobs.device)].double().cpu()
    return found


@torch.inference_mode()
def _read_out(loaded: LoadedModel, states: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
    """What the model would predict if its last block had handed on these states.

    A pass over one token, with the last block's output exchanged: final norm, head, and whatever the model does to its logits
    are its own, so no module has to be recognized.
    """
    def exchange(_: nn.Module, __: tuple, output: Any) -> Any:
        given = states[:, None].to(hidden_state(output).device)
        return (given, *output[1:]) if isinstance(output, tuple) else given

    last = loaded.model.get_submodule(f"{loaded.anatomy.blocks}.{loaded.anatomy.n_layers - 1}")
    with last.register_forward_hook(exchange):
        return loaded.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=loaded.device), use_cache=False).logits[:, 0]
