"""How a Hub is asked: where it is, by whom, and with how much patience."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, TypeVar

from ember_hub.errors import SourceError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_KEPT = "run the same command again; what was fetched is kept"
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_PAUSE = 60.0
_LONGEST_ASKED_PAUSE = 900.0


@dataclass(frozen=True)
class Connection:
    """Which Hub is asked, by whom, and with how much patience.

    Attributes:
        endpoint: address of the Hub; None is the client's own (`HF_ENDPOINT`).
        token: who asks; None is the client's own (`HF_TOKEN`, or the login).
        parallel: requests at a time.
        tries: failures in a row, without a byte in between, after which a request is given up.
        first_pause: seconds after the first of them; doubles with each further one.
    """

    endpoint: str | None = None
    token: str | None = None
    parallel: int = 16
    tries: int = 6
    first_pause: float = 1.0

    def patiently(self, name: str, act: Callable[[], T], *, reached: Callable[[], int] = lambda: 0,
                  stopped: threading.Event | None = None) -> T:
        """What `act` returns, once it does without a passing failure.

        Args:
            name: what is asked for, for the message.
            reached: how far `act` has come; tries are counted anew when that grew.
            stopped: once set, no further try is made.

        Raises:
            SourceError: too many failures in a row, or the server asks for a long pause.
        """
        stopped = stopped or threading.Event()
        failures, before = 0, reached()
        while True:
            try:
                return act()
            except PassingFailure as failure:
                failures = 1 if reached() > before else failures + 1
                before = reached()
                pause = self._pause(failures) if failure.pause is None else failure.pause
                if pause > _LONGEST_ASKED_PAUSE:
                    raise SourceError(f"{name} cannot be read: the server wants to be left alone for {pause:,.0f} s",
                                      hint=f"wait, then {_KEPT}") from failure
                if failures >= self.tries or stopped.wait(pause):
                    raise SourceError(f"{name} cannot be read: {failure}",
                                      hint=f"check the connection, then {_KEPT}") from failure

    def _pause(self, failures: int) -> float:
        # Requests that failed together should not come back together.
        return min(_LONGEST_PAUSE, self.first_pause * 2 ** (failures - 1)) * random.uniform(0.5, 1.5)


class Traffic:
    """Requests made and bytes received, counted from several threads; bodies only, not headers."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, *, requests: int = 0, bytes: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes += bytes


class PassingFailure(Exception):
    """A failure that another try may heal, after a pause of so many seconds if the server said so."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


def raise_if_passing(response: httpx2.Response) -> None:
    """Raises PassingFailure for an answer that a later try may better."""
    if response.status_code in _PASSING:
        raise PassingFailure(f"the server answers {response.status_code}", _asked_pause(response.headers))


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server wants to be left alone, if it says so."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    asked = headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time())
    except ValueError:
        return None


def said(error: Exception) -> str:
    """What an error of the HTTP client says, or its name when it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
