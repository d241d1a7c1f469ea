"""`make bench`: every benchmark, each a ratio within one run; a small JSON file and a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

RESULT = Path("bench.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller problems, a few minutes in all")
    parser.add_argument("--embeddings", type=Path, help="safetensors file whose embedding rows the factorization is timed on")
    given = parser.parse_args()
    from tests.benchmarks import rewrite, scoring, smf

    found = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
             "quick": given.quick, "smf": smf.measure(given.quick, given.embeddings),
             "scoring": scoring.measure(given.quick), "rewrite": rewrite.measure(given.quick)}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for part in ("smf", "scoring", "rewrite"):
        for key, value in _flat(found[part]):
            sys.stdout.write(f"{part:<8} {key:<44} {value:.4g}\n" if isinstance(value, float) else f"{part:<8} {key:<44} {value}\n")
    sys.stdout.write(f"written to {RESULT}\n")


def _flat(table: dict, prefix: str = "") -> list[tuple[str, object]]:
    rows = []
    for key, value in table.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows


if __name__ == "__main__":
    main()
