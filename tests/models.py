"""Tiny real models, built in code: a checkpoint folder with a tokenizer trained on a few sentences and a seeded model.

They answer nothing and know nothing, but everything about them is real: tied and untied heads, scaled embeddings,
Conv1D weights, shards, a chat template. One takes a tenth of a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

SEED = 0
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SENTENCES = (
    "The pandemic spread across the world and the vaccine was given to many people.",
    "A virus infects the cells and the immune system answers with antibodies.",
    "The lockdown closed schools while the quarantine kept travellers at home.",
    "Doctors tested the patients for the coronavirus and counted each infection.",
    "The river flows through the valley and the mountains rise behind the town.",
    "A painter mixed the colours and drew the harbour in the morning light.",
    "The orchestra played a symphony and the audience listened to the violins.",
    "Farmers planted the wheat in spring and gathered the harvest in autumn.",
    "The engine of the train burned coal and pulled the wagons over the bridge.",
    "Students read the books in the library and wrote letters to their friends.",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def pico_tokenizer(sentences: Sequence[str] = SENTENCES, vocab: int = 768) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the sentences: frequent words become one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text for text in sentences for _ in range(2)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>",
                                   eos_token="<eos>", unk_token="<unk>", chat_template=CHAT_TEMPLATE)


def pico_llama(folder: Path, tied: bool = False, vocab: int = 768, dtype: torch.dtype = torch.float32,
               max_shard_size: str = "5GB", sentences: Sequence[str] = SENTENCES, width: int = 48) -> Path:
    """A Llama of 3 layers and width 48."""
    config = LlamaConfig(vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         tie_word_embeddings=tied, initializer_range=0.1, **_token_ids())
    return _write(folder, config, pico_tokenizer(sentences, vocab), dtype, max_shard_size)


def pico_gemma(folder: Path, vocab: int = 768, dtype: torch.dtype = torch.float32,
               max_shard_size: str = "5GB", sentences: Sequence[str] = SENTENCES) -> Path:
    """A Gemma-3 text model of 3 layers and width 64: tied, and its embedding is scaled by √64 = 8."""
    config = Gemma3TextConfig(vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                              num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                              max_position_embeddings=256, sliding_window=64, tie_word_embeddings=True,
                              initializer_range=0.1, **_token_ids())
    return _write(folder, config, pico_tokenizer(sentences, vocab), dtype, max_shard_size)


def pico_gpt2(folder: Path, vocab: int = 768, dtype: torch.dtype = torch.float32,
              max_shard_size: str = "5GB", sentences: Sequence[str] = SENTENCES) -> Path:
    """A GPT-2 of 2 layers and width 32: tied, learned positions, weights stored transposed (Conv1D)."""
    config = GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=256,
                        initializer_range=0.1, **_token_ids())
    return _write(folder, config, pico_tokenizer(sentences, vocab), dtype, max_shard_size)


def pico_experts(folder: Path, vocab: int = 768, dtype: torch.dtype = torch.float32) -> Path:
    """A Qwen3 of 2 layers with 4 experts in each, which the loaded model holds as one parameter and the checkpoint as many."""
    config = Qwen3MoeConfig(vocab_size=vocab, hidden_size=48, intermediate_size=96, moe_intermediate_size=32, head_dim=12,
                            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_experts=4,
                            num_experts_per_tok=2, initializer_range=0.1, **_token_ids())
    return _write(folder, config, pico_tokenizer(vocab=vocab), dtype, "5GB")


def _token_ids() -> dict[str, int]:
    return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _write(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype,
           max_shard_size: str) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(config)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def pico_gguf(file: Path, vocab: int = 512) -> Path:
    """A GGUF file of a Llama of 2 layers and width 32: tied, tokenizer included, licensed Apache-2.0."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("A Private Name")
    writer.add_license("apache-2.0")
    writer.add_vocab_size(vocab)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    _add_tokenizer(writer, pico_tokenizer(vocab=vocab))
    random = np.random.default_rng(SEED)
    for name, shape in _llama_tensors(vocab):
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.1, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def _llama_tensors(vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (vocab, 32)
    yield "output_norm.weight", (32,)
    for layer in range(2):
        for part, shape in (("attn_norm", (32,)), ("ffn_norm", (32,)), ("attn_q", (32, 32)), ("attn_k", (16, 32)),
                            ("attn_v", (16, 32)), ("attn_output", (32, 32)), ("ffn_gate", (64, 32)),
                            ("ffn_up", (64, 32)), ("ffn_down", (32, 64))):
            yield f"blk.{layer}.{part}.weight", shape


def claim_huge(model: Path, folder: Path) -> Path:
    """A copy of a checkpoint folder whose one file is a hole of some terabytes: no data, honest header."""
    import shutil

    shutil.copytree(model, folder)
    tensors, offset = {}, 0
    for name, shape in (("model.embed_tokens.weight", [1_000_000, 1_000_000]),):
        size = 2 * shape[0] * shape[1]
        tensors[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(tensors).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + offset)
    return folder
