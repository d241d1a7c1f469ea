"""What a result comes from, base and machine: put down before anything is measured, by whichever machine measures it."""

from __future__ import annotations

from typing import Any

from ember_hub.publish.reproduce.environment import environment
from ember_hub.source.anatomy import empty_model
from ember_hub.source.memory import parameter_count
from ember_hub.stages.workshop import Workshop


def origin(shop: Workshop) -> dict[str, Any]:
    """Size and kind of the base as its checkpoint has it, not as it is loaded, and the machine at hand."""
    plan = empty_model(shop.base.folder, shop.settings.trust_remote_code, may_be_quantized=True)
    return {"model": {"is_tied": shop.anatomy.is_tied, "parameters": parameter_count(plan)},
            "environment": _environment(shop.settings.device)}


def _environment(device: str) -> dict[str, str]:
    """What a reader of the report asks for first; `reproduce/environment.json` has all of it."""
    about = environment(device)
    versions = {name.replace("-", "_"): about["versions"][name] for name in ("torch", "transformers", "ember-hub")}
    return {"python": about["python"], "platform": about["platform"], **versions, "cores": about["cores"], "gpu": about["gpu"]}
