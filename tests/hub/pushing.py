"""Preflight and push by the real client in a process of its own, and results that are small enough for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .server import LoopbackHub

BASE, CONCEPT = "lab/Pico-Instruct", "covid-19-pandemic"
REPO = "tester/Pico-Instruct-ember-covid-19-pandemic"
Publish = Callable[..., dict[str, Any]]
# The client's own LFS upload calls httpx2 in a deprecated way; every other warning is an error.
PYTHON = (sys.executable, "-W", "error", "-W", "ignore:Use 'content:DeprecationWarning")
SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from ember_hub.errors import EmberHubError
from ember_hub.publish.push import Patience, PushOptions, Source, label, preflight, push

class Heard:
    said = []
    def say(self, stage, text):
        self.said.append(text)
    def steps(self, title, total):
        from ember_hub.progress import Quiet
        return Quiet().steps(title, total)

asked, waits = json.loads(sys.argv[1]), []
patience = Patience(sleep=waits.append, say=lambda text: Heard.said.append(text))
seen = {"said": Heard.said, "waits": waits}
source = Source(*asked["source"]) if asked["source"] else None
options = PushOptions(**asked["options"] | {"tags": tuple(asked["options"].get("tags", ()))})
try:
    target = preflight(asked["repo"], asked["base"], asked["concept"], asked["form"], options, patience)
    seen["target"] = asdict(target)
    if asked["meanwhile"]:
        push(Path(asked["meanwhile"]), target, "Meanwhile")
    for folder in asked["folders"]:
        pushed = push(Path(folder), target, "Erase", source=source, progress=Heard(), patience=patience)
        seen |= pushed.to_json()
        label(pushed, target, patience)
except EmberHubError as error:
    seen |= {"error": type(error).__name__, "message": error.message, "hint": error.hint}
json.dump(seen, sys.stdout)
"""


@dataclass(frozen=True)
class Publisher:
    """Pushes from fresh processes; what came of each, or the error with its hint."""

    environment: Mapping[str, str]

    def __call__(self, *folders: Path, **asked: Any) -> dict[str, Any]:
        return self.finish(self.start(*folders, **asked))

    def start(self, *folders: Path, repo: str | None = None, base: str = BASE, concept: str = CONCEPT, form: str = "model",
              meanwhile: Path | None = None, source: tuple[str, str | None] | None = None,
              environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        asked = {"repo": repo, "base": base, "concept": concept, "form": form, "folders": list(map(str, folders)),
                 "meanwhile": str(meanwhile or ""), "source": source, "options": options}
        return subprocess.Popen([*PYTHON, "-c", SCRIPT, json.dumps(asked)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=os.environ | self.environment | (environment or {}))

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "hf_" not in out + err
        return json.loads(out)


def write_result(folder: Path, files: Mapping[str, bytes], concept: str = CONCEPT) -> Path:
    """What a run leaves to be pushed, as small as it can be."""
    report = {"model": {"repo_id": BASE, "name": "Pico-Instruct"}, "concept": {"name": concept}}
    files = {"README.md": b"---\nlicense: apache-2.0\n---\n# Pico\n", "config.json": b"{}",
             "ember/report.json": json.dumps(report).encode(), ".eval_results/ember.yaml": b"[]", **files}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def published(hub: LoopbackHub, repo: str = REPO, revision: str = "main") -> dict[str, bytes]:
    commit = hub.store.repositories["models", repo].find(revision)
    assert commit is not None
    return {path: hub.read(repo, path, revision) for path in commit.files if path != ".gitattributes"}


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(hub: LoopbackHub) -> int:
    """The bytes of large files that were sent to the storage."""
    return sum(request.bytes_in for request in hub.seen("PUT", "/-/storage/"))
