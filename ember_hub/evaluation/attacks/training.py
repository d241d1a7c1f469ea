"""How an attacker trains: full fine-tuning on a copy, or a LoRA adapter on the model itself, taken off again afterwards."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ember_hub.evaluation.subject import Subject
from ember_hub.evaluation.token_tree import Text, mean_loss

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

MAX_TOKENS = 256
BetweenEpochs = Callable[["LoadedModel", int], object]


@dataclass(frozen=True)
class Recipe:
    """The settings of a fine-tuning.

    rank: of a LoRA adapter on all linear maps, those of experts included; 0 is full fine-tuning of every parameter.
    embedding_rate: learning rate of the input embedding; with an adapter, 0 leaves the embedding out.
    has_masters: float32 masters, without which bfloat16 swallows small updates. Float16 has them always: AdamW's second
        moments would be zero in it, and each step as large as the gradient over its epsilon.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    embedding_rate: float
    weight_decay: float = 0.0
    rank: int = 0
    alpha: float = 16.0
    has_masters: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def keeps_masters(self, kind: torch.dtype) -> bool:
        """Whether parameters of this type have float32 masters while all of them are trained."""
        return self.has_masters or kind is torch.float16

    def bytes(self, parameters: int, kind: torch.dtype) -> int:
        """Memory beside the base: weights, two moments of AdamW, and float32 masters where there are any."""
        if self.rank:
            # Adapters of rank r hold well under a tenth of the parameters, in float32, with two moments and a gradient.
            return parameters * 16 // 10
        return parameters * (kind.itemsize + (4 * 3 if self.keeps_masters(kind) else kind.itemsize * 2))


@contextmanager
def trained(subject: Subject, texts: Sequence[str], recipe: Recipe, between: BetweenEpochs | None = None
            ) -> Iterator[LoadedModel]:
    """The subject's model after the fine-tuning, inside the block; the base in memory is as it was afterwards.

    `between` sees the model after every epoch but the last, and is told how many there were.
    """
    ids = [i[:MAX_TOKENS] for i in subject.loaded.tokenizer(list(texts)).input_ids if len(i) > 1]
    if recipe.rank:
        with subject.state() as loaded, _adapter(loaded, recipe, subject.seed) as trainer:
            _train(trainer, loaded, ids, recipe, subject, between)
            trainer.release(loaded.dtype)
            yield loaded
    else:
        victim = subject.victim()
        trainer = _Full(victim.model, recipe)
        _train(trainer, victim, ids, recipe, subject, between)
        trainer.release()
        yield victim


def _train(trainer: _Full | _Lora, loaded: LoadedModel, texts: list[list[int]], recipe: Recipe, subject: Subject,
           between: BetweenEpochs | None) -> None:
    shuffle = random.Random(subject.seed)
    with subject.progress.steps("relearning", recipe.epochs * -(-len(texts) // recipe.batch_size)) as advance:
        for epoch in range(1, recipe.epochs + 1):
            shuffle.shuffle(texts)
            for first in range(0, len(texts), recipe.batch_size):
                _loss(loaded, texts[first:first + recipe.batch_size]).backward()
                trainer.step()
                advance(1)
            if between is not None and epoch < recipe.epochs:
                between(loaded, epoch)


def _loss(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Next-token loss of a batch."""
    # An adapter is kept in float32; its products need not be.
    with torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=loaded.dtype == torch.bfloat16):
        return mean_loss(loaded, [Text(tuple(ids), 1) for ids in texts])


class _Full:
    """AdamW over every parameter, in float32 masters where the recipe says so.

    Each parameter is stepped as soon as its gradient is there, which is then dropped: gradients of the whole model are
    never held together.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._model = model
        embedding = model.get_input_embeddings().weight
        self._hooks = []
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            rate = recipe.embedding_rate if parameter is embedding else recipe.learning_rate
            master = parameter.detach().float().clone() if recipe.keeps_masters(parameter.dtype) else parameter
            optimizer = torch.optim.AdamW([master], lr=rate, weight_decay=recipe.weight_decay, fused=True)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(_stepper(master, optimizer)))

    def step(self) -> None:
        """Nothing is left to do: the hooks have stepped."""

    def release(self) -> None:
        """Drop optimizer states and masters, and freeze the model again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._model.requires_grad_(False)


class _Lora:
    """AdamW over the adapter alone."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        rows = [p for name, p in named if "lora_embedding" in name]
        rest = [p for name, p in named if "lora_embedding" not in name]
        self._optimizer = torch.optim.AdamW([{"params": rest, "lr": recipe.learning_rate},
                                             {"params": rows, "lr": recipe.embedding_rate}],
                                            weight_decay=recipe.weight_decay, fused=True)

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def release(self, dtype: torch.dtype) -> None:
        """Round the adapter to the model's number type, as it would be merged: what asks it then computes in one type."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data = parameter.data.to(dtype)


@contextmanager
def _adapter(loaded: LoadedModel, recipe: Recipe, seed: int) -> Iterator[_Lora]:
    """A fresh adapter inside the model, and the model as it was afterwards, whatever happens on the way in."""
    from peft import LoraConfig, get_peft_model

    targets, experts = _linear_maps(loaded.model)
    if recipe.embedding_rate > 0:
        targets.append(loaded.anatomy.embedding.removesuffix(".weight"))
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets, target_parameters=experts,
                        task_type="CAUSAL_LM")
    own = [(parent, name, module) for parent in loaded.model.modules() for name, module in parent.named_children()]
    attributes = dict(vars(loaded.model))
    try:
        with torch.random.fork_rng(devices=[loaded.device] if loaded.device.type == "cuda" else []), warnings.catch_warnings():
            # peft warns of what it does inside: tied embeddings that are not, names that transformers will drop.
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            model = get_peft_model(loaded.model, config)
        yield _Lora(model, recipe)
    finally:
        # By hand, not by peft: an insertion that was interrupted has no adapter yet that could be taken off.
        for parent, name, module in own:
            parent.add_module(name, module)
        for name in vars(loaded.model).keys() - attributes.keys():
            delattr(loaded.model, name)
        vars(loaded.model).update(attributes)
        loaded.model.requires_grad_(False)


def _linear_maps(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the linear modules, the head left out, and of parameters that hold the maps of all experts of a block."""
    from transformers.pytorch_utils import Conv1D

    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
               and module is not model.get_output_embeddings()]
    experts = [f"{name}.{own}" for name, module in model.named_modules() if not isinstance(module, nn.Conv1d)
               for own, parameter in module.named_parameters(recurse=False) if parameter.ndim == 3]
    return modules, experts


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
