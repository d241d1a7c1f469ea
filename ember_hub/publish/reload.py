"""Proof, in a new process, that what lies on disk answers exactly as the model that was verified.

The verifying process stores logits; the new one loads the files with nothing but transformers (and PEFT, for a patch)
and compares its own logits bit for bit. Run as `python -m ember_hub.publish.reload` with one JSON argument.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ember_hub.edits.apply import applied
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.errors import NotVerified
from ember_hub.patches.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ember_hub.progress import Progress, Quiet
from ember_hub.publish.patch import embedding_edit
from ember_hub.source.spread import keep_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ember_hub.source.load import LoadedModel

_LONGEST = 64
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Reloaded:
    """How one folder answered after it was loaded from disk."""

    is_equal: bool
    """Whether every logit is the same bit for bit."""
    max_difference: float


@dataclass(frozen=True)
class ReloadProof:
    """How the published folders answered; None where there was none to check."""

    model: Reloaded | None
    patch: Reloaded | None
    dtype: str
    device: str
    sequences: int
    """How many probe inputs, each compared over the whole vocabulary at its last position."""


def write_expected(loaded: LoadedModel, edit: Edit, texts: Sequence[str], path: Path) -> None:
    """Store what the verified model answers to the probe: with the whole edit, and with its embedding part alone.

    Probed are the texts and every row that moved. The circumstances of the numbers (dtype, device, threads) go along.

    Args:
        edit: as the checkpoint stores it, see `as_stored`.
    """
    inputs = probe_inputs(loaded, edit, texts)
    tensors = {"model_logits": probe(loaded, edit, inputs)}
    if loaded.anatomy.embedding in edit.changes:
        tensors["patch_logits"] = probe(loaded, embedding_edit(loaded.anatomy, edit), inputs)
    about = {"dtype": str(loaded.dtype).removeprefix("torch."), "device": _placement(loaded.model, loaded.device),
             "threads": str(torch.get_num_threads()), "loading": json.dumps(_loading(loaded))}
    save_file(tensors | {"input_ids": torch.tensor([token for ids in inputs for token in ids]),
                         "lengths": torch.tensor([len(ids) for ids in inputs])}, path, metadata=about)


def probe_inputs(loaded: LoadedModel, edit: Edit, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of the beginnings of the texts, and of all moved rows in portions."""
    rows = sorted({token for change in edit.changes.values() if not isinstance(change, Replaced)
                   for token in change.token_ids.tolist()})
    portions = [rows[i:i + _ROWS_AT_ONCE] for i in range(0, len(rows), _ROWS_AT_ONCE)]
    return [ids for ids in (loaded.tokenizer(text)["input_ids"][:_LONGEST] for text in texts) if ids] + portions


def probe(loaded: LoadedModel, edit: Edit, inputs: Sequence[Sequence[int]]) -> Float[Tensor, "n vocab"]:
    """Logits of the edited model at the last position of each input; the model is as before afterwards."""
    with applied(loaded.model, edit):
        return _logits(loaded.model, inputs)


def reload_check(model_folder: Path | None, patch_folder: Path | None, expected: Path, base_folder: Path | None = None,
                 trust_remote_code: bool = False, progress: Progress | None = None) -> ReloadProof:
    """Load the published folders in a new process, one after the other, and compare them with the verified model.

    Args:
        expected: from `write_expected`; the new process uses the same dtype, device and number of threads.
        base_folder: where the patch's base lies on this machine; without it the base is whatever the name in the
            patch leads to, which for a repository is its newest commit.

    Raises:
        NotVerified: a logit differs, or a folder does not load.
    """
    task = {"model": _text(model_folder), "patch": _text(patch_folder), "expected": _text(expected),
            "base": _text(base_folder), "trust_remote_code": trust_remote_code}
    with (progress or Quiet()).steps("reload in a new process", 1) as done:
        # Started beside the package, so that it is found however this process found it.
        child = subprocess.run([sys.executable, "-m", __name__, json.dumps(task)], capture_output=True, text=True,
                               cwd=Path(__file__).resolve().parents[2], check=False)
        done(1)
    lines = [line for line in (child.stdout if child.returncode == 0 else child.stderr).splitlines() if line.strip()]
    if child.returncode != 0 or not lines:
        said = lines[-1].strip() if lines else f"exit status {child.returncode}"
        raise NotVerified(f"the exported files do not load in a new process: {said}",
                          hint="check memory and the installed transformers and peft, then run the command again")
    answer = json.loads(lines[-1])
    parts = {name: Reloaded(**answer[name]) if answer[name] else None for name in ("model", "patch")}
    for name, part in parts.items():
        if part is not None and not part.is_equal:
            raise NotVerified(f"the exported {name} is not the one that was verified: its logits differ by up to "
                              f"{part.max_difference:.3g}", hint="nothing may be published from this folder: export it again")
    return ReloadProof(**(answer | parts))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _loading(loaded: LoadedModel) -> dict[str, Any]:
    """What `from_pretrained` is told besides, where the model does not lie whole on one device."""
    spread, quantizer = loaded.spread, getattr(loaded.model, "hf_quantizer", None)
    found: dict[str, Any] = {"quantization_config": quantizer.quantization_config.to_dict()} if quantizer else {}
    if spread.device_map:
        limits = {int(key) if key.isdigit() else key: size for key, size in spread.max_memory.items()}
        found |= {"device_map": spread.device_map} | ({"max_memory": list(limits.items())} if limits else {})
    return found | ({"offload_folder": str(spread.offload)} if spread.offload else {})


def _placement(model: PreTrainedModel, device: torch.device) -> str:
    """What `device_map` puts a model where this one is."""
    return "auto" if len(set(getattr(model, "hf_device_map", {}).values())) > 1 else str(device)


@torch.inference_mode()
def _logits(model: PreTrainedModel, inputs: Sequence[Sequence[int]]) -> Float[Tensor, "n vocab"]:
    # One at a time: padding would change how sums are ordered, and with it the last bit.
    device = model.get_input_embeddings().weight.device
    return torch.stack([model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0, -1].cpu()
                        for ids in inputs])


def _check(task: dict[str, Any]) -> dict[str, Any]:
    """What the new process does: load, run the probe, compare."""
    with safe_open(task["expected"], framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    torch.set_num_threads(int(about["threads"]))
    inputs = [ids.tolist() for ids in tensors["input_ids"].split(tensors["lengths"].tolist())]
    answer: dict[str, Any] = {"dtype": about["dtype"], "device": about["device"], "sequences": len(inputs)}
    with tempfile.TemporaryDirectory() as scratch:
        patch = task["patch"] and _on_base(Path(task["patch"]), task["base"], Path(scratch))
        for name, folder in (("model", task["model"]), ("patch", patch)):
            answer[name] = None
            if folder is not None:
                model = _load(folder, about, task["trust_remote_code"])
                answer[name] = asdict(_compare(tensors[f"{name}_logits"], _logits(model, inputs)))
                # One model in memory at a time.
                del model
                gc.collect()
    return answer


def _on_base(patch: Path, base: str | None, scratch: Path) -> str:
    """The patch itself, or the same adapter naming the base's folder on this machine."""
    if base is None:
        return str(patch)
    config = json.loads((patch / ADAPTER_CONFIG).read_text("utf-8"))
    (scratch / ADAPTER_CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": base}), "utf-8")
    (scratch / ADAPTER_WEIGHTS).symlink_to(patch / ADAPTER_WEIGHTS)
    return str(scratch)


def _load(folder: str, about: dict[str, str], trust_remote_code: bool) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    more = {"device_map": about["device"], **json.loads(about["loading"])}
    if "quantization_config" in more:
        more["quantization_config"] = BitsAndBytesConfig.from_dict(more["quantization_config"])
    if "max_memory" in more:
        more["max_memory"] = dict(more["max_memory"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, about["dtype"]),
                                                 trust_remote_code=trust_remote_code, **more).eval()
    keep_differentiable(model)
    return model


def _compare(expected: Tensor, found: Tensor) -> Reloaded:
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return Reloaded(False, float("inf"))
    is_equal = torch.equal(expected.view(torch.uint8), found.contiguous().view(torch.uint8))
    difference = (expected.double() - found.double()).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    return Reloaded(is_equal, 0.0 if is_equal else float(difference.max()))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_check(json.loads(sys.argv[1]))) + "\n")
