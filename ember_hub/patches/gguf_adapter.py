"""A patch as a LoRA adapter for llama.cpp: one GGUF file.

llama.cpp looks the token's row up in `lora_a` and multiplies it by `lora_b`, so for the embedding, and only there, A lies
with a row for each token. Source: llama.cpp's convert_lora_to_gguf.py, and the checks and the input graph of its loader.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ember_hub.errors import PatchInvalid
from ember_hub.patches.adapter import scattered
from ember_hub.patches.patch import Patch
from ember_hub.patches.storage import appearing_file

_OWN_NAMES = {"mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3", "cohere": "command-r", "gpt_bigcode": "starcoder",
              "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}
"""llama.cpp's name of an architecture, where it is not transformers' without underscores."""


def write_gguf(patch: Patch, out: Path, architecture: str | None = None) -> None:
    """Write the factors of a `lora-embed` patch as a GGUF adapter in float32.

    Args:
        architecture: what llama.cpp calls the base's, where it cannot be told from the base's config.

    Raises:
        PatchInvalid: the base is tied, or llama.cpp's name of its architecture is not known.
        DiskError: the file exists, or cannot be written.
    """
    import gguf

    assert patch.factors is not None, "a patch is first converted to lora-embed"
    if patch.table.is_tied:
        raise PatchInvalid("llama.cpp takes the adapter of a tied embedding for the output head too, which it cannot compute",
                           hint="use `patch apply`, and convert the folder it writes to GGUF: there the head is of its own")
    name = architecture or _architecture(patch.table.model_type)
    with appearing_file(out) as partial:
        writer = gguf.GGUFWriter(partial, name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(patch.factors.rank))
        writer.add_string("ember_hub.base", patch.base.title)
        writer.add_tensor("token_embd.weight.lora_a", np.ascontiguousarray(scattered(patch, patch.factors).T))
        writer.add_tensor("token_embd.weight.lora_b", np.ascontiguousarray(patch.factors.directions))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _architecture(model_type: str | None) -> str:
    import gguf

    known = set(gguf.MODEL_ARCH_NAMES.values())
    guesses = [_OWN_NAMES.get(model_type or "", ""), model_type or "", (model_type or "").replace("_", "")]
    found = next((guess for guess in guesses if guess in known), None)
    if found is None:
        raise PatchInvalid(f"llama.cpp's name for the architecture {model_type!r} is not known",
                           hint="give it: --architecture NAME, as general.architecture of the base's GGUF file says")
    return found
