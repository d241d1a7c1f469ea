"""A running loopback Hub, and the environment in which the real client talks to it.

The client reads `HF_ENDPOINT` when it is imported: run it, or the command line, in a subprocess with
`env=os.environ | hub_environment`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .pushing import Publisher, write_result
from .server import LoopbackHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as running:
        yield running
    assert running.crashes == []


@pytest.fixture
def hub_environment(hub: LoopbackHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_test",
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        # A proxy that the machine uses for the internet must not see the loopback.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


@pytest.fixture
def publish(hub_environment: dict[str, str]) -> Publisher:
    return Publisher(hub_environment)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_result(tmp_path / "result", {"model.safetensors": b"erased" * 100})
