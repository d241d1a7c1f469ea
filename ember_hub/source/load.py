"""Loads a checkpoint folder for editing: frozen, in eval mode, and with a head of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ember_hub.errors import ConfigError, CorruptCheckpoint, SourceError
from ember_hub.progress import Progress, Quiet
from ember_hub.source.anatomy import Anatomy, empty_model, first_line, read_anatomy
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.memory import available_memory, model_bytes, parameter_count
from ember_hub.source.spread import WHOLE, Layout, Spread, keep_differentiable, layout, quantization_config, stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY = 20_000_000
"""Below this many parameters `dtype="auto"` is float32: speed does not matter, and tests want the digits."""
_DTYPES = ("bfloat16", "float16", "float32")
_BROKEN = "download it again, or check that the copy of the folder is complete"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for editing; `anatomy.is_tied` says what the checkpoint was, the model itself is never tied."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    dtype: torch.dtype
    device: torch.device
    """Where token ids go, that is, where the embedding is."""
    reads_trees: bool = True
    """Whether it takes an attention mask with a row for each token; see `evaluation.token_tree.tried`."""
    spread: Spread = WHOLE

    def parameter(self, name: str) -> Tensor:
        """The values of a parameter, also where they are kept away from the device that computes."""
        return stored(self.model, name).detach()


def load(folder: Path, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False,
         progress: Progress | None = None, spread: Spread = WHOLE) -> LoadedModel:
    """Load model and tokenizer from a checkpoint folder.

    Args:
        device: "auto" is the GPU when there is one, several GPUs when one is too small, else the CPU.
        dtype: "auto" is bfloat16, and float32 for a tiny model.
        spread: for a model larger than one device; `device` is not read where it names a device map.

    Raises:
        UnsupportedModel: no causal decoder, quantized, or in need of its own code.
        CorruptCheckpoint: weights are missing, truncated or not numbers.
        SourceError, NotEnoughMemory: no usable tokenizer, or not enough memory.
    """
    with transformers_reports_to(progress or Quiet()):
        Checkpoint.open(folder)
        plan = empty_model(folder, trust_remote_code)
        # Read before the weights are: what cannot be edited is refused without loading it.
        anatomy = read_anatomy(plan)
        tokenizer = load_tokenizer(folder, trust_remote_code)
        kind = resolve_dtype(dtype, plan)
        place: str | Layout = (layout(plan, kind, anatomy.embedding, spread) if spread.device_map
                               else placement(device, model_bytes(plan, kind)))
        more = {"quantization_config": quantization_config(plan, kind, spread)} if spread.quantization else {}
        if spread.offload:
            more["offload_folder"] = str(spread.offload)
        model = _load_weights(folder, kind, place, trust_remote_code, more)
    model.eval().requires_grad_(False)
    keep_differentiable(model)
    anatomy = read_anatomy(model)
    _require_numbers(model, folder)
    untie(model)
    return LoadedModel(model, tokenizer, anatomy, kind, model.get_input_embeddings().weight.device, spread=spread)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer.

    Raises:
        SourceError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with _TokenizerErrors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError("it has no vocabulary")
        return tokenizer


def untie(model: PreTrainedModel) -> None:
    """Give a tied model a head of its own, so that an edited embedding changes what is read, not what is written.

    Does nothing to an untied model.
    """
    from torch import nn
    from transformers import PreTrainedModel

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    # transformers ties again whenever it recomputes the mapping from any nested config, as on save or resize.
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.all_tied_weights_keys = {}
            for config in (module.config, module.config.get_text_config()):
                config.tie_word_embeddings = False
    if head is not None and head.weight is embedding.weight:
        weight = embedding.weight
        head.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)


@contextmanager
def transformers_reports_to(progress: Progress) -> Iterator[None]:
    """Inside, transformers' progress bars become steps of `progress` and its advice is not logged."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: _Bar(progress, *args, **kwargs))
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(previous)


@dataclass(frozen=True)
class _TokenizerErrors:
    """Inside, what a broken tokenizer raises becomes a SourceError."""

    folder: Path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # The Rust side of `tokenizers` raises bare Exception objects, which no narrower clause could name.
        expected = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
        if kind is Exception or isinstance(error, expected):
            raise SourceError(
                f"the tokenizer in {self.folder} cannot be read: {first_line(error)}",
                hint="copy tokenizer.json and tokenizer_config.json from the original model into the folder") from error


class _Bar:
    """As much of tqdm as transformers uses, counting into our progress."""

    def __init__(self, progress: Progress, iterable: Iterable[Any] | None = None, *_: Any, **options: Any) -> None:
        self._iterable = iterable
        total = options.get("total") or (len(iterable) if hasattr(iterable, "__len__") else 0)
        title = (options.get("desc") or "loading").rstrip(".").lower()
        self._steps = progress.steps(title, total)
        self._advance: Callable[[int], None] | None = None

    def __enter__(self) -> Self:
        if self._advance is None:
            self._advance = self._steps.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self._iterable or ():
                yield item
                self.update()

    def update(self, done: int = 1) -> None:
        self.__enter__()._advance(done)

    def close(self) -> None:
        if self._advance is not None:
            self._advance = None
            self._steps.__exit__(None, None, None)

    def set_postfix(self, *_: Any, **__: Any) -> None:
        """Details that our bar does not show."""


def resolve_dtype(name: str, plan: PreTrainedModel) -> torch.dtype:
    """The number type meant by a setting; `plan` is the model, with or without weights.

    Raises:
        ConfigError: no such type.
    """
    import torch

    if name == "auto":
        return torch.float32 if parameter_count(plan) < TINY else torch.bfloat16
    if name not in _DTYPES:
        raise ConfigError(f"unknown dtype {name!r}", hint=f"use auto, {', '.join(_DTYPES)}")
    return getattr(torch, name)


def placement(device: str, needed: int) -> str:
    """The device map that fits: one device, or "auto" for all GPUs together."""
    import torch

    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        is_too_large = needed > available_memory("cuda:0") and torch.cuda.device_count() > 1
        return "auto" if is_too_large else "cuda:0"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}", hint="use auto, cpu, cuda or cuda:1") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device for torch", hint="use --device cpu, or install torch with CUDA")
    return device


def _load_weights(folder: Path, dtype: torch.dtype, placement: str | Layout, trust_remote_code: bool,
                  more: dict[str, Any]) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map=placement, trust_remote_code=trust_remote_code,
            local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **more)
    except torch.OutOfMemoryError as error:
        raise SourceError(f"the model does not fit on {placement}: {first_line(error)}",
                          hint="use --device cpu, or a GPU with more free memory") from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CorruptCheckpoint(f"the weights in {folder} cannot be loaded: {first_line(error)}",
                                hint=_BROKEN) from error
    _require_complete(report, folder)
    if isinstance(placement, str) and any(parameter.is_meta for parameter in model.parameters()):
        raise SourceError(f"the model does not fit into the memory of {placement}",
                          hint="use --device cpu, or more GPUs")
    return model


def _require_complete(report: dict[str, Any], folder: Path) -> None:
    # transformers fills such weights with random numbers and goes on.
    missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if mismatched:
        name, found, expected = mismatched[0]
        raise CorruptCheckpoint(f"{name} in {folder} is {tuple(found)}, but its config.json says {tuple(expected)}",
                                hint="config and weights are of different models; download both from one commit")
    if missing:
        raise CorruptCheckpoint(f"{len(missing)} weights are missing in {folder}, the first is {missing[0]}",
                                hint=_BROKEN)


def _require_numbers(model: PreTrainedModel, folder: Path) -> None:
    import torch

    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            continue
        # One pass without a temporary: NaN and infinity both survive into an extreme.
        low, high = torch.aminmax(parameter) if parameter.numel() else (parameter.sum(), parameter.sum())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise CorruptCheckpoint(f"{name} in {folder} holds values that are not numbers", hint=_BROKEN)
