"""Several patches as one: disjoint ones side by side, overlapping ones added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ember_hub.edits.edit import Edit, LowRankRows, ReplacedRows
from ember_hub.errors import PatchInvalid, WrongBase
from ember_hub.patches.apply import apply
from ember_hub.patches.convert import to_lora_embed
from ember_hub.patches.folder import save
from ember_hub.patches.merge import merge
from ember_hub.patches.patch import Patch
from ember_hub.progress import Quiet
from ember_hub.publish.patch import patch_of
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from tests.publish.edits import base_of


def edit_of(base: Path, ids: list[int], repo: str = "org/base", left_out: tuple[str, ...] = ()) -> Patch:
    anatomy = anatomy_of_config(base)
    generator = torch.Generator().manual_seed(ids[0])
    rows = LowRankRows(torch.tensor(ids), torch.rand(len(ids), 2, generator=generator),
                       torch.randn(anatomy.d_model, 2, generator=generator) / 4)
    return patch_of(base_of(base, repo), anatomy, Edit({anatomy.embedding: rows}), left_out)


def test_disjoint_patches_together_are_both_applied_in_turn(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    first, second = edit_of(bases[kind], [3, 9, 200], left_out=("rmu",)), edit_of(bases[kind], [4, 8, 500])
    merged = merge([first, second])
    save(merged.patch, tmp_path / "merged", companions_of=bases[kind])
    patch = Patch.open(tmp_path / "merged")
    assert merged.overlapping.tolist() == []
    apply(patch, bases[kind], tmp_path / "at-once", Quiet())
    apply(first, bases[kind], tmp_path / "one", Quiet())
    name, every = patch.table.tensor, np.arange(patch.table.vocab)
    one = Checkpoint.open(tmp_path / "one").read_row_bytes(name, every)
    one[second.token_ids] = second.rows
    assert np.array_equal(Checkpoint.open(tmp_path / "at-once").read_row_bytes(name, every), one)
    assert patch.not_carried == {"methods": ["rmu"], "parameters": []}
    assert patch.guard is None or patch.guard.token_id not in patch.token_ids
    factored = to_lora_embed(patch)
    assert factored.patch.factors is not None
    assert (factored.patch.factors.rank, factored.error < 0.05) == (4, True)


def test_moves_of_a_shared_token_are_added(bases: dict[str, Path]) -> None:
    first, second = edit_of(bases["untied"], [3, 9, 200]), edit_of(bases["untied"], [9, 200, 500])
    merged = merge([first, second])
    assert merged.overlapping.tolist() == [9, 200]
    assert merged.patch.token_ids.tolist() == [3, 9, 200, 500]
    found, one, other = (patch.deltas("test") for patch in (merged.patch, first, second))
    assert np.array_equal(found[[0, 3]], [one[0], other[2]])
    assert np.allclose(found[[1, 2]], one[1:] + other[:2], atol=1e-6)
    assert to_lora_embed(merged.patch).error < 1e-6


def test_a_merged_patch_that_edits_every_guard_guards_the_head_with_an_original_row(bases: dict[str, Path], tmp_path: Path) -> None:
    lower, upper = edit_of(bases["tied"], [1]), edit_of(bases["tied"], [0, 2])
    assert [patch.guard.token_id for patch in (lower, upper) if patch.guard] == [0, 1]
    merged = merge([lower, upper]).patch
    save(merged, tmp_path / "merged", companions_of=bases["tied"])
    guard = Patch.open(tmp_path / "merged").guard
    assert guard is not None
    head = Checkpoint.open(bases["tied"]).read_row_bytes(merged.table.tensor, np.array([guard.token_id]))
    assert np.array_equal(guard.row, head[0])


def test_patches_of_different_bases_and_impossible_sums_are_refused(bases: dict[str, Path]) -> None:
    first = edit_of(bases["untied"], [3, 9])
    with pytest.raises(WrongBase, match="org/base@0123abcd, another for org/other") as refused:
        merge([first, edit_of(bases["untied"], [4], repo="org/other")])
    assert "same commit" in refused.value.hint
    with pytest.raises(WrongBase, match="disagree on its embedding"):
        merge([first, edit_of(bases["tied"], [4])])
    other = edit_of(bases["untied"], [9])
    other.required_originals("damage them")[0, 0] ^= 1
    with pytest.raises(WrongBase, match="disagree on its rows"):
        merge([first, other])
    anatomy = anatomy_of_config(bases["untied"])
    huge = Edit({anatomy.embedding: ReplacedRows(torch.tensor([9]), torch.full((1, 48), 3e38))})
    twice = [patch_of(base_of(bases["untied"], "org/base"), anatomy, huge)] * 2
    with pytest.raises(PatchInvalid, match=r"tokens \[9\] hold values that are not numbers"):
        merge(twice)
