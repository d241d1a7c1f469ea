"""Rows that are worked out in parts give what a centred, scaled copy in memory would give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ember_hub.linalg.smf import ScaledRows, SmfSettings, factorize, factorize_rows
from ember_hub.linalg.smf.table import cosines, gram, lengths, products_with

N, D = 260, 2304


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and stall on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Rows of a model's width with structure: few directions, and a mean that all share."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, 24, generator=generator).relu() @ torch.randn(24, D, generator=generator)
    return (0.02 * (hidden + torch.randn(D, generator=generator) + 0.1 * torch.randn(N, D, generator=generator))).bfloat16()


@pytest.fixture(scope="module")
def weights() -> Tensor:
    return 1 + torch.rand(N, generator=torch.Generator().manual_seed(1))


def plain(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """The same as one matrix, as one would write it down."""
    raw = rows.float()
    centred = raw - raw.mean(dim=0)
    unit = centred / centred.norm(dim=1).clamp(min=1e-12)[:, None]
    return unit if weights is None else unit * weights[:, None]


@pytest.mark.parametrize("width", [576, 1024, D])
def test_a_table_holds_the_matrix_that_one_would_write_down(rows: Tensor, weights: Tensor, width: int) -> None:
    rows = rows[:, :width]
    table = ScaledRows.of(rows).weighing(weights)
    assert torch.equal(torch.cat(list(table.parts()), dim=1), plain(rows, weights))
    assert len(list(table.parts())) == (1 if width <= 1024 else 9)


def test_products_of_parts_are_those_of_the_whole(rows: Tensor) -> None:
    table, whole = ScaledRows.of(rows), plain(rows).double()
    assert torch.allclose(gram(table, torch.float64), whole @ whole.T, rtol=0, atol=1e-13)
    tokens = torch.tensor([3, 1, 200])
    for found in (cosines(table, tokens), products_with(table, plain(rows)[tokens])):
        assert torch.allclose(found, (whole @ whole[tokens].T).float(), atol=1e-6)
    assert torch.allclose(lengths(table, torch.float64), whole.norm(dim=1), rtol=1e-12)


@pytest.mark.parametrize("preset", [SmfSettings.paper, SmfSettings.plus])
@pytest.mark.parametrize("width", [40, D])
def test_a_factorization_in_parts_is_that_of_the_whole(rows: Tensor, weights: Tensor, width: int, preset) -> None:
    rows = rows[:, :width]
    settings = preset(24, sparsity=0.05, max_rounds=60)
    (parts,) = factorize_rows(ScaledRows.of(rows).weighing(weights), settings, [7])
    (whole,) = factorize(plain(rows, weights).T, settings, [7])
    assert parts.form == whole.form == ("thin" if width == 40 else "gram")
    assert torch.equal(parts.G.index, whole.G.index)
    assert torch.allclose(parts.G.value, whole.G.value, rtol=1e-9, atol=1e-12)
    assert torch.allclose(parts.F, whole.F, rtol=1e-9, atol=1e-12)
