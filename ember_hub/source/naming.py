"""Two names of one thing: how a checkpoint calls a parameter of the loaded model, and whether its head is its embedding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.errors import UnsupportedModel
from ember_hub.source.byte_ranges import open_for_reading
from ember_hub.source.safetensors_file import json_object

if TYPE_CHECKING:
    from ember_hub.source.weights import Weights


def tensor_name(weights: Weights, parameter: str) -> str:
    """The checkpoint's name of a parameter of the loaded model.

    Raises:
        UnsupportedModel: no tensor, or more than one, goes by that name.
    """
    found = tensor_names(weights, parameter)
    if len(found) != 1:
        which = "several tensors of the checkpoint may be" if found else "no tensor of the checkpoint is"
        raise UnsupportedModel(f"{which} {parameter!r} of the loaded model: transformers converts it while loading",
                               hint="use a method that edits the embedding only, such as --method none, or load the "
                                    "base with transformers and save it again, so that both use the same names")
    return found[0]


def tensor_names(weights: Weights, parameter: str) -> list[str]:
    """The tensor of the same name, else those that differ by a prefix, else the one whose leading parts are swapped."""
    if parameter in weights.tensors:
        return [parameter]
    found = [name for name in weights.tensors if name.endswith(f".{parameter}") or parameter.endswith(f".{name}")]
    # Multimodal checkpoints say language_model.model.layers where transformers says model.language_model.layers.
    parts = parameter.split(".")
    swapped = ".".join([*reversed(parts[:2]), *parts[2:]])
    return found or [name for name in (swapped,) if name in weights.tensors]


def says_tied(folder: Path) -> bool:
    """Whether config.json says that head and embedding are one; the checkpoint may hold two all the same.

    Raises:
        ModelNotFound, CorruptCheckpoint, DiskError: there is no config.json that can be read.
    """
    with open_for_reading(folder / "config.json") as file:
        config = json_object(folder / "config.json", file.read(), "the text")
    return any(part.get("tie_word_embeddings") is True for _, part in config_parts(config))


def config_parts(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The config itself, and the configs that a multimodal one nests."""
    return [("", config), *((name, part) for name, part in config.items() if isinstance(part, dict))]
