"""Says on standard error what is being measured, and how long each piece has taken."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Lap:
    """Seconds of one piece, known when it is done."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Clock:
    """Progress of a long measurement, one line for each finished step: for a log, not for a terminal."""

    start: float = field(default_factory=time.monotonic)

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        began = time.monotonic()
        yield lambda count=1: None
        if time.monotonic() - began > 20:
            self.say("step", f"{title}, {total} steps, {time.monotonic() - began:.0f} s")

    @contextmanager
    def piece(self, title: str) -> Iterator[Lap]:
        lap, began = Lap(), time.monotonic()
        yield lap
        lap.seconds = round(time.monotonic() - began, 1)
        self.say("piece", f"{title}, {lap.seconds:.0f} s")

    def say(self, stage: str, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - self.start:7.0f}  {stage:<6} {text}\n")
        sys.stderr.flush()
