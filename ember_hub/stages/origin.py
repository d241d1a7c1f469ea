"""What a result comes from, base and machine: put down before anything is measured, by whichever machine measures it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from ember_hub import __version__
from ember_hub.source.anatomy import empty_model
from ember_hub.source.memory import parameter_count
from ember_hub.stages.workshop import Workshop


def origin(shop: Workshop) -> dict[str, Any]:
    """Size and kind of the base as its checkpoint has it, not as it is loaded, and the machine at hand."""
    plan = empty_model(shop.base.folder, shop.settings.trust_remote_code, may_be_quantized=True)
    return {"model": {"is_tied": shop.anatomy.is_tied, "parameters": parameter_count(plan)}, "environment": _environment()}


def _environment() -> dict[str, str]:
    import torch

    return {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
            "torch": version("torch"), "transformers": version("transformers"), "ember_hub": __version__,
            "cores": str(os.cpu_count()), "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}
