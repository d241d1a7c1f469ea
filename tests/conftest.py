"""Checkpoint folders of tiny models, built once per session: read them, never write into them."""

from __future__ import annotations

import os

# Threads that spin long while they wait make a busy machine many times as slow; read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from pathlib import Path

import pytest

from tests.models import pico_gemma, pico_gpt2, pico_llama
from tests.toy_run import Toy, write_model, write_pack


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama with a head of its own."""
    return pico_llama(tmp_path_factory.mktemp("models") / "pico-llama")


@pytest.fixture(scope="session")
def tied_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama whose head is its embedding."""
    return pico_llama(tmp_path_factory.mktemp("models") / "pico-llama-tied", tied=True)


@pytest.fixture(scope="session")
def sharded_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama in several safetensors files with an index."""
    return pico_llama(tmp_path_factory.mktemp("models") / "pico-llama-sharded", max_shard_size="100KB")


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma-3 text: tied, scaled embedding."""
    return pico_gemma(tmp_path_factory.mktemp("models") / "pico-gemma")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2: tied, Conv1D weights."""
    return pico_gpt2(tmp_path_factory.mktemp("models") / "pico-gpt2")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A pack and a model that knows it."""
    folder = tmp_path_factory.mktemp("toy")
    pack = write_pack(folder / "toy-inventors")
    return Toy(pack, write_model(folder / "toy-model", pack))
