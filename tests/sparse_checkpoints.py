"""Checkpoint folders with the names, shapes, dtypes and shards of published models, and holes where the numbers would be.

The file sizes of Llama-3.1-8B come out to the byte. On disk such a folder takes its headers and what `fill_rows` wrote.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.source.byte_ranges import write_at
from ember_hub.source.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from ember_hub.source.safetensors_file import ITEM_SIZES

EMBEDDING = "model.embed_tokens.weight"
_SHARD_SIZE = 5 * 10**9
_ROPE_OF_LLAMA = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                  "rope_type": "llama3"}


@dataclass(frozen=True)
class Shape:
    """A published decoder, as far as its files show it."""

    family: str
    code: str
    d_model: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    d_mlp: int
    vocab: int
    licence: str

    @property
    def is_tied(self) -> bool:
        return self.family == "gemma2"

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of the model's modules, which is the order in which shards are filled."""
        d_model, queries, keys = self.d_model, self.heads * self.head_dim, self.key_heads * self.head_dim
        norms = ["input_layernorm", "post_attention_layernorm"]
        if self.family == "gemma2":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        yield EMBEDDING, (self.vocab, d_model)
        for layer in range(self.layers):
            parts = {"self_attn.q_proj": (queries, d_model), "self_attn.k_proj": (keys, d_model),
                     "self_attn.v_proj": (keys, d_model), "self_attn.o_proj": (d_model, queries),
                     "mlp.gate_proj": (self.d_mlp, d_model), "mlp.up_proj": (self.d_mlp, d_model),
                     "mlp.down_proj": (d_model, self.d_mlp), **dict.fromkeys(norms, (d_model,))}
            yield from ((f"model.layers.{layer}.{part}.weight", shape) for part, shape in parts.items())
        yield "model.norm.weight", (d_model,)
        if not self.is_tied:
            yield "lm_head.weight", (self.vocab, d_model)

    def config(self) -> dict[str, Any]:
        common = {
            "attention_bias": False, "attention_dropout": 0.0, "hidden_size": self.d_model, "initializer_range": 0.02,
            "intermediate_size": self.d_mlp, "model_type": self.family, "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers, "num_key_value_heads": self.key_heads, "use_cache": True,
            "torch_dtype": {"BF16": "bfloat16", "F32": "float32"}[self.code], "vocab_size": self.vocab,
        }
        if self.family == "gemma2":
            return common | {
                "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0, "bos_token_id": 2, "eos_token_id": 1,
                "pad_token_id": 0, "final_logit_softcapping": 30.0, "head_dim": self.head_dim, "hidden_act": "gelu_pytorch_tanh",
                "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "rms_norm_eps": 1e-06,
                "query_pre_attn_scalar": self.d_model // self.heads if self.layers == 46 else 256,
                "rope_theta": 10000.0, "sliding_window": 4096, "cache_implementation": "hybrid",
            }
        return common | {
            "architectures": ["LlamaForCausalLM"], "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu",
            "max_position_embeddings": 131072, "mlp_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": _ROPE_OF_LLAMA, "rope_theta": 500000.0, "tie_word_embeddings": False,
        }


SHAPES: Mapping[str, Shape] = {
    "Llama-3.1-8B": Shape("llama", "BF16", 4096, 32, 32, 8, 128, 14336, 128256, "llama3.1"),
    "Llama-3.1-70B": Shape("llama", "BF16", 8192, 80, 64, 8, 128, 28672, 128256, "llama3.1"),
    "Llama-3.1-405B": Shape("llama", "BF16", 16384, 126, 128, 8, 128, 53248, 128256, "llama3.1"),
    "gemma-2-2b": Shape("gemma2", "F32", 2304, 26, 8, 4, 256, 9216, 256000, "gemma"),
    "gemma-2-27b": Shape("gemma2", "F32", 4608, 46, 32, 16, 128, 36864, 256000, "gemma"),
}


def write_sparse(folder: Path, name: str, tokenizer: Path | None = None) -> Path:
    """Writes the checkpoint of `SHAPES[name]` into a new folder: honest headers, and holes.

    Args:
        tokenizer: a folder whose tokenizer files are copied; else a tiny one is made, which knows only the first ids.
    """
    shape = SHAPES[name]
    folder.mkdir(parents=True)
    shards = list(_shards(shape))
    weight_map, total = {}, 0
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else SINGLE_FILE
        total += _write_shard(folder / file, shape.code, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    if len(shards) > 1:
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(f"---\nlicense: {shape.licence}\n---\n# {name}\n")
    (folder / "LICENSE").write_text(f"The terms of {shape.licence}\n")
    _add_tokenizer(folder, tokenizer)
    return folder


def fill_rows(folder: Path, ids: Iterable[int], seed: int = 0, scale: float = 0.02) -> None:
    """Writes random rows of the embedding where there were holes; the same row for the same id and seed."""
    d_model = Checkpoint.open(folder).info(EMBEDDING).shape[1]
    write_rows(folder, ((token_id, np.random.default_rng([seed, token_id]).standard_normal(d_model, np.float32) * scale)
                        for token_id in ids))


def write_rows(folder: Path, rows: Iterable[tuple[int, np.ndarray]]) -> None:
    """Writes rows of the embedding by id, cut off to bfloat16 where that is what it holds."""
    info = Checkpoint.open(folder).info(EMBEDDING)
    with open(info.file, "r+b", buffering=0) as file:
        for token_id, row in rows:
            values = np.ascontiguousarray(row, np.float32)
            stored = values if info.code == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16)
            write_at(file.fileno(), stored.tobytes(), info.start + token_id * info.row_size)


def _shards(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    filled = 0
    for name, dims in shape.tensors():
        size = math.prod(dims) * ITEM_SIZES[shape.code]
        if shard and filled + size > _SHARD_SIZE:
            yield shard
            shard, filled = {}, 0
        shard[name] = dims
        filled += size
    yield shard


def _write_shard(path: Path, code: str, tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the bytes of its tensors."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # The safetensors library sorts by name what has one dtype.
    for name, dims in sorted(tensors.items()):
        size = math.prod(dims) * ITEM_SIZES[code]
        entries[name] = {"dtype": code, "shape": list(dims), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return end


def _add_tokenizer(folder: Path, tokenizer: Path | None) -> None:
    if tokenizer is None:
        from tests.models import pico_tokenizer

        pico_tokenizer().save_pretrained(folder)
        return
    for path in tokenizer.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template")):
            shutil.copyfile(path, folder / path.name)
