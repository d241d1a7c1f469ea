"""The Hub as a watcher needs it: patient with a busy server, told in our errors, and read by the server's clock.

Times that matter are the Hub's own (the date of a commit, the Date of an answer), so that watchers on machines whose clocks differ
agree on what is new and what has expired.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from ember_hub.errors import AutomationError
from ember_hub.source.hub import hub_errors
from ember_hub.source.ref import ModelRef

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
TRIES = 4
LONGEST_WAIT = 900.0
"""A Hub that asks for more seconds than this is left alone until the next round."""
_BUSY = frozenset({408, 429, 500, 502, 503, 504})


class Clock(Protocol):
    """Time as the watcher sees it; a test passes in one that does not wait."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Hub:
    """Calls of the Hub's client; each is tried again when the server is busy or the connection breaks."""

    def __init__(self, clock: Clock, api: HfApi | None = None) -> None:
        from huggingface_hub import HfApi

        self.clock = clock
        self.api = api or HfApi()

    def ask(self, about: str, call: Callable[[HfApi], T], *, again: bool = True) -> T:
        """The answer to a call about a repository. `again` False: a change that must not be made twice is tried once.

        Raises:
            ModelNotFound, GatedModel, SourceError: as the Hub says, after waiting as long as it asks for.
        """
        with hub_errors(ModelRef("hub", about)):
            return self._patiently(call, TRIES if again else 1)

    def _patiently(self, call: Callable[[HfApi], T], tries: int) -> T:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        for attempt in range(1, tries + 1):
            try:
                return call(self.api)
            except HfHubHTTPError as error:
                wait = _wait(error, attempt)
                if wait is None or wait > LONGEST_WAIT or attempt == tries:
                    raise
            except (httpx2.TransportError, ConnectionError, TimeoutError):
                if attempt == tries:
                    raise
                wait = 4.0 ** (attempt - 1)
            self.clock.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def read(self, repo: str, path: str, revision: str) -> bytes:
        """A small file of a model, past the cache: what matters is what lies there now."""
        from huggingface_hub import get_session, hf_raise_for_status

        def fetch(api: HfApi) -> bytes:
            address = f"{api.endpoint}/{repo}/resolve/{revision}/{path}"
            answer = get_session().get(address, headers=self._headers(api), follow_redirects=True)
            hf_raise_for_status(answer)
            return answer.content

        return self.ask(repo, fetch)

    def now(self) -> datetime:
        """The time by the Hub's clock; by ours when it does not say."""
        from huggingface_hub import get_session

        def fetch(api: HfApi) -> str:
            # Any answer carries the date, a refusal too; this one is small.
            return get_session().get(f"{api.endpoint}/api/models?limit=1", headers=self._headers(api)).headers.get("date", "")

        said = self.ask("the Hub", fetch)
        try:
            return parsedate_to_datetime(said).astimezone(UTC)
        except ValueError:
            return self.clock.now()

    def user(self) -> str:
        """The name of the token's user.

        Raises:
            AutomationError: there is no token.
            SourceError: the Hub does not accept it, or cannot be reached.
        """
        from huggingface_hub import get_token

        if not (self.api.token or get_token()):
            raise AutomationError("there is no token for the Hub",
                                  hint="run `hf auth login`, or set HF_TOKEN, with a token that may write")
        return str(self.ask("the Hub", lambda api: api.whoami())["name"])

    def _headers(self, api: HfApi) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(token=api.token)


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until the next try; None when another try would end the same way."""
    response = getattr(error, "response", None)
    if response is None or response.status_code not in _BUSY:
        return None
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 4.0 ** (attempt - 1)
