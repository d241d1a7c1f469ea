"""Models larger than one device: which part lies where, in how many bits, and whether that fits before anything is loaded.

What an edit changes stays in memory and unquantized: the embedding, and the blocks that a method trains. The rest may lie
on several GPUs, in the CPU's memory, on disk, or be held in 4 or 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ember_hub.errors import ConfigError, NotEnoughMemory, UnsupportedModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Bits = Literal["4bit", "8bit"]
Layout = dict[str, "int | str"]
"""Module path -> GPU number, "cpu" or "disk"; as accelerate and transformers read it."""
_SLOW = ("cpu", "disk")
_BYTES = {"4bit": 0.5, "8bit": 1.0}
_SCALES = 1.07
"""What the scales of the blocks add to quantized weights: one float32 for 64 of them in NF4, and less in 8 bits."""


@dataclass(frozen=True)
class Spread:
    """How to lay out a model.

    device_map: accelerate's name of a way to share the blocks out; none for one device.
    max_memory: most bytes by device ("0", "cpu"), with unit ("20GB", "500MiB"); what is free otherwise.
    offload: folder for the parts that fit into no memory.
    dense: module paths that stay whole: unquantized, and on the device that computes.
    """

    device_map: str | None = None
    max_memory: Mapping[str, str] = field(default_factory=dict)
    offload: Path | None = None
    quantization: Bits | None = None
    dense: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether all weights lie on one device as the checkpoint has them."""
        return self.device_map is None and self.quantization is None


WHOLE = Spread()
"""On one device, as the checkpoint has it."""


def sizes(plan: PreTrainedModel, dtype: torch.dtype, spread: Spread) -> dict[str, float]:
    """Bytes of every parameter of a model without weights, as it will be held, by name."""
    held = quantized_modules(plan, spread) if spread.quantization else frozenset()
    bits = _BYTES[spread.quantization] * _SCALES if spread.quantization else 0.0
    return {name: p.numel() * (bits if name.removesuffix(".weight") in held else dtype.itemsize)
            for name, p in plan.named_parameters()}


def quantized_modules(plan: PreTrainedModel, spread: Spread) -> frozenset[str]:
    """Paths of the linear maps that quantization takes: all but the head and what stays dense."""
    from torch import nn

    kept = tuple(f"{path}." for path in spread.dense)
    head = plan.get_output_embeddings()
    return frozenset(name for name, module in plan.named_modules()
                     if isinstance(module, nn.Linear) and module is not head and not f"{name}.".startswith(kept))


def layout(plan: PreTrainedModel, dtype: torch.dtype, embedding: str, spread: Spread) -> Layout:
    """Which module goes where; the embedding and what stays dense always where the computing is done.

    Args:
        embedding: parameter name of the input embedding.

    Raises:
        NotEnoughMemory: it does not fit; the hint says what would.
        ConfigError: a limit that cannot be read, or a device that is not there.
    """
    from accelerate import infer_auto_device_map

    pinned = (embedding.removesuffix(".weight"), *spread.dense)
    limits, weights = _limits(plan, spread), sizes(plan, dtype, spread)
    main = next(iter(limits))
    taken = sum(size for name, size in weights.items() if f"{name}.".startswith(tuple(f"{path}." for path in pinned)))
    if taken > limits[main]:
        raise NotEnoughMemory(f"the embedding and the edited blocks take {_gb(taken)}, the limit of device {main} is "
                              f"{_gb(limits[main])}", hint=f"raise it with --max-memory {main}={_gb(taken * 1.2)}")
    special = {f"{name}.weight": _narrow(spread.quantization) for name in quantized_modules(plan, spread)} \
        if spread.quantization else None
    rest = {**limits, main: int(limits[main] - _misplaced(plan, dtype, limits, special, pinned, weights))}
    found: Layout = infer_auto_device_map(plan, max_memory={**rest, "disk": 2**62}, dtype=dtype, special_dtypes=special,
                                          no_split_module_classes=list(plan._no_split_modules or ()))
    _require_place(found, plan, spread, weights, limits)
    return _with_pinned(found, pinned, main, plan)


def require_fit(plan: PreTrainedModel, dtype: torch.dtype, embedding: str, spread: Spread) -> float:
    """Bytes that the model will take on all devices together, after a look whether they are there.

    Raises:
        NotEnoughMemory: they are not; the hint says what would fit.
    """
    if spread.device_map:
        layout(plan, dtype, embedding, spread)
    return sum(sizes(plan, dtype, spread).values())


def quantization_config(plan: PreTrainedModel, dtype: torch.dtype, spread: Spread) -> Any:
    """The setting by which transformers quantizes while loading; None where nothing is to be quantized.

    Raises:
        UnsupportedModel: bitsandbytes is not installed.
    """
    if spread.quantization is None:
        return None
    from importlib.util import find_spec

    from torch import nn
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UnsupportedModel("quantized loading needs bitsandbytes, which is not installed",
                               hint="pip install 'ember-hub[quantized]', or leave out --quantization")
    taken = quantized_modules(plan, spread)
    kept = [name for name, module in plan.named_modules() if isinstance(module, nn.Linear) and name not in taken]
    if spread.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype,
                              llm_int8_skip_modules=kept)


def keep_differentiable(model: nn.Module) -> None:
    """Hold 4-bit weights on a CPU in the layout that gradients pass through.

    bitsandbytes repacks them for a faster product at the first pass without gradients, and that product has none: whoever trains
    an adapter afterwards trains on next to nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def stored(model: nn.Module, name: str) -> Tensor:
    """The tensor that holds a parameter's values, wherever the layout put it; writing into it changes the model.

    Raises:
        AttributeError: the model has no such parameter.
        UnsupportedModel: it lies on disk, or is quantized.
    """
    parameter = model.get_parameter(name)
    if not parameter.is_floating_point():
        raise UnsupportedModel(f"{name} is held in few bits and cannot be edited", hint="leave out --quantization")
    if not parameter.is_meta:
        return parameter
    path, _, own = name.rpartition(".")
    weights = getattr(getattr(model.get_submodule(path), "_hf_hook", None), "weights_map", None)
    kept = getattr(weights, "dataset", weights) or {}
    # Beside tensors in memory the same map may name files, which are read anew each time.
    held = kept if isinstance(kept, dict) else kept.state_dict
    found = held.get(f"{getattr(weights, 'prefix', '')}{own}")
    if found is None:
        raise UnsupportedModel(f"{name} lies on disk, where it cannot be edited",
                               hint="allow more memory with --max-memory, so that it can be held")
    return found


def _limits(plan: PreTrainedModel, spread: Spread) -> dict[int | str, int]:
    """Most bytes by device, the one that computes first."""
    from accelerate.utils import get_balanced_memory, get_max_memory

    given: dict[int | str, Any] = {int(key) if key.isdigit() else key: value for key, value in spread.max_memory.items()}
    try:
        found = get_max_memory(given or None)
        if spread.device_map in ("auto", "balanced") and len(found) > 2:
            found = get_balanced_memory(plan, found, no_split_module_classes=list(plan._no_split_modules or ()))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"max_memory {dict(spread.max_memory)} cannot be used: {str(error).splitlines()[0]}",
                          hint="write --max-memory 0=20GB,cpu=64GB, for devices that are there") from error
    usable = {key: int(size) for key, size in found.items() if key != "disk" and int(size) > 0}
    if not usable:
        raise ConfigError("max_memory leaves no device to compute on", hint="write --max-memory 0=20GB,cpu=64GB")
    return dict(sorted(usable.items(), key=lambda item: str(item[0]) in _SLOW))


def _misplaced(plan: PreTrainedModel, dtype: torch.dtype, limits: Mapping[int | str, int], special: Any,
               pinned: tuple[str, ...], weights: Mapping[str, float]) -> float:
    """Bytes of the pinned modules that a first layout puts where they cannot stay."""
    from accelerate import infer_auto_device_map

    found = infer_auto_device_map(plan, max_memory={**limits, "disk": 2**62}, dtype=dtype, special_dtypes=special,
                                  no_split_module_classes=list(plan._no_split_modules or ()))
    return sum(size for name, size in weights.items()
               if f"{name}.".startswith(tuple(f"{path}." for path in pinned)) and _place(found, name) in _away(limits))


def _away(limits: Mapping[int | str, int]) -> tuple[str, ...]:
    # Where no GPU is, the CPU computes.
    return ("disk",) if next(iter(limits)) == "cpu" else _SLOW


def _place(found: Layout, name: str) -> int | str:
    path = name
    while path and path not in found:
        path = path.rpartition(".")[0]
    return found.get(path, found.get("", "disk"))


def _with_pinned(found: Layout, pinned: tuple[str, ...], main: int | str, plan: nn.Module) -> Layout:
    if set(found.values()) == {main}:
        return {"": main}
    open_ones = list(found.items())
    placed: Layout = {}
    while open_ones:
        name, place = open_ones.pop()
        if any(f"{name}.".startswith(f"{path}.") for path in pinned):
            placed[name] = main
        elif any(f"{path}.".startswith(f"{name}.") for path in pinned):
            # A parent of what is pinned: its other children stay where it was put.
            open_ones += [(f"{name}.{child}", place) for child, _ in plan.get_submodule(name).named_children()]
        else:
            placed[name] = place
    return placed


def _require_place(found: Layout, plan: PreTrainedModel, spread: Spread, weights: Mapping[str, float],
                   limits: Mapping[int | str, int]) -> None:
    if "disk" not in found.values() or (spread.offload and not spread.quantization):
        return
    needed, there = sum(weights.values()), sum(limits.values())
    dense = sum(p.numel() for p in plan.parameters())
    ways = [f"--quantization {bits} ({_gb(dense * _BYTES[bits] * _SCALES)})" for bits in _BYTES
            if not spread.quantization and dense * _BYTES[bits] * _SCALES < there]
    if not spread.quantization:
        ways.append("--offload FOLDER for the rest, which is slow")
    raise NotEnoughMemory(f"the weights take {_gb(needed)}, the devices may hold {_gb(there)}",
                          hint=f"what would fit: {', or '.join(ways) or f'--max-memory of {_gb(needed * 1.2)} in all'}")


def _narrow(bits: Bits | None) -> Any:
    import torch
    from accelerate.utils import CustomDtype

    return CustomDtype.INT4 if bits == "4bit" else torch.int8


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}GB" if size >= 1e8 else f"{size / 1e6:.2g}MB"
