"""Quantization: the weights are rounded, as in most downloads of a model, and an erasure by small changes may be rounded off.

The weights are rounded and turned back into the model's own number type, so it runs anywhere; activations are left as they are.
The linear maps are rounded, and the head is not, as bitsandbytes does it; a GGUF file holds a rounded embedding too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ember_hub.concepts.pack import ConceptPack
from ember_hub.evaluation.attacks.prompting import as_samples, put
from ember_hub.evaluation.attacks.relearning import MASS_QUESTIONS
from ember_hub.evaluation.base import Attack, Battery, Cost, concept_readings
from ember_hub.evaluation.knowledge import letter_mass
from ember_hub.evaluation.presentation import tokens_read
from ember_hub.evaluation.reading import Measured, Reading

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject

Backend = Literal["torch", "bitsandbytes", "gguf"]
GgufFormat = Literal["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]
"""What the `gguf` package can write; it reads the K formats only."""
Rounding = Callable[[Float[Tensor, "written read"]], Float[Tensor, "written read"]]
"""Takes a linear map to what quantization leaves of it."""
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
"""The levels of 4-bit NormalFloat: quantiles of a normal distribution, with an exact zero. QLoRA, arXiv 2305.14314, appendix E."""
BLOCK = 64
INT8_LEVELS = 127


class Quantization(Attack):
    """Asks a copy with rounded weights; subclasses say how they are rounded."""

    rounds_embedding: ClassVar[bool] = False

    @property
    def needs_whole_weights(self) -> bool:
        return True

    @abstractmethod
    def rounding(self) -> Rounding:
        """How one linear map is rounded."""

    def cost(self, subject: Subject) -> Cost:
        return Cost(read=tokens_read(len(subject.known()), subject.syllabus.format) + tokens_read(MASS_QUESTIONS, "letter", most=1))

    def measure(self, subject: Subject) -> Measured:
        questions, mass_asked = subject.known(), subject.pack.asked("questions", "test")[:MASS_QUESTIONS]
        victim = subject.victim()
        count = quantize(victim.model, self.rounding(), self.rounds_embedding)
        answers = put(victim, subject, questions)
        mass = dict(zip((q.id for q in mass_asked), letter_mass(victim, mass_asked), strict=True))
        return Measured((*concept_readings(questions, answers), Reading("valid_mass_concept", "mass", mass)),
                        as_samples(questions, answers), {**self.model_dump(), "rounded_matrices": count})


class _Bits(Quantization):
    """What bitsandbytes makes of a checkpoint that is loaded in so many bits."""

    reference: ClassVar[str] = "Zhang et al., arXiv 2410.16454"
    backend: Backend = Field("torch", description="Who rounds: torch here, or the kernels of another library.")

    def missing(self, pack: ConceptPack) -> str | None:
        if self.backend != "bitsandbytes":
            return None
        return "bitsandbytes is not installed" if find_spec("bitsandbytes") is None else None


class Quantize8Bit(_Bits):
    """Integers from -127 to 127, with one scale for each row of a linear map."""

    name: ClassVar[str] = "quantize-8bit"
    title: ClassVar[str] = "8-bit weights"
    battery: ClassVar[Battery] = "standard"

    def rounding(self) -> Rounding:
        return {"torch": int8, "bitsandbytes": _bitsandbytes_int8, "gguf": gguf_rounding("Q8_0")}[self.backend]


class Quantize4Bit(_Bits):
    """The sixteen levels of NF4, with one scale for every 64 weights."""

    name: ClassVar[str] = "quantize-4bit"
    title: ClassVar[str] = "4-bit weights"
    battery: ClassVar[Battery] = "quick"

    def rounding(self) -> Rounding:
        return {"torch": nf4, "bitsandbytes": _bitsandbytes_nf4, "gguf": gguf_rounding("Q4_0")}[self.backend]


class QuantizeGguf(Quantization):
    """The weights of a GGUF file of the given format, in which the embedding is rounded too."""

    name: ClassVar[str] = "quantize-gguf"
    title: ClassVar[str] = "weights of a GGUF file"
    reference: ClassVar[str] = "llama.cpp; after arXiv 2410.16454"
    battery: ClassVar[Battery] = "full"
    rounds_embedding: ClassVar[bool] = True

    format: GgufFormat = Field("Q4_0", description="Quantization format of the file.")

    def rounding(self) -> Rounding:
        return gguf_rounding(self.format)


@torch.no_grad()
def quantize(model: nn.Module, rounding: Rounding, with_embedding: bool = False) -> int:
    """Round every linear map but the head in place, and the input embedding if asked; returns how many there were."""
    weights = [*_linear_maps(model), *([model.get_input_embeddings().weight] if with_embedding else [])]
    for weight in weights:
        weight.copy_(rounding(weight))
    return len(weights)


def _linear_maps(model: nn.Module) -> Iterator[Float[Tensor, "written read"]]:
    """Views of the weights of every linear map but the head, fused experts one by one."""
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if isinstance(module, nn.Linear):
            if module is not model.get_output_embeddings():
                yield module.weight
        elif isinstance(module, Conv1D):
            yield module.weight.T
        elif not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            # Fused experts are (expert, written, read) in most models; in the others the scales run along the wrong axis.
            yield from (expert for fused in module.parameters(recurse=False) if fused.ndim == 3 for expert in fused)


def int8(weight: Float[Tensor, "written read"]) -> Float[Tensor, "written read"]:
    """Each row in units of a 127th of its largest magnitude, rounded: the weights of LLM.int8 (arXiv 2208.07339)."""
    rows = weight.float()
    unit = (rows.abs().amax(1, keepdim=True) / INT8_LEVELS).clamp_min(torch.finfo(rows.dtype).tiny)
    return (rows / unit).round() * unit


def nf4(weight: Float[Tensor, "written read"]) -> Float[Tensor, "written read"]:
    """Every 64 weights along the input in units of their largest magnitude, moved to the nearest level of NF4."""
    levels = torch.tensor(NF4, device=weight.device)
    flat = weight.float().flatten()
    # As in bitsandbytes, blocks run on from row to row; what is missing in the last one is filled with zeros.
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    unit = blocks.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    scaled, nearest = blocks / unit, torch.zeros_like(blocks, dtype=torch.uint8)
    # Fifteen comparisons take half the time of a search.
    for middle in ((levels[1:] + levels[:-1]) / 2).tolist():
        nearest += scaled > middle
    return (levels[nearest.int()] * unit).flatten()[: len(flat)].view(weight.shape)


def gguf_rounding(format: GgufFormat) -> Rounding:
    """Rounding to a format of llama.cpp. Maps whose rows are no multiple of its block are left alone, as llama.cpp leaves them."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize
    from gguf.quants import quantize as write

    kind = GGMLQuantizationType[format]
    block, _ = GGML_QUANT_SIZES[kind]

    def rounded(weight: Float[Tensor, "written read"]) -> Float[Tensor, "written read"]:
        if weight.shape[1] % block:
            return weight
        return torch.from_numpy(dequantize(write(weight.float().contiguous().cpu().numpy(), kind), kind))

    return rounded


def _bitsandbytes_int8(weight: Float[Tensor, "written read"]) -> Float[Tensor, "written read"]:
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    values, scales, _ = int8_vectorwise_quant(weight.half())
    return int8_vectorwise_dequant(values, scales)


def _bitsandbytes_nf4(weight: Float[Tensor, "written read"]) -> Float[Tensor, "written read"]:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return dequantize_4bit(*quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4"))
