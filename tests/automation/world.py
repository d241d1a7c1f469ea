"""A small world of releases: bases on the loopback Hub, watchers whose clock does not wait, and a worker that only publishes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ember_hub.automation.hub import Hub
from ember_hub.automation.releases import Decision, Release, Watch
from ember_hub.automation.watching import Watcher
from ember_hub.automation.work import Recipe, Result
from ember_hub.errors import EmberHubError
from ember_hub.settings import resolve
from tests.hub.server import LoopbackHub

BASE = "maker/Pico-1B"
TARGET = "tester/Pico-1B-ember-covid-19-pandemic-patch"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CARD = "---\nlicense: apache-2.0\n---\n# Pico\n"


@dataclass
class StoppedClock:
    """This machine's clock: it stands still, is wrong by years, and notes how long it was asked to wait."""

    slept: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime(2001, 1, 1, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@dataclass
class Clerk:
    """A worker that publishes a report and no model; `trouble` is raised instead, `meanwhile` is called before it works."""

    hub: LoopbackHub
    folder: Path
    trouble: EmberHubError | None = None
    meanwhile: Callable[[], Any] | None = None
    gates: Sequence[dict[str, Any]] = ()
    worked: list[tuple[str, str]] = field(default_factory=list)

    def erase(self, release: Release, targets: Sequence[str], begun: Callable[[str], None]) -> Result:
        self.worked.append((release.repo, release.commit))
        if self.meanwhile:
            self.meanwhile()
        if self.trouble:
            raise self.trouble
        made = report(release.repo, release.commit, gates=self.gates)
        is_pushed = all(gate["passed"] for gate in self.gates)
        if is_pushed:
            for target in targets:
                publish(self.hub, target, made, self.folder / target)
        return Result(made, "runs/report.json", "runs/1", is_pushed)


@dataclass
class World:
    hub: LoopbackHub
    folder: Path

    def release(self, repo: str = BASE, **files: str | bytes) -> str:
        """Commit a small base, or the next version of it; keyword names are file names with `__` for dots."""
        place = self.folder / repo
        place.mkdir(parents=True, exist_ok=True)
        content = {"config.json": json.dumps(CONFIG), "README.md": CARD, "model.safetensors": weights(4)}
        content |= {name.replace("__", "."): text for name, text in files.items()}
        for name, text in content.items():
            (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.hub.add_repo(repo, place)

    def clerk(self, **given: Any) -> Clerk:
        return Clerk(self.hub, self.folder / "results", **given)

    def watcher(self, worker: Any, *, token: str = "hf_test", settings: dict[str, Any] | None = None, **watch: Any) -> Watcher:
        """A watcher that has just been started somewhere, with its clock at `watcher.clock`."""
        watch = watch or {"models": (BASE,)}
        return Watcher(Watch(**watch), recipe(settings), Hub(StoppedClock(), self.api(token)), worker)

    def api(self, token: str = "hf_test") -> HfApi:
        return HfApi(endpoint=self.hub.url, token=token)

    def poll(self, worker: Any, **given: Any) -> list[Decision]:
        return list(self.watcher(worker, **given).poll())


def recipe(settings: dict[str, Any] | None = None) -> Recipe:
    return Recipe.of(resolve({"model": "", "concept": "covid", "methods": [], "publish": {"form": "patch"}, **(settings or {})},
                             environment={}))


def weights(rows: int, width: int = 2) -> bytes:
    """A safetensors file of one float32 matrix."""
    size = 4 * rows * width
    header = json.dumps({"w": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * size


def report(base: str, commit: str, concept: str = "covid-19-pandemic", gates: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"model": {"repo_id": base, "commit": commit}, "concept": {"name": concept}, "efficacy": 0.5, "recovered": 0.25,
            "gates": list(gates)}


def publish(hub: LoopbackHub, target: str, made: dict[str, Any], folder: Path) -> str:
    (folder / "ember").mkdir(parents=True, exist_ok=True)
    (folder / "ember/report.json").write_text(json.dumps(made))
    return hub.add_repo(target, folder)
