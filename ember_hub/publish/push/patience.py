"""Waiting for a Hub that is busy: as long as it asks, within a bound; and counting what goes out meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ember_hub.errors import PushRejected

if TYPE_CHECKING:
    from httpx2 import Request, Response

T = TypeVar("T")
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_STEP = 8.0


class Traffic:
    """The bytes of the request bodies that went out."""

    def __init__(self) -> None:
        self.sent = 0
        self._lock = threading.Lock()

    def count(self, request: Request) -> None:
        with self._lock:
            self.sent += int(request.headers.get("Content-Length", 0))


@dataclass(frozen=True)
class Patience:
    """How a push waits for a Hub that is busy or cannot be reached.

    The client backs off by itself in uploads and listings, without a bound on what the Hub asks for; this bounds it,
    and does the same for all other calls.
    """

    tries: int = 5
    longest: float = 300.0
    """Seconds. The Hub counts requests in windows of five minutes, so that it seldom asks for more."""
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = lambda text: None
    """Where it is told that there is a wait."""

    def call(self, work: Callable[[], T], settled: Callable[[], T | None] = lambda: None) -> T:
        """Do the work, and again while the Hub is busy.

        Args:
            settled: asked after each failure: the result, if the work took effect and only its answer was lost.
        """
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        for attempt in range(self.tries):
            try:
                return work()
            except (httpx2.TransportError, HfHubHTTPError) as error:
                response = error.response if isinstance(error, HfHubHTTPError) else None
                if response is not None and response.status_code not in _BUSY:
                    raise
                if (found := settled()) is not None:
                    return found
                if attempt + 1 == self.tries:
                    raise
                asked = _asked_wait(response) if response is not None else None
                wait = min(_LONGEST_STEP, 2.0**attempt) if asked is None else asked
                self.say(f"the Hub {f'answers {response.status_code}' if response is not None else 'cannot be reached'}: "
                         f"again in {wait:.0f} s")
                self.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def on_the_wire(self) -> Iterator[Traffic]:
        """Inside, the client's requests are counted, and an answer that asks for too long a wait ends the push."""
        from huggingface_hub import get_session

        session, traffic = get_session(), Traffic()
        before = session.event_hooks
        session.event_hooks = {"request": [*before["request"], traffic.count],
                               "response": [*before["response"], self._refuse_long_wait]}
        try:
            yield traffic
        finally:
            session.event_hooks = before

    def _refuse_long_wait(self, response: Response) -> None:
        if response.status_code in _BUSY and (asked := _asked_wait(response)) is not None and asked > self.longest:
            raise PushRejected(f"the Hub asks to wait {asked:,.0f} s before the next request",
                               hint="push again after that time, what was uploaded is kept")


def _asked_wait(response: Response) -> float | None:
    """The seconds that a busy Hub asks to wait, as the client reads them."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isdigit() and text.isascii() else None
