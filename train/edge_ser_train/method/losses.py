"""The joint loss of Dai et al. (ICASSP 2019), its equations as the paper numbers them.

ω_j ∝ 1 / N_j                                                     class weights, from the training counts
L_s = Σ ω_{y_i} · (-log softmax(logits_i)[y_i]) / Σ ω_{y_i}       (5) weighted softmax loss
L_c = Σ ω_{y_i} · ||z_i - c_{y_i}||²           / Σ ω_{y_i}        (6) weighted center loss (no 1/2, z not normalised)
L = L_s + λ L_c                                                   (7)
ċ_j = mean{z_i : y_i = j}                                         (3) after each step, no gradient
c_j ← (1 - α) c_j + α ċ_j                                         (4) a class absent from the batch keeps its centre
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ser.arrays import Float32Array
from edge_ser.errors import CorpusError
from edge_ser_train.corpora.clips import NO_CLASS


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
    """Return L_s (eq. 5) of logits [B, n_classes], classes y [B], weights ω [n_classes]."""
    w = omega[y]
    return (w * F.cross_entropy(logits, y, reduction="none")).sum() / w.sum()


def weighted_center_loss(z: Tensor, y: Tensor, centres: Tensor, omega: Tensor) -> Tensor:
    """Return L_c (eq. 6) of features z [B, 64], classes y [B], centres [n_classes, 64], weights ω [n_classes]."""
    w = omega[y]
    return (w * (z - centres[y]).square().sum(dim=1)).sum() / w.sum()


class Losses(NamedTuple):
    """The losses of a batch, a number each."""

    total: Tensor
    """L, which is minimised."""
    softmax: Tensor
    """L_s."""
    center: Tensor
    """L_c."""


Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Losses]
"""From logits [B, n_classes], z [B, 64], classes y [B], centres [n_classes, 64], ω [n_classes] and λ."""


def joint_loss(logits: Tensor, z: Tensor, y: Tensor, centres: Tensor, omega: Tensor, lambda_center: float) -> Losses:
    """Return L = L_s + λ L_c (eq. 7), L_s and L_c, of what :data:`Loss` lists."""
    softmax, center = weighted_softmax_loss(logits, y, omega), weighted_center_loss(z, y, centres, omega)
    return Losses(softmax + lambda_center * center if lambda_center else softmax, softmax, center)


@torch.no_grad()
def update_centres(centres: Tensor, z: Tensor, y: Tensor, alpha: float) -> None:
    """Move ``centres`` [n_classes, 64] in place towards the batch's class means (eqs. 3, 4); z [B, 64], y [B]."""
    z, y = z[y != NO_CLASS], y[y != NO_CLASS]
    sums = torch.zeros_like(centres).index_add_(0, y, z.detach().to(centres.dtype))
    counts = torch.bincount(y, minlength=len(centres))
    present = counts > 0
    means = sums[present] / counts[present, None]
    centres[present] = (1 - alpha) * centres[present] + alpha * means


@dataclass(frozen=True)
class Criterion:
    """What a run minimises, and how its answers are judged."""

    kind: str
    """Its name, which ``loss.kind`` says."""
    loss: Loss
    scores: Callable[[Float32Array, Float32Array, Float32Array], Float32Array]
    """From logits [n, n_classes], z [n, 64] and centres [n_classes, 64] to scores [n, n_classes], whose highest is the answer."""


JOINT = Criterion("joint", joint_loss, lambda logits, z, centres: logits)
"""The paper's."""

WITHOUT_CLASSIFIER = ("triplet", "cosine_pairs")
"""Kinds of loss that train no FC2: their embeddings are classified by the class centres, or by an SVM."""


def centre_scores(logits: Float32Array, z: Float32Array, centres: Float32Array) -> Float32Array:
    """Return minus the squared distances [n, n_classes] of unit-length z [n, 64] and centres [n_classes, 64]."""

    def unit(x: Float32Array) -> Float32Array:
        length: Float32Array = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return x / length

    scores: Float32Array = 2 * unit(z) @ unit(centres).T - 2
    return scores
