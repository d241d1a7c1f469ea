"""The fast forms of SMF are the paper's iteration, and the errors that tell what cannot be factorized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from ember_hub.linalg.smf import SmfSettings, factorize
from ember_hub.linalg.smf import rounds as rounds_module
from ember_hub.linalg.smf.products import Products, products_for
from ember_hub.linalg.smf.rounds import rounds
from ember_hub.linalg.smf.start import start
from ember_hub.linalg.smf.table import WholeRows
from tests.benchmarks.reference_smf import dense_rounds, dense_smf

K, M = 12, 9
PAPER = SmfSettings.paper(K, sparsity=M / 300)
PLUS = SmfSettings.plus(K, sparsity=M / 300)
FORMS = ("gram", "thin")
KINDS = ("noise", "planted", "decaying")
Preset = Callable[..., SmfSettings]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and stall on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def matrix(kind: str, d_model: int = 48, n: int = 300, seed: int = 0) -> Tensor:
    """White noise, sparse structure with a common mean, or a power-law spectrum; (d_model, n) in float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(d_model, n, generator=generator, dtype=torch.float64)
    if kind == "noise":
        return noise
    if kind == "decaying":
        return torch.arange(1, d_model + 1, dtype=torch.float64)[:, None] ** -0.7 * noise
    return planted(generator, d_model, n)[0] + 1 + 0.1 * noise


def planted(generator: torch.Generator, d_model: int, n: int) -> tuple[Tensor, Tensor]:
    """An exact product F Gᵀ (d_model, n) with M kept entries per feature, and where they stand, (K, M)."""
    directions = torch.linalg.qr(torch.randn(d_model, K, generator=generator, dtype=torch.float64))[0]
    kept = torch.randperm(n, generator=generator)[: K * M].reshape(K, M)
    strengths = 1 + torch.rand(K, M, generator=generator, dtype=torch.float64)
    G = torch.zeros(n, K, dtype=torch.float64).scatter_(0, kept.T, strengths.T)
    return directions @ G.T, kept


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def products_of(A: Tensor, form: str) -> Products:
    return products_for(WholeRows(A.T.contiguous()), form)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_round_is_the_papers_round(kind: str, form: str) -> None:
    A = matrix(kind)
    products = products_of(A, form)
    begin = start(products, PAPER, seed=3)
    pairs = zip(rounds(products, begin, 1e-4, PAPER), dense_rounds(A, begin, M), strict=False)
    for ours, theirs in islice(pairs, 80):
        G, before = ours.G.dense(), ours.previous if isinstance(ours.previous, Tensor) else ours.previous.dense()
        assert torch.equal(G != 0, theirs.G != 0)
        assert error(G, theirs.G) < 1e-11
        assert error(A @ before @ ours.mixing, theirs.F) < 1e-11
        assert ours.loss == pytest.approx(theirs.loss / float(A.pow(2).sum()), rel=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_ends_where_the_papers_stop_rule_ends(kind: str, form: str) -> None:
    A = matrix(kind)
    fitted = factorize(A, SmfSettings.paper(K, sparsity=M / 300, form=form), seeds=[3])[0]
    best, rounds_taken = dense_smf(A, start(products_of(A, form), PAPER, seed=3), M)
    assert fitted.loss <= best.loss / float(A.pow(2).sum()) * (1 + 1e-6)
    assert fitted.rounds < rounds_taken / 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", [SmfSettings.paper, SmfSettings.plus, SmfSettings.pursuing])
def test_the_reported_loss_is_that_of_the_returned_factors(settings: Preset, form: str) -> None:
    A = matrix("planted")
    fitted = factorize(A, settings(K, sparsity=M / 300, form=form))[0]
    residual = A - fitted.F @ fitted.G.dense().T
    assert fitted.form == form
    assert fitted.loss == pytest.approx(float(residual.pow(2).sum() / A.pow(2).sum()), rel=1e-9)
    assert fitted.loss == float(fitted.losses.min())


@pytest.mark.parametrize("settings", [SmfSettings.paper, SmfSettings.plus, SmfSettings.pursuing])
def test_every_feature_keeps_exactly_m_tokens(settings: Preset) -> None:
    fitted = factorize(matrix("decaying"), settings(K, sparsity=M / 300))[0]
    assert fitted.F.shape == (48, K)
    assert fitted.G.dense().shape == (300, K)
    assert (fitted.G.dense() != 0).sum(dim=0).tolist() == [M] * K
    assert bool((fitted.G.index.diff(dim=1) > 0).all())


def test_a_scaled_matrix_has_scaled_directions_and_the_same_activations() -> None:
    A, settings = matrix("decaying"), SmfSettings.paper(K, sparsity=M / 300, ridge=1e-7)
    plain, scaled = factorize(A, settings)[0], factorize(48 * A, settings)[0]
    assert torch.equal(plain.G.index, scaled.G.index)
    assert error(scaled.G.value, plain.G.value) < 1e-4
    assert error(scaled.F / 48, plain.F) < 1e-4


def test_a_planted_structure_is_found() -> None:
    A, kept = planted(torch.Generator().manual_seed(1), 48, 300)
    best = min(factorize(A, PLUS, range(4)), key=lambda fitted: fitted.loss)
    assert best.loss < 1e-6
    assert {frozenset(row) for row in best.G.index.tolist()} == {frozenset(row) for row in kept.tolist()}


def test_the_same_seed_gives_the_same_bits_alone_and_among_others() -> None:
    A, settings = matrix("noise"), PAPER
    together = factorize(A, settings, seeds=[5, 6, 7])
    alone = [factorize(A, settings, seeds=[seed])[0] for seed in (5, 6, 7)]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.seed == theirs.seed
        assert torch.equal(ours.F, theirs.F)
        assert torch.equal(ours.G.index, theirs.G.index)
        assert torch.equal(ours.G.value, theirs.G.value)
    assert not torch.equal(together[0].G.index, together[1].G.index)


@pytest.mark.parametrize("kind", KINDS)
def test_plus_reaches_a_lower_loss_than_paper(kind: str) -> None:
    A = matrix(kind)
    paper = factorize(A, PAPER, range(3))
    plus = factorize(A, PLUS, range(3))
    assert min(fitted.loss for fitted in plus) < min(fitted.loss for fitted in paper)


@pytest.mark.parametrize("kind", KINDS)
def test_pursuit_comes_to_rest_at_a_loss_no_higher_than_that_of_plus(kind: str) -> None:
    A = matrix(kind)
    plus = factorize(A, PLUS, range(3))
    pursuing = factorize(A, SmfSettings.pursuing(K, sparsity=M / 300), range(3))
    assert min(fitted.loss for fitted in pursuing) <= min(fitted.loss for fitted in plus) * (1 + 1e-9)
    assert [fitted.stopped for fitted in pursuing] == ["support"] * 3
    if kind == "decaying":
        assert max(fitted.loss for fitted in pursuing) < min(fitted.loss for fitted in plus)


def test_refit_makes_activations_optimal_on_their_support() -> None:
    A = matrix("noise")
    products = products_of(A, "gram")
    step = next(rounds(products, start(products, PLUS, 0), 1e-4, PLUS))
    F, G = A @ step.previous.dense() @ step.mixing, step.G.dense()  # type: ignore[union-attr]
    gradient = (A - F @ G.T).T @ F - 1e-4 * G
    assert float(gradient[G != 0].abs().max()) < 1e-9


def test_float32_reaches_the_loss_of_float64_on_clear_structure() -> None:
    A = planted(torch.Generator().manual_seed(1), 48, 300)[0]
    settings = PLUS
    high, low = (factorize(A, replace(settings, dtype=dtype))[0] for dtype in (torch.float64, torch.float32))
    assert low.F.dtype == low.G.value.dtype == torch.float32
    assert torch.equal(low.G.index, high.G.index)
    assert low.loss == pytest.approx(high.loss, abs=1e-6)


def test_the_stop_rule_is_named_and_every_round_is_reported() -> None:
    A, seen = matrix("noise"), []
    quiet = factorize(A, PAPER, [4], lambda *told: seen.append(told))[0]
    assert quiet.stopped == "support"
    assert seen == [(4, i + 1, loss) for i, loss in enumerate(quiet.losses.tolist())]
    assert factorize(A, SmfSettings.paper(K, sparsity=M / 300, max_rounds=3))[0].stopped == "rounds"
    assert factorize(A, SmfSettings.paper(K, sparsity=M / 300, stop="gain", patience=5))[0].stopped == "gain"


def test_the_gram_form_is_taken_for_wide_models_and_small_vocabularies() -> None:
    assert SmfSettings.paper(100).form_for(2304, 4900) == "gram"
    assert SmfSettings.paper(100).form_for(576, 4828) == "thin"
    assert SmfSettings.paper(100).form_for(2304, 256_000) == "thin"


def test_entries_kept_per_feature_round_up_without_float_dust() -> None:
    assert SmfSettings.paper(1).kept_per_feature(700) == 7
    assert SmfSettings.paper(1).kept_per_feature(701) == 8


def test_a_singular_round_starts_anew_with_ten_times_the_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, cholesky = iter(range(100_000)), rounds_module._cholesky

    def fails_twice(system: Tensor) -> Tensor:
        return cholesky(-system if next(calls) < 2 else system)

    monkeypatch.setattr(rounds_module, "_cholesky", fails_twice)
    assert factorize(matrix("noise"), PAPER)[0].ridge == pytest.approx(1e-2)


def test_a_matrix_that_stays_singular_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cholesky = rounds_module._cholesky
    monkeypatch.setattr(rounds_module, "_cholesky", lambda system: cholesky(-system))
    with pytest.raises(ValueError, match="even with ridge 1:"):
        factorize(matrix("noise"), SmfSettings.paper(K))


@pytest.mark.parametrize(
    ("A", "settings", "message"),
    [
        (torch.full((4, 30), float("nan")), SmfSettings.paper(2), "120 entries of the matrix are not finite"),
        (torch.ones(4, 3), SmfSettings.paper(5), "rank 5 exceeds the 3 columns"),
        (torch.ones(4, 3, dtype=torch.int64), SmfSettings.paper(1), "floating-point matrix"),
        (torch.ones(4, 0), SmfSettings.paper(1), "rank 1 exceeds the 0 columns"),
        (torch.zeros(4, 30), SmfSettings.paper(2), "nothing to factorize"),
        (torch.ones(4, 30), SmfSettings.plus(2), "only 1 distinct direction"),
        (torch.eye(8, 30), SmfSettings.paper(12), "features became all zero"),
    ],
)
def test_what_cannot_be_factorized_says_why(A: Tensor, settings: SmfSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factorize(A, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"sparsity": 0.0}, "sparsity must lie in"),
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"stop": "never"}, "unknown stop rule 'never'"),
        ({"pursuit": 0.4}, "set refit=True"),
        ({"start": "svd"}, "unknown start 'svd'"),
        ({"dtype": torch.float16}, "float32 or float64"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmfSettings(**{"rank": 4, **changes})  # type: ignore[arg-type]
