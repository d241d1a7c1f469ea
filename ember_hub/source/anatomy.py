"""Facts about a decoder, read from its modules: where the embedding, the head, the blocks and the MLPs' outputs are.

Nothing here looks at a model's name. A part is found by its role: the blocks are the largest list of modules beside
the embedding, an MLP writes through the matrix that maps its widest activations to the width of the residual stream.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.errors import CorruptCheckpoint, UnsupportedModel

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

_MIXES_TOKENS = re.compile(r"attn|attention|mixer|mamba|ssm|conv|recurrent", re.IGNORECASE)
_NO_CHECKPOINT = "download the model again, or check that the folder is a transformers checkpoint"
_DECODERS_ONLY = "ember-hub edits causal decoders such as Llama, Qwen, Gemma, Mistral or GPT-2"


@dataclass(frozen=True)
class Anatomy:
    """Where things are in one decoder; names are parameter names, `blocks` is a module path."""

    embedding: str
    head: str | None
    is_tied: bool
    """Whether the checkpoint's head is its embedding; stays true after `load` gave the model a head of its own."""
    d_model: int
    vocab: int
    """Rows of the embedding, which may be more than the tokenizer has tokens."""
    embed_scale: float
    """What the model multiplies its embedding by."""
    blocks: str
    n_layers: int
    mlp_writers: tuple[str, ...]
    """For each block the parameter through which its MLP writes into the residual stream (a matrix, or for fused
    experts a 3-D tensor); empty when some block has no such single parameter."""
    other_tables: tuple[str, ...]
    """Further embeddings with a row per token (Gemma 3n has one): knowledge that an edit of `embedding` leaves."""

    def required_mlp_writers(self) -> tuple[str, ...]:
        """`mlp_writers`, for a method that cannot do without them."""
        if not self.mlp_writers:
            raise UnsupportedModel(f"not every block in {self.blocks} has one MLP output parameter",
                                   hint="use a method that edits the embedding only, such as --method none")
        return self.mlp_writers


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """The anatomy of a loaded model, or of one on the meta device.

    Raises:
        UnsupportedModel: encoder-decoder, bidirectional, or without a token embedding or a list of blocks.
    """
    _require_causal(model)
    embedding = model.get_input_embeddings()
    if getattr(getattr(embedding, "weight", None), "ndim", 0) != 2:
        raise UnsupportedModel(f"{type(model).__name__} has no embedding matrix", hint=_DECODERS_ONLY)
    head = model.get_output_embeddings()
    name = _name_of(model, embedding)
    blocks, layers = _blocks(model, name)
    vocab, d_model = embedding.weight.shape
    return Anatomy(
        embedding=f"{name}.weight", head=None if head is None else f"{_name_of(model, head)}.weight",
        is_tied=head is not None and head.weight is embedding.weight, d_model=d_model, vocab=vocab,
        embed_scale=_embed_scale(model, embedding), blocks=blocks, n_layers=len(layers),
        mlp_writers=_mlp_writers(blocks, layers, _residual_width(model, d_model)),
        other_tables=_other_tables(model, embedding),
    )


def anatomy_of_config(folder: Path, trust_remote_code: bool = False, *, may_be_quantized: bool = False) -> Anatomy:
    """The anatomy of a checkpoint folder, from its config alone: no weight is read."""
    return read_anatomy(empty_model(folder, trust_remote_code, may_be_quantized=may_be_quantized))


def empty_model(folder: Path, trust_remote_code: bool = False, *, may_be_quantized: bool = False) -> PreTrainedModel:
    """The folder's model without weights (on the meta device).

    Args:
        may_be_quantized: take a quantized checkpoint for what it was before. That suits work on the embedding alone,
            which quantizers leave as it is; whether this one did is for its reader to check.

    Raises:
        CorruptCheckpoint: config.json is missing or cannot be read.
        UnsupportedModel: transformers knows no causal language model for it, or the weights are quantized.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = _read_config(folder, trust_remote_code)
    if getattr(config, "quantization_config", None) is not None:
        if not may_be_quantized:
            raise UnsupportedModel(f"the weights in {folder} are quantized", hint="use the original checkpoint; a "
                                   "quantized one is best made from the edited model")
        del config.quantization_config
    if config.is_encoder_decoder:
        raise UnsupportedModel(f"{config.model_type} is an encoder-decoder", hint=_DECODERS_ONLY)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, ImportError, AttributeError, RuntimeError, OSError) as error:
        raise UnsupportedModel(f"{config.model_type} is no causal language model that transformers can build: "
                               f"{first_line(error)}", hint=_DECODERS_ONLY) from error


def is_quantized(folder: Path, trust_remote_code: bool = False) -> bool:
    """Whether the config says that the checkpoint's weights are quantized; its embedding may be as it was."""
    return getattr(_read_config(folder, trust_remote_code), "quantization_config", None) is not None


def first_line(error: BaseException) -> str:
    """What an exception says first; libraries append advice that does not fit ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read_config(folder: Path, trust_remote_code: bool) -> PreTrainedConfig:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    _require_config_file(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, StrictDataclassError) as error:
        raise CorruptCheckpoint(f"{folder}/config.json contradicts itself: {' '.join(str(error).split())}",
                                hint=_NO_CHECKPOINT) from error
    except (ValueError, KeyError, TypeError, ImportError) as error:
        hint = ("the model brings its own code: read it, then allow it with --trust-remote-code"
                if "trust_remote_code" in str(error) else "a newer one may know it: pip install -U transformers")
        raise UnsupportedModel(f"transformers cannot use {folder}/config.json: {first_line(error)}",
                               hint=hint) from error


def _require_config_file(path: Path) -> None:
    # transformers guesses a model from the folder's name when the file does not say what it is.
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {first_line(error)}", hint=_NO_CHECKPOINT) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CorruptCheckpoint(f"{path} names no model_type", hint=_NO_CHECKPOINT)


def _require_causal(model: PreTrainedModel) -> None:
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    kind = type(model.config)
    # Bidirectional models have a causal variant only on demand; without `is_decoder` every token sees its future.
    looks_both_ways = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(model.config, "is_decoder", False)
    if model.config.is_encoder_decoder or looks_both_ways:
        raise UnsupportedModel(f"{type(model).__name__} is not a causal decoder", hint=_DECODERS_ONLY)


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules(remove_duplicate=False) if module is part)


def _blocks(model: nn.Module, embedding: str) -> tuple[str, nn.ModuleList]:
    """The largest ModuleList in the smallest module that holds the embedding and any: not a vision tower's."""
    from torch import nn

    path = embedding
    while path:
        path = path.rpartition(".")[0]
        prefix = f"{path}." if path else ""
        lists = [(prefix + name, module) for name, module in model.get_submodule(path).named_modules()
                 if isinstance(module, nn.ModuleList) and len(module)]
        if lists:
            return max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))
    raise UnsupportedModel(f"{type(model).__name__} has no list of blocks", hint=_DECODERS_ONLY)


def _residual_width(model: PreTrainedModel, d_model: int) -> int:
    # A few models project a narrow embedding up to the residual stream.
    return getattr(model.config.get_text_config(), "hidden_size", d_model)


def _embed_scale(model: PreTrainedModel, embedding: nn.Module) -> float:
    """The factor between embedding row and residual stream, as the module or the config declares it."""
    # Newer transformers keep the number beside the buffer, because a buffer on the meta device has no value.
    for owner, name in ((embedding, "scalar_embed_scale"), (model.config.get_text_config(), "embedding_multiplier")):
        scale: Any = getattr(owner, name, None)
        if scale is not None:
            return float(scale)
    scale = getattr(embedding, "embed_scale", 1.0)
    return float(scale)


def _mlp_writers(blocks: str, layers: nn.ModuleList, width: int) -> tuple[str, ...]:
    writers = [_mlp_writer(block, width) for block in layers]
    if None in writers:
        return ()
    return tuple(f"{blocks}.{index}.{writer}" for index, writer in enumerate(writers))


def _mlp_writer(block: nn.Module, width: int) -> str | None:
    """The block's last fused expert tensor, else its last matrix from the widest activations to the residual width."""
    fused = [name for name, parameter in block.named_parameters()
             if parameter.ndim == 3 and width in parameter.shape[1:] and not _MIXES_TOKENS.search(name)]
    if fused:
        return fused[-1]
    matrices = [(read, name) for name, read, written in _matrices(block)
                if written == width and not _MIXES_TOKENS.search(name)]
    if not matrices:
        return None
    widest = max(read for read, _ in matrices)
    writer = [name for read, name in matrices if read == widest][-1]
    # Experts in a list of their own share the work: none of them alone is what the MLP writes through.
    return None if re.search(r"\.\d+\.", writer) else f"{writer}.weight"


def _matrices(block: nn.Module) -> list[tuple[str, int, int]]:
    """Name, input width and output width of each linear map in the block."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            found.append((name, module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            found.append((name, module.weight.shape[0], module.weight.shape[1]))
    return found


def _other_tables(model: nn.Module, embedding: nn.Module) -> tuple[str, ...]:
    from torch import nn

    rows = embedding.weight.shape[0]
    return tuple(f"{name}.weight" for name, module in model.named_modules()
                 if isinstance(module, nn.Embedding) and module is not embedding and module.num_embeddings == rows)
