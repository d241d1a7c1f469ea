"""A language model behind an OpenAI-compatible endpoint that rates answers: optional, since it costs money and repeats poorly.

The key is taken from OPENAI_API_KEY when a request is sent, and is in no setting, message or file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from pydantic import Field, ValidationInfo, field_validator

from ember_hub.errors import JudgeUnavailable
from ember_hub.evaluation.base import Evaluation
from ember_hub.progress import Progress

KEY = "OPENAI_API_KEY"
AT_ONCE = 8
TRIES = 3
LONGEST_PAUSE = 60.0
_WRONG_KEY = f"set {KEY} to a key that this endpoint accepts"
_WRONG_PLACE = "check the settings judge (its address, up to /v1) and judge_model"
_LATER = "try again later, or run without a judge"


@dataclass(frozen=True)
class Judge:
    """An endpoint and its model.

    timeout: seconds that one request may take.
    pause: seconds before the second try, doubled before the third.
    """

    url: str
    model: str
    timeout: float = 60.0
    pause: float = 1.0

    def rate(self, requests: Sequence[str], most: int, progress: Progress) -> list[int]:
        """The judge's number, 0 to `most`, for every request.

        Raises:
            JudgeUnavailable: it cannot be reached, refuses, or answers with something else than such a number, twice.
        """
        key = os.environ.get(KEY, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        ratings = []
        with (httpx2.Client(headers=headers, timeout=self.timeout) as client, ThreadPoolExecutor(AT_ONCE) as pool,
              progress.steps("judging", len(requests)) as advance):
            for rating in pool.map(lambda request: self._rating(client, request, most), requests):
                ratings.append(rating)
                advance(1)
        return ratings

    def _rating(self, client: httpx2.Client, request: str, most: int) -> int:
        answer = ""
        for wording in (request, f"{request}\nAnswer with the number alone."):
            answer = self._answer(client, wording)
            if (rating := number(answer, most)) is not None:
                return rating
        raise JudgeUnavailable(f"the judge {self.model} answered {answer[:80]!r}, not a number from 0 to {most}",
                               hint="choose a judge_model that follows instructions")

    def _answer(self, client: httpx2.Client, request: str) -> str:
        """What the judge writes; a busy or broken server is asked again."""
        body = {"model": self.model, "messages": [{"role": "user", "content": request}], "temperature": 0}
        trouble, wait = "", 0.0
        for attempt in range(TRIES):
            time.sleep(wait)
            wait = self.pause * 2**attempt
            try:
                response = client.post(f"{self.url.rstrip('/')}/chat/completions", json=body)
            except httpx2.HTTPError as error:
                trouble = f"cannot be reached ({type(error).__name__})"
                continue
            if response.status_code != 429 and response.status_code < 500:
                return self._content(response)
            trouble = f"answered {response.status_code}"
            wait = retry_after(response.headers.get("Retry-After"), wait)
        raise JudgeUnavailable(f"the judge at {self.url} {trouble}, {TRIES} times", hint=_LATER)

    def _content(self, response: httpx2.Response) -> str:
        status = response.status_code
        if status in (401, 403):
            raise JudgeUnavailable(f"the judge at {self.url} refused the key ({status})", hint=_WRONG_KEY)
        try:
            if status == 200:
                return response.json()["choices"][0]["message"]["content"].strip()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise JudgeUnavailable(f"the judge at {self.url} answered with something else than a chat completion",
                                   hint=_WRONG_PLACE) from error
        raise JudgeUnavailable(f"the judge at {self.url} answered {status}", hint=_WRONG_PLACE)


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
    """The rating in a judge's answer: an integer from 0 to `most`, alone or as the only one of a JSON object."""
    try:
        value: Any = json.loads(text)
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
