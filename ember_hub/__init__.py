"""ember-hub: erase a named concept from an open-weight language model, prove it, and publish the result.

    import ember_hub
    outcome = ember_hub.erase("HuggingFaceTB/SmolLM2-135M-Instruct", concept="covid", methods=("rmu",))
    outcome.report["efficacy"], outcome.model, outcome.patch
    ember_hub.Patch.open(outcome.patch).apply_to(model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ember_hub.patches.patch import Patch
    from ember_hub.pipeline import Outcome
    from ember_hub.progress import Progress

__version__ = "0.1.0"
__all__ = ["Patch", "__version__", "erase", "plan", "verify"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: numpy would make `ember-hub --help` slow.
    if name == "Patch":
        from ember_hub.patches.patch import Patch

        return Patch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def erase(model: str, concept: str, *, progress: Progress | None = None, **settings: Any) -> Outcome:
    """Erase one concept from one model; the keywords are the settings of `ember-hub erase`, nested as in TOML.

    Raises:
        EmberHubError: with `message` and `hint`.
    """
    from ember_hub.pipeline import erase as run
    from ember_hub.settings import resolve

    return run(resolve({"model": model, "concept": concept, **settings}), progress=progress)


def plan(model: str, concept: str, *, progress: Progress | None = None, **settings: Any) -> dict[str, Any]:
    """What `erase` with the same arguments would change, take and cost, as `ember-hub plan --json` says it.

    Raises:
        EmberHubError: with `message` and `hint`.
    """
    from ember_hub.pipeline import plan as run
    from ember_hub.settings import resolve

    return run(resolve({"model": model, "concept": concept, **settings}), progress=progress)


def verify(model: str, concept: str, *, base: str = "", progress: Progress | None = None, **settings: Any) -> Outcome:
    """Audit an edited model or adapter; the keywords are the settings of `ember-hub verify`, nested as in TOML.

    Args:
        base: the model that it was made from; an adapter names its own.

    Raises:
        EmberHubError: with `message` and `hint`.
    """
    from ember_hub.pipeline import verify as run
    from ember_hub.settings import resolve

    own = {"model": base, "concept": concept, "methods": [], "ember": {"enabled": False}}
    return run(resolve({**settings, **own}), model, progress=progress)
