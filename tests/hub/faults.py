"""What the loopback Hub remembers of each request, and what it may be told to do wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .calls import Reply


@dataclass
class Request:
    """One request as it was served. `status` is None when the connection was cut before the answer began."""

    method: str
    path: str
    query: str
    range: str | None
    token: str | None
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class Fault:
    method: str
    path_regex: str
    times: int
    refusal: Reply | None = None
    cut_after: int | None = None
    change: Callable[[Reply], Reply] | None = None
    skip: int = 0
    """How many matching requests are let through first."""
