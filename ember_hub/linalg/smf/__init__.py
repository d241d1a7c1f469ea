"""Sparse matrix factorization (SMF): A ≈ F Gᵀ, every column of G with exactly ⌈g·n⌉ non-zeros.

    settings  what to fit and when to stop
    sparse    columns with a fixed number of kept entries, as index and value
    table     the matrix token by token, whole or worked out in parts
    products  the two fast forms: `GramForm` keeps AᵀA, `ThinForm` keeps A
    start     the two starts: random, and seed tokens far from each other
    rounds    one alternating round, the same iterates as the paper's
    fit       rounds until the stop rule holds, for several seeds of one matrix

Source: EMBER (arXiv 2606.03695). The fast forms change the cost of a round, not its result.
"""

from __future__ import annotations

from ember_hub.linalg.smf.fit import Factors, OnRound, factorize, factorize_rows
from ember_hub.linalg.smf.settings import SmfSettings
from ember_hub.linalg.smf.sparse import SparseColumns
from ember_hub.linalg.smf.table import ScaledRows

__all__ = ["Factors", "OnRound", "ScaledRows", "SmfSettings", "SparseColumns", "factorize", "factorize_rows"]
