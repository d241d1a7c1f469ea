"""Where the iteration starts."""

from __future__ import annotations

import torch
from torch import Tensor

from ember_hub.linalg.smf.products import Products
from ember_hub.linalg.smf.settings import SmfSettings
from ember_hub.linalg.smf.sparse import Columns, SparseColumns
from ember_hub.linalg.smf.table import lengths


def start(products: Products, settings: SmfSettings, seed: int) -> Columns:
    """G of round zero; the same seed draws the same random numbers on every device and in both dtypes."""
    generator = torch.Generator().manual_seed(seed)
    if settings.start == "randn":
        drawn = torch.randn(products.table.shape[0], settings.rank, generator=generator, dtype=torch.float64)
        return drawn.to(products.like)
    return _seed_columns(products, settings.rank, settings.kept_per_feature(products.table.shape[0]), generator)


def _seed_columns(products: Products, rank: int, m: int, generator: torch.Generator) -> SparseColumns:
    """K tokens, each drawn with probability 1 − max cos² to those before it; column k keeps the m tokens nearest to k.

    Source: k-means++ (Arthur and Vassilvitskii, 2007) with the squared sine in place of the squared distance.
    """
    length = lengths(products.table, products.like.dtype)
    is_empty = length == 0
    safe = length.masked_fill(is_empty, 1)
    squared_sine = (~is_empty).double()
    columns: list[Tensor] = []
    for _ in range(rank):
        if not float(squared_sine.sum()) > 0:
            raise ValueError(
                f"only {len(columns)} distinct directions among {len(length)} columns, rank {rank} asked for"
            )
        token = int(torch.multinomial(squared_sine.cpu(), 1, generator=generator))
        projection = products.similarity(token) / safe[token]
        squared_sine = torch.minimum(squared_sine, 1 - (projection / safe).double() ** 2).clamp_min(0)
        # Rounding leaves the chosen token a sine of about 1e-16: it must not be drawn again.
        squared_sine[token] = 0
        columns.append(projection)
    projections = torch.stack(columns)
    index = projections.abs().topk(m, dim=1, sorted=False).indices
    value = projections.gather(1, index)
    return SparseColumns(len(length), index, value / value.norm(dim=1, keepdim=True))
