"""The joint loss of Dai et al. (ICASSP 2019): L = L_s + lambda L_c, both weighted by inverse class counts.

omega_j ∝ 1 / N_j                                                     class weights, from the training counts
L_s = Σ ω_{y_i} · (-log softmax(logits_i)[y_i]) / Σ ω_{y_i}           weighted softmax loss
L_c = Σ ω_{y_i} · ||z_i - c_{y_i}||²           / Σ ω_{y_i}            weighted center loss (no 1/2, z not normalised)
c_j ← (1 - α) c_j + α · mean{z_i : y_i = j}                           after each step, no gradient, absent classes stay
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ser.errors import CorpusError


def class_weights(counts: Sequence[int]) -> Tensor:
    """Return ω [n_classes], inversely proportional to the training counts, with mean 1.

    >>> [round(w, 4) for w in class_weights([10, 30]).tolist()]
    [1.5, 0.5]
    """
    if min(counts) < 1:
        raise CorpusError(f"training counts per class are {list(counts)}; every class needs at least one clip")
    inverse = 1.0 / torch.tensor(counts, dtype=torch.float32)
    return inverse * (len(counts) / inverse.sum())


def weighted_softmax_loss(logits: Tensor, y: Tensor, omega: Tensor) -> Tensor:
    """Return L_s (eq. 2-3) of logits [B, n_classes], classes y [B], weights ω [n_classes]."""
    w = omega[y]
    return (w * F.cross_entropy(logits, y, reduction="none")).sum() / w.sum()


def weighted_center_loss(z: Tensor, y: Tensor, centres: Tensor, omega: Tensor) -> Tensor:
    """Return L_c (eq. 4-5) of features z [B, 64], classes y [B], centres [n_classes, 64], weights ω [n_classes]."""
    w = omega[y]
    return (w * (z - centres[y]).square().sum(dim=1)).sum() / w.sum()


@torch.no_grad()
def update_centres(centres: Tensor, z: Tensor, y: Tensor, alpha: float) -> None:
    """Move ``centres`` [n_classes, 64] in place towards the batch's class means (eq. 6-7); z [B, 64], y [B]."""
    sums = torch.zeros_like(centres).index_add_(0, y, z.detach().to(centres.dtype))
    counts = torch.bincount(y, minlength=len(centres))
    present = counts > 0
    means = sums[present] / counts[present, None]
    centres[present] = (1 - alpha) * centres[present] + alpha * means
