"""Progress for people: one line for each finished stage, and a bar with an estimate where someone is watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

REDRAW = 0.2
SHOWN_AFTER = 1.0


class Live:
    """Writes to standard error. Bars only on a terminal; nested work is drawn by the innermost bar alone."""

    def __init__(self, stages: bool = True) -> None:
        self._stages = stages
        self._depth = 0
        self._drawn = False

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        start, done, last = time.monotonic(), 0, 0.0
        self._depth += 1

        def advance(count: int = 1) -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            if sys.stderr.isatty() and now - start > SHOWN_AFTER and now - last > REDRAW:
                last = now
                self._draw(title, done, total, now - start)

        try:
            yield advance
        finally:
            self._depth -= 1
            if self._drawn and self._depth == 0:
                self._clear()

    def say(self, stage: str, text: str) -> None:
        if self._stages:
            self._clear()
            click.echo(f"{stage:<10} {text}", err=True)

    def _draw(self, title: str, done: int, total: int, seconds: float) -> None:
        share = min(1.0, done / total) if total else 0.0
        left = f"{_clock(seconds / share * (1 - share))} left" if share > 0 else ""
        bar = "━" * round(24 * share) + "─" * (24 - round(24 * share))
        click.echo(f"\r\033[K{title[:28]:<28} {bar} {share:4.0%} {left}", err=True, nl=False)
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            click.echo("\r\033[K", err=True, nl=False)
            self._drawn = False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
