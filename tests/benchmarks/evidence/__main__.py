"""`make evidence`: does EMBER make erasure last? Measured piece by piece on a real model; pieces that are there are kept.

    python -m tests.benchmarks.evidence --model FOLDER --concepts "Harry Potter,Baseball" --data FOLDER --general FILE.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

from ember_hub.errors import ConfigError, EmberHubError

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

KEPT = Path(__file__).parents[1] / "results"
LONGEST = 400
"""Characters of a general question: longer ones cost more than they tell."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.evidence", description=__doc__)
    parser.add_argument("--model", required=True, help="folder, Hub repository or GGUF file")
    parser.add_argument("--name", help="folder of the results (default: the model's name)")
    parser.add_argument("--concepts", required=True, help="names, with commas between them")
    parser.add_argument("--data", type=Path, help="folder in the layout of the paper's data; built-in packs are used without it")
    parser.add_argument("--general", type=Path, help="general questions, JSON lines: id, question, choices, answer")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/ember-hub/evidence", help="folder for edits")
    parser.add_argument("--trials", type=int, default=4, help="settings of RMU that are tried")
    parser.add_argument("--strength", type=float, help="strength of the edit, in place of the one that a search would choose")
    parser.add_argument("--rmu", metavar="KEY=VALUE,...", help="settings of RMU, in place of those that a search would choose")
    parser.add_argument("--after-ember", action="store_true", help="search RMU's settings on the model that EMBER edited")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="train and relearn the arms of the claim again with these")
    parser.add_argument("--only", default="", help="regular expression: pieces that it finds nothing in are left for another run")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    if given.rmu and given.after_ember:
        parser.error("with --rmu no settings are searched, so --after-ember says nothing")
    try:
        run(given)
    except EmberHubError as error:
        sys.exit(f"Error: {error}\nHint: {error.hint}")


def run(given: argparse.Namespace) -> None:
    from ember_hub.concepts.check import require_fit
    from ember_hub.evaluation.token_tree import tried
    from ember_hub.methods.registry import check_settings
    from ember_hub.source.load import load
    from ember_hub.source.ref import ModelRef
    from ember_hub.source.resolve import resolve
    from tests.benchmarks.evidence.clock import Clock
    from tests.benchmarks.evidence.study import Study, with_general
    from tests.benchmarks.evidence.table import table

    # Everything that can be wrong with what was given is found before hours of work, not in the middle of them.
    packs = [_pack(concept.strip(), given.data, given.work) for concept in given.concepts.split(",")]
    for pack in packs:
        require_fit(pack)
    settings = _settings(given.rmu)
    check_settings("rmu", settings or {})
    clock = Clock()
    base = resolve(ModelRef.parse(given.model), clock)
    name = given.name or base.name
    loaded = tried(load(base.folder, dtype=given.dtype, progress=clock))
    for pack in packs:
        if given.general:
            pack = with_general(pack, _general(given.general))
        study = Study(loaded, base.folder, pack, KEPT / name / pack.name, given.work, given.trials, clock, given.strength,
                      settings, given.after_ember)
        for seed in (study.seed, *given.seeds):
            replace(study, seed=seed).run(given.only)
    sys.stdout.write(table(KEPT / name))


def _settings(text: str | None) -> dict[str, float] | None:
    pairs = [one.partition("=") for one in text.split(",")] if text else []
    try:
        return {key.strip(): float(value) for key, _, value in pairs} or None
    except ValueError as error:
        raise ConfigError(f"--rmu {text!r} is no list of numbers", hint="write --rmu steering=4,steps=240") from error


def _pack(name: str, data: Path | None, work: Path):
    from ember_hub.concepts.paper import import_concept
    from ember_hub.concepts.registry import find

    if data is None:
        return find(name)
    return import_concept(data, name, work / "packs" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))


def _general(path: Path) -> tuple:
    """60 questions of the file for tuning and 100 for testing, drawn at random among those that are not long."""
    from ember_hub.concepts.pack import Question

    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
            if len(row["question"]) <= LONGEST and len(set(row["choices"])) == len(row["choices"])]
    return tuple(Question(str(row["id"]), "tune" if i < 60 else "test", row["question"].strip(), tuple(row["choices"]),
                          row["choices"][row["answer"]]) for i, row in enumerate(random.Random(0).sample(rows, 160)))


if __name__ == "__main__":
    main()
