from __future__ import annotations

from pathlib import Path

import pytest

from tests.github.runner import Runner
from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner without a connection to any Hub."""
    (tmp_path / "workspace").mkdir()
    (tmp_path / "temp").mkdir()
    return Runner(tmp_path / "workspace", tmp_path / "temp", {"EMBER_HUB_CACHE": str(tmp_path / "cache")})


@pytest.fixture
def connected(runner: Runner, hub_environment: dict[str, str]) -> Runner:  # noqa: F811
    """A runner that reaches the loopback Hub; the token is the workflow's to give."""
    runner.environment = {**runner.environment, **{k: v for k, v in hub_environment.items() if k != "HF_TOKEN"}}
    return runner
