"""The run folder: the only code that builds a path in it, and the memory of what is done.

    runs/<model>--<concept>/<hash of what decides the result>/
      run.toml  concept/  features/  edits/  reports/  samples/  out/model/  out/patch/  pushed.json  stages/

A stage is done when its record is there, was made from the same inputs, and every file it names has the recorded hash.
Files are written to a temporary name and renamed, so a killed process leaves nothing that looks whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tomli_w

from ember_hub.errors import DiskError, RunBusy, RunNotFound

CHUNK = 1 << 22


@dataclass(frozen=True)
class Run:
    """One run folder, held by this process while it is open."""

    folder: Path

    @classmethod
    @contextmanager
    def open(cls, folder: Path, settings: Mapping[str, Any]) -> Iterator[Run]:
        """Create or continue the run in `folder`, and keep other processes out of it.

        Raises:
            RunBusy: another process works on it.
            DiskError: the folder cannot be made or written to.
        """
        run = cls(folder)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunBusy(f"another process is working on {folder}",
                              hint="wait for it, or choose another folder with --output") from error
            run._sweep()
            if not (folder / "run.toml").is_file():
                run.write("run.toml", tomli_w.dumps(_without_none(settings)))
            yield run

    def path(self, name: str) -> Path:
        """Where a file of the run lies; its folder exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> Path:
        """Write a text file whole or not at all."""
        with self.writing(name) as partial:
            partial.write_text(text, encoding="utf-8")
        return self.folder / name

    def write_json(self, name: str, value: Any) -> Path:
        return self.write(name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def write_jsonl(self, name: str, rows: list[Mapping[str, Any]]) -> Path:
        return self.write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read_json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary path that becomes `name` when the block ends well, and vanishes otherwise."""
        target = self.path(name)
        partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
        with disk_errors(target):
            try:
                yield partial
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)

    def stage(self, name: str, after: tuple[str, ...], outputs: tuple[str, ...], work: Callable[[], None],
              settings: Any = None) -> bool:
        """Do the work unless it is done; returns whether it had to be done.

        Args:
            after: stages whose outputs this one reads; when one of them was made again, so is this one.
            outputs: files or folders of the run that the work leaves.
            settings: what decides the work besides and is not in the folder's name; when it changed, the work is done again.
        """
        inputs = self.inputs(after, settings)
        if self.is_done(name, inputs):
            return False
        start = time.monotonic()
        with disk_errors(self.folder):
            work()
        files = {str(f.relative_to(self.folder)): _state(f) for output in outputs for f in _files(self.folder / output)}
        self.write_json(f"stages/{name}.json", {"stage": name, "inputs": inputs, "outputs": files,
                                                "seconds": round(time.monotonic() - start, 2)})
        return True

    def inputs(self, after: tuple[str, ...], settings: Any = None) -> dict[str, str]:
        """What a stage is made from, as its record holds it."""
        found = {earlier: self._fingerprint(earlier) for earlier in after}
        return found if settings is None else found | {"settings": digest(settings)}

    def is_done(self, name: str, inputs: Mapping[str, str] | None = None) -> bool:
        """Whether the stage's record is there, made from these inputs, with its files unchanged."""
        record = self._record(name)
        if record is None or (inputs is not None and record["inputs"] != inputs):
            return False
        return all(_is_unchanged(self.folder / file, state) for file, state in record["outputs"].items())

    def sha256(self, name: str, stage: str) -> str:
        """SHA-256 of a file, as the record of the stage that left it has it when nobody wrote to it since."""
        path, state = self.folder / name, (self._record(stage) or {"outputs": {}})["outputs"].get(name)
        stat = path.stat()
        is_known = state is not None and (stat.st_size, stat.st_mtime_ns) == (state["size"], state["modified"])
        return str(state["sha256"]) if is_known else file_sha256(path)

    def seconds(self) -> dict[str, float]:
        """How long each finished stage took when it was done."""
        records = [self._record(p.stem) for p in (self.folder / "stages").glob("*.json")]
        return {r["stage"]: r["seconds"] for r in sorted((r for r in records if r), key=lambda r: r["stage"])}

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            return self.read_json(f"stages/{name}.json")
        except (OSError, ValueError):
            return None

    def _fingerprint(self, name: str) -> str:
        record = self._record(name) or {}
        hashes = {file: state["sha256"] for file, state in record.get("outputs", {}).items()}
        return hashlib.sha256(json.dumps([hashes, record.get("inputs")], sort_keys=True).encode()).hexdigest()[:16]

    def _sweep(self) -> None:
        """Remove what a killed process left half written."""
        for partial in self.folder.rglob(".*.partial-*"):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def digest(value: Any) -> str:
    """A short name for a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return _sha256(file)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what the operating system says about a full or read-only disk into a DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskError(f"no space left while writing {place}",
                            hint="free some space, or choose another disk with --output; finished stages are kept") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise DiskError(f"cannot write to {place}: {error.strerror}",
                            hint="choose a folder you may write to with --output") from error
        raise


def _sha256(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    while chunk := file.read(CHUNK):
        sha.update(chunk)
    return sha.hexdigest()


def _state(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"sha256": file_sha256(path), "size": stat.st_size, "modified": stat.st_mtime_ns}


def _is_unchanged(path: Path, state: Mapping[str, Any]) -> bool:
    """Same size and time of writing as recorded, or else the same content."""
    if not path.is_file() or (stat := path.stat()).st_size != state["size"]:
        return False
    return stat.st_mtime_ns == state["modified"] or file_sha256(path) == state["sha256"]


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a finished run.

    Raises:
        RunNotFound: there is none in the folder.
    """
    path = folder / "reports" / "report.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunNotFound(f"{folder} holds no finished run (no readable reports/report.json)",
                          hint="name the folder that `ember-hub erase` printed, or run it to the end") from error
