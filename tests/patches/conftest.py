"""Patches of tiny models, tied and untied, in two number types; built once, never written into."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ember_hub.publish.patch import make_patch
from ember_hub.source.anatomy import anatomy_of_config
from tests.models import pico_gemma, pico_llama
from tests.publish.edits import base_of, ember_edit

KINDS = ("untied", "tied", "scaled", "untied-bf16", "tied-bf16")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders by kind; the tied one in bfloat16 lies in shards."""
    place = tmp_path_factory.mktemp("bases")
    return {
        "untied": pico_llama(place / "untied"), "tied": pico_llama(place / "tied", tied=True),
        "scaled": pico_gemma(place / "scaled"),
        "untied-bf16": pico_llama(place / "untied-bf16", dtype=torch.bfloat16),
        "tied-bf16": pico_llama(place / "tied-bf16", tied=True, dtype=torch.bfloat16, max_shard_size="60KB"),
    }


@pytest.fixture(scope="session")
def patches(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A patch for each base, by kind."""
    place = tmp_path_factory.mktemp("patches")
    for kind, base in bases.items():
        anatomy = anatomy_of_config(base)
        make_patch(base_of(base, f"org/{kind}"), anatomy, ember_edit(anatomy), place / kind)
    return {kind: place / kind for kind in bases}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def damaged(patches: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a patch that a test may damage."""
    return lambda kind: Path(shutil.copytree(patches[kind], tmp_path / f"damaged-{kind}"))
