"""A language model behind an OpenAI-compatible endpoint that rates answers: optional, since it costs money and repeats poorly.

The key is taken from OPENAI_API_KEY when a request is sent, and is in no setting, message or file.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

import httpx2
from pydantic import Field, ValidationInfo, field_validator

from ember_hub.errors import JudgeUnavailable
from ember_hub.evaluation.base import Evaluation
from ember_hub.progress import Progress

KEY = "OPENAI_API_KEY"
AT_ONCE = 8
TRIES = 3
TRIES_WHEN_BUSY = 7
"""A limit of requests or tokens per minute takes up to a minute to pass."""
LONGEST_PAUSE = 60.0
FEW = 3
"""So many answers without one rating are the judge's fault; fewer may be ones that it would not look at."""
_WRONG_KEY = f"set {KEY} to a key that this endpoint accepts"
_WRONG_PLACE = "check the settings judge (its address, up to /v1) and judge_model"
_LATER = "try again later, or run without a judge"
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_DRESSED = re.compile(r"[*_`\s]*([0-9]{1,9})[*_`.\s]*")


@dataclass(frozen=True)
class Judge:
    """An endpoint and its model.

    timeout: seconds that one request may take.
    pause: seconds before the second try, doubled before each further one.
    """

    url: str
    model: str
    timeout: float = 60.0
    pause: float = 1.0
    _has_own_temperature: Event = field(default_factory=Event, init=False, repr=False, compare=False)
    """Set once the endpoint has refused a temperature, as those of models that think do."""

    def rate(self, requests: Sequence[str], most: int, progress: Progress) -> list[int | None]:
        """The judge's number, 0 to `most`, for every request; None where it gave none, twice: it may refuse to look at a text.

        Raises:
            JudgeUnavailable: it cannot be reached, refuses the request, or rates none of several answers.
        """
        found = []
        with (httpx2.Client(headers=_headers(), timeout=self.timeout) as client, ThreadPoolExecutor(AT_ONCE) as pool,
              progress.steps("judging", len(requests)) as advance):
            for one in pool.map(lambda request: self._rating(client, request, most), requests):
                found.append(one)
                advance(1)
        if len(found) >= FEW and all(rating is None for rating, _ in found):
            raise JudgeUnavailable(f"the judge {self.model} answered {found[0][1][:80]!r}, not a number from 0 to {most}, "
                                   f"and gave none of {len(found)} answers a rating",
                                   hint="choose a judge_model that follows instructions")
        return [rating for rating, _ in found]

    def _rating(self, client: httpx2.Client, request: str, most: int) -> tuple[int | None, str]:
        """The rating, and the words in which it was given or not."""
        answer = ""
        for wording in (request, f"{request}\nAnswer with the number alone."):
            answer = self._answer(client, wording)
            if (rating := number(answer, most)) is not None:
                return rating, answer
        return None, answer

    def _answer(self, client: httpx2.Client, request: str) -> str:
        """What the judge writes; a broken server is asked again, and a busy one more patiently."""
        trouble, said, wait, broken = "", "", 0.0, 0
        for attempt in range(TRIES_WHEN_BUSY):
            time.sleep(wait)
            wait = self.pause * 2**attempt
            try:
                response = self._post(client, request)
            except httpx2.HTTPError as error:
                trouble, said, is_busy = f"cannot be reached ({type(error).__name__})", "", False
            else:
                if response.status_code != 429 and response.status_code < 500:
                    return self._content(response)
                trouble, said, is_busy = f"answered {response.status_code}", _complaint(response), response.status_code == 429
                wait = retry_after(response.headers.get("Retry-After"), wait)
            broken += not is_busy
            if broken == TRIES:
                break
        raise JudgeUnavailable(f"the judge at {self.url} {trouble}, {attempt + 1} times{said}", hint=_LATER)

    def _post(self, client: httpx2.Client, request: str) -> httpx2.Response:
        """One request, at temperature 0 unless the model has a temperature of its own."""
        address = f"{self.url.rstrip('/')}/chat/completions"
        body = {"model": self.model, "messages": [{"role": "user", "content": request}]}
        if not self._has_own_temperature.is_set():
            response = client.post(address, json=body | {"temperature": 0})
            if response.status_code != 400 or "temperature" not in _complaint(response).lower():
                return response
            self._has_own_temperature.set()
        return client.post(address, json=body)

    def _content(self, response: httpx2.Response) -> str:
        """The text of a completion; empty where the judge, or a filter before it, would not answer."""
        status = response.status_code
        if status in (401, 403):
            raise JudgeUnavailable(f"the judge at {self.url} refused the key ({status})", hint=_WRONG_KEY)
        if status == 400 and "content_filter" in response.text:
            return ""
        try:
            if status == 200:
                content = response.json()["choices"][0]["message"].get("content")
                return "" if content is None else content.strip()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise JudgeUnavailable(f"the judge at {self.url} answered with something else than a chat completion",
                                   hint=_WRONG_PLACE) from error
        raise JudgeUnavailable(f"the judge at {self.url} answered {status}{_complaint(response)}", hint=_WRONG_PLACE)


class Judged(Evaluation):
    """An evaluation that may ask a judge, and is reproducible when it does not."""

    judge: str | None = Field(None, description=f"Address of an OpenAI-compatible endpoint that rates answers; key in {KEY}.")
    judge_model: str | None = Field(None, description="Model that the judge's endpoint shall use.", validate_default=True)

    @property
    def reproducible(self) -> bool:
        return self.judge is None

    @field_validator("judge")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"not an address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError("not an http(s) address")
        if parts.userinfo or parts.query:
            raise ValueError(f"a key belongs into {KEY}, not into the address")
        return url

    @field_validator("judge_model")
    @classmethod
    def _goes_with_judge(cls, model: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("judge") and not model:
            raise ValueError("name the model that the judge shall use")
        return model

    def _judge(self) -> Judge | None:
        return Judge(self.judge, self.judge_model) if self.judge and self.judge_model else None


def number(text: str, most: int) -> int | None:
    """The rating in a judge's answer: an integer from 0 to `most`, alone or as the only one of a JSON object.

    Emphasis, a full stop and a fence around it do not count.
    """
    fenced = _FENCED.fullmatch(text.strip())
    bare = fenced[1] if fenced else text
    dressed = _DRESSED.fullmatch(bare)
    try:
        value: Any = int(dressed[1]) if dressed else json.loads(bare)
    except ValueError:
        return None
    if isinstance(value, dict):
        numbers = [v for v in value.values() if type(v) is int]
        value = numbers[0] if len(numbers) == 1 else None
    return value if type(value) is int and 0 <= value <= most else None


def retry_after(header: str | None, otherwise: float) -> float:
    """Seconds to wait: what the server asked for, in either form of the header, but not for ever."""
    if header is None:
        return otherwise
    try:
        seconds = float(header) if header.strip().isdigit() else parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return otherwise
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def _key() -> str:
    return os.environ.get(KEY, "").strip()


def _headers() -> dict[str, str]:
    key = _key()
    if not (key.isascii() and key.isprintable()):
        raise JudgeUnavailable(f"{KEY} holds characters that no key has", hint=_WRONG_KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _complaint(response: httpx2.Response) -> str:
    """What the server says is wrong, to be put behind the status; without the key, should it repeat that."""
    try:
        body = response.json()
    except ValueError:
        return ""
    error = body.get("error", body) if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    if not isinstance(said, str) or not said.strip():
        return ""
    told = " ".join((said.replace(key, KEY) if (key := _key()) else said).split())
    return f": {told[:200]}"
