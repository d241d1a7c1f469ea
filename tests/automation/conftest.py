from __future__ import annotations

from pathlib import Path

import pytest

from tests.automation.world import World
from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)
from tests.hub.server import LoopbackHub


@pytest.fixture
def world(hub: LoopbackHub, tmp_path: Path) -> World:  # noqa: F811
    return World(hub, tmp_path)
