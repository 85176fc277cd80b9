"""The joint loss of Dai et al. (ICASSP 2019): L = L_s + lambda L_c, both weighted by inverse class counts.

omega_j ∝ 1 / N_j                                                     class weights, from the training counts
L_s = Σ ω_{y_i} · (-log softmax(logits_i)[y_i]) / Σ ω_{y_i}           weighted softmax loss
L_c = Σ ω_{y_i} · ||z_i - c_{y_i}||²           / Σ ω_{y_i}            weighted center loss (no 1/2, z not normalised)
c_j ← (1 - α) c_j + α · mean{z_i : y_i = j}                           after each step, no gradient, absent classes stay

Below them stand the losses the paper argues against (triplets, cosine-similarity pairs) and the one its last section asks for
(centres pushed apart), so that they can be compared on the same network and split.
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


def weighted_softmax_loss(
    logits: Tensor, y: Tensor, omega: Tensor, smoothing: float = 0.0, soft: Tensor | None = None, soft_share: float = 0.0
) -> Tensor:
    """Return L_s (eq. 2-3) of logits [B, n_classes], classes y [B], weights ω [n_classes].

    ``smoothing`` spreads that share of the target over all classes (Szegedy et al. 2016); ``soft_share`` of the loss follows
    the probabilities ``soft`` [B, n_classes] of teachers instead of the labels (Hinton et al. 2015, temperature 1).
    """
    w = omega[y]
    loss = F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
    if soft is not None:
        loss = (1 - soft_share) * loss + soft_share * F.cross_entropy(logits, soft, reduction="none")
    return (w * loss).sum() / w.sum()


def outlier_loss(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [B, n_classes] to all classes alike (outlier exposure, Hendrycks et al. 2019)."""
    return -F.log_softmax(logits, dim=1).mean()


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


def moved_centres(centres: Tensor, z: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Return where :func:`update_centres` will put the centres, with the gradient towards z [B, 64]; absent classes stay."""
    means = torch.zeros_like(centres).index_add(0, y, z)
    counts = torch.bincount(y, minlength=len(centres))[:, None]
    return torch.where(counts > 0, (1 - alpha) * centres + alpha * means / counts.clamp(min=1), centres)


def separation_loss(centres: Tensor) -> Tensor:
    """Return the island loss (Cai et al., FG 2018): 1 + cosine of each pair of centres [n_classes, 64], averaged over pairs.

    0 when all point away from each other, 2 when they coincide in direction.
    """
    cosines = F.cosine_similarity(centres[:, None], centres[None], dim=2)
    n = len(centres)
    return 1 + (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))


def triplet_loss(z: Tensor, y: Tensor, margin: float) -> Tensor:
    """Return the triplet loss of z [B, 64], classes y [B], over every triplet of the batch that violates the margin.

    max(0, ||a - p||² - ||a - n||² + margin) on unit-length z (Schroff et al., CVPR 2015; for emotion Huang et al.,
    Interspeech 2018), averaged over the triplets above zero (batch-all, Hermans et al. 2017).
    """
    z = F.normalize(z, dim=1)
    squared = (2 - 2 * z @ z.T).clamp(min=0)
    same = y[:, None] == y[None]
    positive = same & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    violation = (squared[:, :, None] - squared[:, None, :] + margin).clamp(min=0)  # [anchor, positive, negative]
    violation = violation * (positive[:, :, None] & ~same[:, None, :])
    return violation.sum() / (violation > 0).sum().clamp(min=1)


def cosine_pair_loss(z: Tensor, y: Tensor, margin: float) -> Tensor:
    """Return the contrastive loss on cosine similarity over every pair of the batch; z [B, 64], classes y [B].

    1 - cos for two clips of one class, max(0, cos - margin) for two classes (siamese training, Lian et al., ASMMC-MMAC 2018;
    PyTorch's CosineEmbeddingLoss), the two kinds of pairs weighing the same.
    """
    cosines = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T
    same = (y[:, None] == y[None]).float()
    off_diagonal = 1 - torch.eye(len(y), device=y.device)
    together, apart = same * off_diagonal, 1 - same
    pull = ((1 - cosines) * together).sum() / together.sum().clamp(min=1)
    push = ((cosines - margin).clamp(min=0) * apart).sum() / apart.sum().clamp(min=1)
    return pull + push
