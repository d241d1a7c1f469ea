"""What GitHub gives to a step: inputs in its environment, and files to answer in."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ember_hub.errors import ConfigError

SUMMARY_LIMIT = 1 << 20
"""Bytes that GitHub shows of a step's summary; a longer one is dropped as a whole."""


@dataclass(frozen=True)
class Step:
    """One step of a job, as its environment describes it."""

    environment: Mapping[str, str]

    def asked(self, name: str, default: str = "") -> str:
        """An input of the action, without the space around it."""
        return self.environment.get(f"INPUT_{name.replace('-', '_').upper()}", "").strip() or default

    def words(self, name: str) -> list[str]:
        """An input that is a list: names between spaces, commas or line breaks."""
        return re.split(r"[\s,]+", self.asked(name)) if self.asked(name) else []

    def lines(self, name: str) -> list[str]:
        """An input with one value a line."""
        return [line.strip() for line in self.asked(name).splitlines() if line.strip()]

    def is_set(self, name: str) -> bool:
        """An input that is `true` or `false`.

        Raises:
            ConfigError: it is neither.
        """
        value = self.asked(name, "false").lower()
        if value not in ("true", "false"):
            raise ConfigError(f"the input {name} is {value!r}", hint="write true or false")
        return value == "true"

    @property
    def scratch(self) -> Path:
        """A folder that lasts as long as the job."""
        return Path(self.environment.get("RUNNER_TEMP") or ".")

    def output(self, values: Mapping[str, object]) -> None:
        """Set outputs of the step; None becomes an empty text."""
        # A delimiter that nobody can guess: no value can end itself and set another output.
        end = f"end-{secrets.token_hex(16)}"
        self._append("GITHUB_OUTPUT", "".join(f"{name}<<{end}\n{_shown(value)}\n{end}\n" for name, value in values.items()))

    def summarize(self, text: str) -> None:
        """Add Markdown to the summary of the job."""
        if len(text.encode()) > SUMMARY_LIMIT - 1024:
            text = text.encode()[:SUMMARY_LIMIT - 2048].decode(errors="ignore") + "\n\n…\n\nThe rest is in the report.\n"
        self._append("GITHUB_STEP_SUMMARY", text)

    def complain(self, message: str) -> None:
        """Mark the job with an error that GitHub shows at its top."""
        sys.stdout.write(f"::error title=ember-hub::{_escaped(message)}\n")
        sys.stdout.flush()

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """What is written meanwhile is no command to the runner, whatever a model's or a concept's name may hold."""
        token = secrets.token_hex(16)
        sys.stdout.write(f"::stop-commands::{token}\n")
        sys.stdout.flush()
        try:
            yield
        finally:
            sys.stdout.write(f"::{token}::\n")
            sys.stdout.flush()

    def _append(self, variable: str, text: str) -> None:
        path = self.environment.get(variable)
        if not path:
            raise ConfigError(f"{variable} is not set",
                              hint="this is a step of a GitHub workflow; on your own machine use `ember-hub`")
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")


def _shown(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
