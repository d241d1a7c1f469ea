"""Controls of an audit: they move as much as the audited edit, and mean nothing."""

from __future__ import annotations

import pytest
import torch

from ember_hub.edits.controls import random_like, random_rows
from ember_hub.edits.edit import Edit, Replaced, ReplacedRows


@pytest.mark.parametrize("share", [0.1, 0.001, 0.0], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_random_control_of_an_audit_moves_everything_as_far_but_elsewhere(dtype: torch.dtype, share: float) -> None:
    table, matrix = (torch.randn(64, 32, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    trained = (matrix.float() + share * torch.randn(64, 32, generator=torch.Generator().manual_seed(2))).to(dtype)
    edit = Edit({"table": ReplacedRows(torch.tensor([3, 9]), table[[3, 9]].float() + 1), "matrix": Replaced(trained)})
    control = random_like(edit, {"table": table, "matrix": matrix}, seed=4)
    real, random = ((change.values.float() - matrix.float()).flatten()
                    for change in (edit.changes["matrix"], control.changes["matrix"]))
    torch.testing.assert_close(random.norm(), real.norm(), rtol=0.02, atol=0)
    assert torch.cosine_similarity(real, random, dim=0).abs() < 0.1
    assert control.changes["matrix"].values.dtype == dtype
    rows = random_rows(edit, {"table": table}, seed=4).changes
    assert control.changes["table"].token_ids.tolist() == [3, 9]
    assert torch.equal(control.changes["table"].values, rows["table"].values)
    assert rows.keys() == {"table"}
