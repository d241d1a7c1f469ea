"""Runs `ember-hub` for a step: what it says is shown as it comes, what it answers is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from ember_hub.automation.github.runner import Step

GATE_FAILED = 3


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, standard output, and the error it told."""

    code: int
    answer: str
    complaint: str
    """Its last `Error:` and `Hint:` lines; empty if it had none."""


def run(step: Step, words: Sequence[str]) -> Ended:
    """Run `ember-hub` with these words. The token is handed over in the environment alone."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if token := step.asked("token"):
        environment["HF_TOKEN"] = token
    told: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer, step.unheard():
        # Python that prints UTF-8 on both ends, whatever the locale of the runner.
        process = subprocess.Popen([sys.executable, "-X", "utf8", "-m", "ember_hub.cli", *words], env=environment, stdout=answer,
                                   stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if line.startswith(("Error: ", "Hint: ")):
                told.append(line.strip())
        code = process.wait()
        sys.stderr.flush()
        answer.seek(0)
        return Ended(code, answer.read(), "\n".join(told[-2:]) or (f"ember-hub ended with exit code {code}" if code else ""))
