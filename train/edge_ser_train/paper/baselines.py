"""What the joint loss is compared with, on the same network and split: :func:`criterion` has them by ``loss.kind``.

The losses the paper argues against (triplets, cosine-similarity pairs, each followed by an SVM), and the one its last section
asks for (centres pushed apart).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ser.arrays import Float32Array, Int64Array
from edge_ser.errors import ConfigError, did_you_mean
from edge_ser_train.method.config import LossConfig
from edge_ser_train.method.losses import JOINT, Criterion, Loss, Losses, centre_scores, joint_loss
from edge_ser_train.metrics import confusion_matrix, unweighted_accuracy

MARGIN = 0.2
"""Of triplets (squared distance) and cosine-similarity pairs (cosine)."""
ISLAND_WEIGHT = 10.0
"""Of the island loss, inside lambda."""


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


def separation_loss(centres: Tensor) -> Tensor:
    """Return the island loss (Cai et al., FG 2018): 1 + cosine of each pair of centres [n_classes, 64], averaged over pairs.

    0 when all point away from each other, 2 when they coincide in direction.
    """
    cosines = F.cosine_similarity(centres[:, None], centres[None], dim=2)
    n = len(centres)
    return 1 + (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))


def moved_centres(centres: Tensor, z: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Return where ``update_centres`` will put the centres, with the gradient towards z [B, 64]; absent classes stay."""
    means = torch.zeros_like(centres).index_add(0, y, z)
    counts = torch.bincount(y, minlength=len(centres))[:, None]
    return torch.where(counts > 0, (1 - alpha) * centres + alpha * means / counts.clamp(min=1), centres)


def _of_embedding(embedding_loss: Callable[[Tensor, Tensor, float], Tensor]) -> Loss:
    """Return a loss of z and y alone, whose λ and centres do nothing."""

    def loss(logits: Tensor, z: Tensor, y: Tensor, centres: Tensor, omega: Tensor, lambda_center: float) -> Losses:
        _, softmax, center = joint_loss(logits, z, y, centres, omega, 0.0)
        return Losses(embedding_loss(z, y, MARGIN) + 0 * logits.sum(), softmax, center)  # FC2 learns nothing; its gradient is 0

    return loss


def _island(alpha: float) -> Loss:
    """Return the joint loss with the island loss of the centres beside L_c."""

    def loss(logits: Tensor, z: Tensor, y: Tensor, centres: Tensor, omega: Tensor, lambda_center: float) -> Losses:
        plain = joint_loss(logits, z, y, centres, omega, 0.0)
        if not lambda_center:
            return plain
        pull = plain.center + ISLAND_WEIGHT * separation_loss(moved_centres(centres, z, y, alpha))
        return plain._replace(total=plain.softmax + lambda_center * pull)

    return loss


def criterion(config: LossConfig) -> Criterion:
    """Return what ``loss.kind`` names; ConfigError for an unknown one."""
    known = {
        "joint": JOINT,
        "triplet": Criterion("triplet", _of_embedding(triplet_loss), centre_scores),
        "cosine_pairs": Criterion("cosine_pairs", _of_embedding(cosine_pair_loss), centre_scores),
        "island": Criterion("island", _island(config.alpha), JOINT.scores),
    }
    if config.kind not in known:
        raise ConfigError(f"loss.kind is {config.kind!r}{did_you_mean(config.kind, known)}; expected one of {', '.join(known)}")
    return known[config.kind]


def fit_svm(
    x: Mapping[str, Float32Array], y: Mapping[str, Int64Array], kernel: str, c_grid: Sequence[float]
) -> tuple[float, float, Any]:
    """Fit an SVM on train, C chosen by dev UA, the smaller one of equals; return that UA, C and the classifier."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    best: tuple[float, float, Any] = (-1.0, 0.0, None)
    for c in c_grid:
        svc = SVC(C=c, kernel=kernel, class_weight="balanced", break_ties=True, random_state=0)
        fitted = make_pipeline(StandardScaler(), svc).fit(x["train"], y["train"])
        ua = float(unweighted_accuracy(confusion_matrix(y["dev"], fitted.predict(x["dev"]), int(y["train"].max()) + 1)))
        best = max(best, (ua, c, fitted), key=lambda entry: entry[0])
    return best


def svm(z: dict[str, Float32Array], y: dict[str, Int64Array]) -> tuple[str, dict[str, Float32Array]]:
    """Fit an SVM on the training embeddings; return its description and its scores."""
    _, c, fitted = fit_svm(z, y, "rbf", (0.1, 1.0, 10.0))
    return f"SVM (RBF, C = {c:g})", {part: np.asarray(fitted.decision_function(x), dtype=np.float32) for part, x in z.items()}
