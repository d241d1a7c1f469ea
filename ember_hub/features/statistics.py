"""What the numbers say about tokens and features before anyone reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from ember_hub.concepts.labels import Label, TokenLabels
from ember_hub.linalg.smf.table import Table, as_table, cosines, gram, in_full

AFFINITY_WEIGHT = 16.0
"""Nats of evidence per unit of affinity: 0.25 (a concept name's neighbourhood) is worth log-odds of 4."""
NEAREST = 5
"""How many of the surest tokens make up a token's company."""
_RIDGE = 1.0
_AT_ONCE = 512
_DOUBT = 0.02
_NEVER = -9.0
# Below this a token's own counts speak against it so clearly that no neighbourhood can make up for it.
_MIN_PURITY = 0.04
_SMOOTH = 1e-3
_SUREST = 25


def affinity(unit_rows: Tensor | Table, purity: Tensor) -> Tensor:
    """(n,) float64: the purity that a token's embedding promises, by the tokens around it.

    Ridge regression of purity on the centred unit rows (n, d), predicting each token without itself. A count of two or
    three says little about one rare token; that its neighbours are the concept's own says much more.
    """
    table = as_table(unit_rows)
    target = purity.double() - purity.double().mean()
    n, d = table.shape
    # One factor serves all n predictions: leaving a row out changes the fit by its leverage alone.
    if d <= n:
        rows = in_full(table, torch.float64)
        inverse = torch.linalg.inv(rows.T @ rows + _RIDGE * torch.eye(d, dtype=torch.float64))
        leverage = torch.cat([((part @ inverse) * part).sum(dim=1) for part in rows.split(_AT_ONCE)])
        fitted = rows @ (inverse @ (rows.T @ target))
    else:
        # With K = rows rowsᵀ, what maps targets to fits is K (K + λI)⁻¹ = I − λ (K + λI)⁻¹: one n × n inverse, and no product.
        ridged = gram(table, torch.float64)
        ridged.diagonal().add_(_RIDGE)
        # In place: at n = 5000 each further n × n matrix is 200 MB.
        torch.linalg.cholesky_ex(ridged, check_errors=True, out=(ridged, torch.empty(0, dtype=torch.int32)))
        inverse = torch.cholesky_inverse(ridged, out=ridged)
        leverage, fitted = 1 - _RIDGE * inverse.diagonal(), target - _RIDGE * (inverse @ target)
    return (fitted - leverage * target) / (1 - leverage).clamp(min=1e-6) + purity.double().mean()


def belief(labels: TokenLabels, unit_rows: Tensor | Table) -> Tensor:
    """(n,) float64 log-odds in nats that a token is the concept's own: its own counts, and its neighbourhood.

    Pieces of words count only if they are exclusive by their letters.
    """
    sound = (labels.whole >= 0.5) | labels.exclusive
    near = affinity(unit_rows, torch.where(sound, labels.purity, 0.0))
    own = labels.purity.double().clamp(_DOUBT, 1 - _DOUBT)
    total = torch.log(own / (1 - own)) + AFFINITY_WEIGHT * near
    return torch.where(sound & (labels.purity >= _MIN_PURITY), total, _NEVER)


def kinship(unit_rows: Tensor | Table, belief_of: Tensor) -> Tensor:
    """(n,): mean cosine of each row with the five nearest of the tokens that are surest to be the concept's own.

    Affinity asks whether a direction of the space is the concept's; a common word of the same texts may lie along one.
    Kinship asks for company: the names of a world stand close to each other, the verbs its articles use do not.
    """
    core = surest(belief_of)
    company = cosines(as_table(unit_rows), core)
    company[core, torch.arange(len(core))] = -1.0
    return company.topk(min(NEAREST, len(core)), dim=1).values.mean(dim=1)


def surest(belief_of: Tensor) -> Tensor:
    """Where the 25 tokens with the highest belief stand."""
    return belief_of.topk(min(_SUREST, len(belief_of))).indices


def certainty(belief_of: Tensor) -> Tensor:
    """(n,) in [0, 1]: half at a belief of two nats. How much of a token's activation counts as the concept's."""
    return torch.sigmoid(belief_of - 2.0)


def shares(activations: Tensor, certain: Tensor) -> Tensor:
    """(K,): how much of each feature's absolute activation (n, K) lies on the concept's own tokens."""
    magnitude = activations.abs()
    return (magnitude * certain.to(magnitude)[:, None]).sum(dim=0) / magnitude.sum(dim=0).clamp(min=1e-12)


def ratios(activations: Tensor, labels: TokenLabels) -> Tensor:
    """(K,): mean absolute activation on concept-only tokens over that on neutral-only tokens, smoothed.

    Source: EMBER (arXiv 2606.03695), ratio_abs; the smoothing keeps a neutral mean of zero from deciding.
    """
    magnitude = activations.abs()
    smooth = _SMOOTH * magnitude.amax(dim=0)
    means = [magnitude[labels.label == label].sum(dim=0) / max(int((labels.label == label).sum()), 1)
             for label in (Label.CONCEPT, Label.NEUTRAL)]
    return (means[0] + smooth) / (means[1] + smooth).clamp(min=1e-12)
