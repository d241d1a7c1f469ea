"""The machine and the libraries that a result was made with, and in what another one differs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ember_hub import __version__

PACKAGES = ("accelerate", "bitsandbytes", "gguf", "huggingface_hub", "lm_eval", "numpy", "optuna", "peft", "safetensors",
            "tokenizers", "torch", "transformers", "wordfreq")
"""Libraries whose version can change a number."""
MACHINE = ("platform", "processor", "threads", "device", "gpu")
"""What has to be the same for floating-point sums to come out the same to the last bit."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was. `there` is the published result, `here` this machine; None is not installed."""

    name: str
    there: str | None
    here: str | None

    def to_json(self) -> dict[str, str | None]:
        return asdict(self)


def environment(device: str = "auto") -> dict[str, Any]:
    """This machine and the installed versions of what matters, without names of hosts, users or folders.

    Args:
        device: as the settings have it; "auto" is the GPU when there is one.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    computes = device if device != "auto" else "cuda" if has_gpu else "cpu"
    return {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
            "processor": _processor(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads()),
            "device": computes, "gpu": torch.cuda.get_device_name() if has_gpu and computes != "cpu" else "none",
            "versions": {"ember-hub": __version__} | {name: found for name in PACKAGES if (found := _version(name))}}


def requirements(about: Mapping[str, Any]) -> str:
    """The versions as pip reads them; labels of a local build, such as `+cpu`, are on no public index and are left out."""
    return "".join(f"{name}=={found.partition('+')[0]}\n" for name, found in about["versions"].items())


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[Difference, ...]:
    """In what two environments differ, the machine first."""
    plain = [Difference(name, there.get(name), here.get(name)) for name in (*MACHINE, "cores", "python")]
    names = dict.fromkeys([*there["versions"], *here["versions"]])
    versions = [Difference(name, there["versions"].get(name), here["versions"].get(name)) for name in names]
    return tuple(d for d in (*plain, *versions) if d.there != d.here)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", about.read_text(errors="replace"), re.MULTILINE) if about.is_file() else None
    return named[1].strip() if named else platform.processor() or "unknown"
