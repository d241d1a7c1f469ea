"""Raw rows and their values: what torch reads and writes, bit for bit, without torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ember_hub.patches.numerics import CODES, decode, encode, finite_rows

# Halfway cases of every type, subnormal numbers, and numbers too large for the narrow ones.
VALUES = np.concatenate([np.random.default_rng(0).normal(0, 3, 4000), 1 + np.arange(513) / 256 / 2, 2.0 ** -np.arange(20, 150),
                         [65519.0, 65520.0, 3.4e38, 1e39, -0.0]])[:4600].reshape(46, 100)


@pytest.mark.parametrize("name", CODES)
def test_values_are_rounded_and_read_back_as_torch_does(name: str) -> None:
    theirs = torch.from_numpy(VALUES).to(getattr(torch, name))
    ours = encode(VALUES, CODES[name])
    assert np.array_equal(ours, theirs.contiguous().view(torch.uint8).numpy())
    assert np.array_equal(decode(ours, CODES[name]), theirs.to(torch.float64 if name == "float64" else torch.float32).numpy())


@pytest.mark.parametrize("name", CODES)
def test_rows_with_values_that_are_not_numbers_are_found(name: str) -> None:
    values = torch.zeros(4, 3, dtype=torch.float64)
    values[1, 2], values[3, 0] = torch.nan, -torch.inf
    assert finite_rows(encode(values.numpy(), CODES[name]), CODES[name]).tolist() == [True, False, True, False]
