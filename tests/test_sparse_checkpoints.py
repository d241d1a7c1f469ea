"""The sparse checkpoints are what they claim to be: the files of published models, without their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from tests.sparse_checkpoints import EMBEDDING, SHAPES, fill_rows, write_sparse


@pytest.mark.parametrize(("name", "shards", "gigabytes"), [
    ("Llama-3.1-8B", 4, 16.06), ("Llama-3.1-70B", 30, 141.11), ("Llama-3.1-405B", 191, 811.71), ("gemma-2-2b", 3, 10.46),
    ("gemma-2-27b", 24, 108.91),
])
def test_files_have_the_layout_of_the_published_model_and_take_no_room(name: str, shards: int, gigabytes: float, tmp_path: Path
                                                                       ) -> None:
    checkpoint = Checkpoint.open(write_sparse(tmp_path / name, name))
    assert len(checkpoint.files) == shards
    assert sum(file.size for file in checkpoint.files) / 1e9 == pytest.approx(gigabytes, abs=0.01)
    assert sum(path.stat().st_blocks * 512 for path in checkpoint.folder.iterdir()) < 4e6
    anatomy = anatomy_of_config(checkpoint.folder)
    assert (anatomy.embedding, anatomy.vocab, anatomy.d_model) == (EMBEDDING, SHAPES[name].vocab, SHAPES[name].d_model)
    assert anatomy.is_tied == SHAPES[name].is_tied


def test_the_sizes_of_llama_are_those_on_the_hub(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_sparse(tmp_path / "model", "Llama-3.1-8B"))
    assert [file.size for file in checkpoint.files] == [4976698672, 4999802720, 4915916176, 1168138808]


def test_rows_are_real_where_they_were_filled_and_nowhere_else(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path / "model", "gemma-2-2b")
    fill_rows(folder, [7, 200_000])
    rows = Checkpoint.open(folder).read_rows(EMBEDDING, np.array([6, 7, 200_000]))
    assert [bool(row.any()) for row in rows] == [False, True, True]
    assert rows[1:].std().item() == pytest.approx(0.02, rel=0.05)
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 4e6
