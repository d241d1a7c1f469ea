"""A real browser under a test's control: any of the Chromium family, over its own pipe, without another package.

Named by EMBER_HUB_BROWSER (a command line) or found on PATH.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell",
         "microsoft-edge")
PATIENCE = 60
"""Seconds after which a browser that says nothing is given up."""


def browser_command() -> list[str] | None:
    """The browser to start; None where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return shlex.split(os.environ.get("EMBER_HUB_BROWSER", "")) or ([found] if found else None)


@dataclass
class Browser:
    """One tab. `said` holds what it reported: requests, complaints of the console."""

    orders: int
    answers: int
    session: str = ""
    said: list[dict[str, Any]] = field(default_factory=list)
    _count: int = 0
    _rest: bytes = b""

    def show(self, page: Path, width: int, scheme: str) -> None:
        """Load the page in a window of that width, 800 high, `light` or `dark`."""
        self.said.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        while not any(message["method"] == "Page.loadEventFired" for message in self.said):
            self.said.append(self._message())

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def requests(self) -> list[str]:
        return [m["params"]["request"]["url"] for m in self.said if m["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        return [m["params"]["entry"]["text"] for m in self.said if m["method"] == "Log.entryAdded"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        order = {"id": self._count, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.orders, json.dumps(order).encode() + b"\0")
        while (message := self._message()).get("id") != self._count:
            self.said.append(message)
        assert "error" not in message, message
        return message["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.answers], [], [], PATIENCE)
            received = os.read(self.answers, 1 << 16) if ready else b""
            assert received, "the browser ended, or says nothing"
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


@contextmanager
def open_browser(command: list[str], profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, gone when the block ends."""
    (orders_in, orders), (answers, answers_out) = os.pipe(), os.pipe()
    words = [*command, "--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank"]
    # The browser reads orders from descriptor 3 and answers on 4, whatever numbers they have here.
    shell = f'exec 8<&{orders_in} 9>&{answers_out}; exec 3<&8 4>&9 8<&- 9>&-; exec "$@"'
    process = subprocess.Popen(["bash", "-c", shell, "bash", *words], pass_fds=(orders_in, answers_out), stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, start_new_session=True)
    os.close(orders_in)
    os.close(answers_out)
    browser = Browser(orders, answers)
    try:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.call(f"{domain}.enable")
        yield browser
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(orders)
        os.close(answers)
