"""What a sparse matrix factorization costs against the paper's dense iteration, in CPU seconds on one thread.

Both sides start from the same G and run in the same process. `…_ratio` compares whole fits, each by its own stop rule;
`…_ratio_to_reference_loss` compares the time until a fit is as low as the loss where the paper's fit ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from ember_hub.linalg.smf import Factors, SmfSettings, factorize
from tests.benchmarks.reference_smf import Patience, dense_rounds, dense_smf

D_MODEL, N, K, M = 2304, 4900, 100, 49
SEED = 42
# The first rows of a vocabulary are single bytes and control tokens; text begins after them.
FIRST_TOKEN = 1000

Measured = dict[str, float | int | bool | str]
Returned = TypeVar("Returned")


def measure(quick: bool, embeddings: Path | None = None) -> dict[str, Measured]:
    """Seconds, rounds, final losses and ratios in float64 and in float32.

    Args:
        quick: the paper's fit is not run to its end. Its rounds are counted by the fast form, which has the same
            iterates, and multiplied by the median time of a few dense rounds.
        embeddings: a safetensors file with an embedding matrix; generated data if there is none.
    """
    with _one_thread():
        A = _synthetic() if embeddings is None else _lifted(_rows(embeddings))
        return {
            str(dtype).removeprefix("torch."): _compared(A.to(dtype), quick) for dtype in (torch.float64, torch.float32)
        }


def _compared(A: Tensor, quick: bool) -> Measured:
    reference_loss, reference_rounds, reference_seconds = (_counted if quick else _run)(A)
    measured: Measured = {
        "reference_is_extrapolated": quick,
        "reference_seconds": reference_seconds,
        "reference_rounds": reference_rounds,
        "reference_loss": reference_loss,
    }
    for preset in (SmfSettings.paper, SmfSettings.plus, SmfSettings.pursuing):
        name = preset.__name__
        fitted, seconds, reached = _seconds_to(reference_loss, A, preset(K, form="gram", dtype=A.dtype))
        measured |= {
            f"{name}_seconds": seconds,
            f"{name}_rounds": fitted.rounds,
            f"{name}_loss": fitted.loss,
            f"{name}_is_as_low": fitted.loss <= reference_loss * (1 + 1e-6),
            f"{name}_ratio": reference_seconds / seconds,
            f"{name}_ratio_to_reference_loss": reference_seconds / reached,
        }
    return measured


def _run(A: Tensor) -> tuple[float, int, float]:
    """Final loss, rounds and seconds of the paper's fit."""
    (best, rounds), seconds = _timed(lambda: dense_smf(A, _start(A), M))
    return best.loss / float(A.double().pow(2).sum()), rounds, seconds


def _counted(A: Tensor) -> tuple[float, int, float]:
    """The same from the fast form's rounds under the paper's stop rule, and a few dense rounds."""
    rule, energy = Patience(), float(A.double().pow(2).sum())
    settings = SmfSettings.paper(
        K,
        stop="gain",
        patience=rule.patience,
        min_gain=rule.tolerance / energy,
        max_rounds=rule.max_rounds,
        form="gram",
        dtype=A.dtype,
    )
    fitted = factorize(A, settings, [SEED])[0]
    dense, seconds = dense_rounds(A, _start(A), M), []
    for _ in islice(dense, 1):
        # The first round allocates its buffers.
        seconds = [_timed(lambda: next(dense))[1] for _ in range(5)]
    return fitted.loss, fitted.rounds, median(seconds) * fitted.rounds


def _start(A: Tensor) -> Tensor:
    """The start that `factorize` draws from the same seed."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(A.shape[1], K, generator=generator, dtype=torch.float64).to(A)


def _seconds_to(loss: float, A: Tensor, settings: SmfSettings) -> tuple[Factors, float, float]:
    """The fit, its seconds, and the seconds from its beginning to the first round below a loss."""
    reached: list[float] = []
    started = time.process_time()

    def note(seed: int, round_number: int, latest: float) -> None:
        if latest <= loss * (1 + 1e-6):
            reached.append(time.process_time() - started)

    fitted = factorize(A, settings, [SEED], note)[0]
    return fitted, time.process_time() - started, reached[0] if reached else float("inf")


def _timed(work: Callable[[], Returned]) -> tuple[Returned, float]:
    started = time.process_time()
    returned = work()
    return returned, time.process_time() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rows(file: Path) -> Tensor:
    """N rows of the file's embedding matrix, (N, width) in float64."""
    with safe_open(file, "pt") as tensors:
        name = next(name for name in tensors.keys() if "embed" in name)  # noqa: SIM118 (safe_open is no mapping)
        return tensors.get_slice(name)[FIRST_TOKEN : FIRST_TOKEN + N].double()


def _lifted(rows: Tensor) -> Tensor:
    """Rows of a narrower model at the width D_MODEL: a random orthonormal map, and one per cent of noise."""
    generator = torch.Generator().manual_seed(0)
    width = rows.shape[1]
    if width >= D_MODEL:
        return rows[:, :D_MODEL].T.contiguous()
    frame = torch.linalg.qr(torch.randn(D_MODEL, width, generator=generator, dtype=torch.float64))[0]
    A = frame @ rows.T
    noise = torch.randn(A.shape, generator=generator, dtype=torch.float64)
    return A + 0.01 * noise * A.norm() / noise.norm()


def _synthetic() -> Tensor:
    """Columns like embeddings: a common mean, a few of 400 directions each, and noise of a power-law spectrum."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    membership = torch.rand(400, N, generator=generator, dtype=torch.float64) < 0.008
    structure = normal(D_MODEL, 400) @ (membership * (1 + normal(400, N).abs()))
    spectrum = torch.arange(1, D_MODEL + 1, dtype=torch.float64) ** -0.5
    noise = normal(D_MODEL, D_MODEL) @ (spectrum[:, None] * normal(D_MODEL, N))
    parts = (0.33, normal(D_MODEL, 1).expand(-1, N)), (0.33, structure), (0.34, noise)
    return sum(
        (energy**0.5 * part / part.norm() for energy, part in parts), torch.zeros(D_MODEL, N, dtype=torch.float64)
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="extrapolate the paper's fit from a few of its rounds")
    options.add_argument("--embeddings", type=Path, help="a safetensors file with an embedding matrix")
    chosen = options.parse_args()
    sys.stdout.write(json.dumps(measure(chosen.quick, chosen.embeddings), indent=2) + "\n")
