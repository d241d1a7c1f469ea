"""A published result made again: from its recipe to settings that hold here, and the machine it was then made on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ember_hub.concepts import registry as concepts
from ember_hub.errors import ConfigError, NotReproduced, UsageError, WrongBase
from ember_hub.progress import Progress
from ember_hub.publish import reproduce as names
from ember_hub.publish.reproduce.environment import differences, environment
from ember_hub.publish.reproduce.original import Original
from ember_hub.settings import Settings, resolve
from ember_hub.source import resolve as source
from ember_hub.source.ref import ModelRef

OUTPUT = Path("runs/reproduced")
"""Apart from other runs: what was made here before would be compared with itself."""


@dataclass(frozen=True)
class Changes:
    """What is different here from where the result was made."""

    base: str | None = None
    """Where the base lies, for one that was not taken from the Hub."""
    concept: str | None = None
    """The pack, for one whose licence keeps it out of the published folder."""
    output: Path = OUTPUT
    device: str | None = None
    trust_remote_code: bool = False
    assignments: tuple[str, ...] = ()
    """`section.key=value`, as for `--set`."""


def settings_again(original: Original, changes: Changes, progress: Progress) -> Settings:
    """The recipe as settings of a run here; what differs in machine and versions is told.

    Raises:
        UsageError: the base has to be named.
        ConfigError: the recipe holds what is no setting, or needs the base's own code.
        WrongBase, NotReproduced: base or pack are not those that the result was made from.
    """
    model, concept = original.report["model"], original.report["concept"]
    if original.recipe.get("trust_remote_code") and not changes.trust_remote_code:
        raise ConfigError(f"{original.name} was made with its base's own Python code, which nobody allowed to run here",
                          hint="read that code, then add --trust-remote-code")
    pack = changes.concept or original.pack() or concept["name"]
    found = concepts.find(pack).sha256
    if found != concept["sha256"]:
        raise NotReproduced(f"the concept pack {concept['name']!r} has SHA-256 {found[:12]}…, the published result was made "
                            f"with {concept['sha256'][:12]}…", hint="give the same pack with --concept FOLDER")
    flags = original.settings() | {"concept": pack, "output": changes.output, "trust_remote_code": changes.trust_remote_code}
    flags |= {"device": changes.device} if changes.device else {}
    settings = resolve(flags | {"model": _base(original, changes)}, assignments=changes.assignments, environment={})
    if changes.base:
        _require_same_base(model, source.resolve(ModelRef.parse(changes.base), progress, settings.publish.base_id))
    _tell(original, settings, progress)
    return settings


def read_environment(folder: Path, original: Original) -> dict[str, Any]:
    """The machine that the run in `folder` was made on.

    Raises:
        UsageError: it is the very run that shall be made again.
    """
    if folder.resolve() in original.folder.resolve().parents:
        raise UsageError(f"{folder} would be compared with itself", hint="make it again in another place: --output FOLDER")
    return json.loads((folder / names.ENVIRONMENT).read_text(encoding="utf-8"))


def _base(original: Original, changes: Changes) -> str:
    model = original.report["model"]
    if changes.base:
        return changes.base
    if model["source_kind"] != "hub":
        raise UsageError(f"{original.name} was made from a {model['source_kind']} named {model['name']}, which is not on the Hub",
                         hint=f"name it here with --base PATH; its fingerprint is {model['commit']}")
    return f"{model['repo_id']}@{model['commit']}"


def _require_same_base(model: Any, base: source.Base) -> None:
    if base.commit != model["commit"]:
        raise WrongBase(f"{base.name} is {str(base.commit)[:12]}…, the published result was made from {model['name']} "
                        f"at {str(model['commit'])[:12]}…", hint="name the same base, to the byte, with --base")


def _tell(original: Original, settings: Settings, progress: Progress) -> None:
    changed = differences(original.environment, environment(settings.device))
    for difference in changed:
        progress.say("differs", f"{difference.name}: {difference.here or 'not installed'} here, "
                                f"{difference.there or 'not installed'} there")
    if not changed:
        progress.say("same", "machine and versions are those of the published result")
    for name in original.environment.get("left_out", []):
        progress.say("left out", f"{name} names a place of the machine it was made on: give yours with --set {name}=...")
