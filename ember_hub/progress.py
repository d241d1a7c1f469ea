"""Progress of long work, as a protocol: quiet in a library, a live bar in the command line.

Anything longer than two seconds reports `steps(total, title)`; nobody below the command line knows who listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    def steps(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Work of `total` equal steps; the yielded function is called with the number of steps just done."""
        ...

    def say(self, stage: str, text: str) -> None:
        """One line when a stage is done: what, how much, where."""
        ...


class Quiet:
    """The default: says nothing."""

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done=1: None

    def say(self, stage: str, text: str) -> None:
        pass
