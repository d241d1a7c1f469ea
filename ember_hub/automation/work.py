"""The recipe of an erasure, and the worker that follows it on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ember_hub import __version__
from ember_hub.automation.releases import Release
from ember_hub.concepts import registry as concepts
from ember_hub.concepts.combined import SEPARATOR
from ember_hub.progress import Progress
from ember_hub.run import digest
from ember_hub.settings import Settings

NOT_THERE = frozenset({"model", "concept", "output", "publish"})
"""Settings that another machine does not take over as they are."""


@dataclass(frozen=True)
class Recipe:
    """What is done to each release. `concept` is the pack's own name; the settings' model is whichever is released."""

    settings: Settings
    concept: str
    is_built_in: bool

    @classmethod
    def of(cls, settings: Settings) -> Recipe:
        """Look the concept up once.

        Raises:
            PackNotFound, PackInvalid: there is no such pack, or it cannot be used.
        """
        pack = concepts.find(settings.concept)
        # As `find` does: a folder with a pack in it wins over a name.
        parts = (settings.concept, *map(str.strip, settings.concept.split(SEPARATOR)))
        return cls(settings, pack.name, not any(Path(part).joinpath("pack.toml").is_file() for part in parts))

    @property
    def loads_a_model(self) -> bool:
        """Whether weights are needed: for everything but the embedding edit alone, as a patch that is not measured."""
        verify, publish = self.settings.verify, self.settings.publish
        is_measured = verify.battery not in (None, "none") or bool(verify.only or verify.bench)
        return bool(self.settings.methods) or publish.form != "patch" or is_measured

    @property
    def digest(self) -> str:
        """Tells recipes apart: another one may succeed where this one was refused."""
        return digest({"settings": self.settings.identity(), "gates": self.settings.gates, "concept": self.concept,
                       "verify": self.settings.verify.model_dump(mode="json"), "version": __version__})

    def settings_for(self, release: Release, targets: Sequence[str]) -> Settings:
        """The settings of one erasure: pinned to the commit, pushed to the targets."""
        publish = self.settings.publish.model_copy(update={"push": True, "repo": targets[0]})
        return self.settings.model_copy(update={"model": f"{release.repo}@{release.commit}", "publish": publish})


@dataclass(frozen=True)
class Result:
    """What a worker made: the report, where it lies, and the run. `is_pushed` is false when a gate kept it back."""

    report: Mapping[str, Any]
    report_path: str
    run: str
    is_pushed: bool = True


class Worker(Protocol):
    """Erases from one release and pushes the result to its targets; tells where it works through `begun`."""

    def erase(self, release: Release, targets: Sequence[str], begun: Callable[[str], None]) -> Result: ...


class Here:
    """Works in this process."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self._recipe, self._progress = recipe, progress

    def erase(self, release: Release, targets: Sequence[str], begun: Callable[[str], None]) -> Result:
        """Raises: EmberHubError, as `pipeline.erase` does."""
        from ember_hub.pipeline import erase

        settings = self._recipe.settings_for(release, targets)
        outcome = erase(settings, progress=self._progress)
        is_pushed = settings.publish.push_anyway or not outcome.failed
        return Result(outcome.report, str(outcome.folder / "reports" / "report.json"), str(outcome.folder), is_pushed)


def assignments(settings: Settings) -> list[str]:
    """Whatever the recipe sets, as `--set` words for the command line of another machine."""
    words: list[str] = []
    for key, value in settings.model_dump(mode="json", exclude_defaults=True, exclude=set(NOT_THERE)).items():
        words += _assigned(key, value)
    for key in ("private", "push_anyway"):
        words += _assigned(f"publish.{key}", True) if getattr(settings.publish, key) else []
    return words + _assigned("publish.form", settings.publish.form)


def _assigned(key: str, value: Any) -> list[str]:
    # Gates and plug-ins are looked up by names of their own: they travel whole. So do the sections' values.
    if isinstance(value, dict) and key in Settings.model_fields and key not in ("gates", "plugins"):
        return [word for name, inner in value.items() for word in _assigned(f"{key}.{name}", inner)]
    return ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
