"""The losses and the centre update of Dai et al. (ICASSP 2019), against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from edge_ser.errors import CorpusError
from edge_ser_train.method.losses import (
    class_weights,
    cosine_pair_loss,
    moved_centres,
    outlier_loss,
    separation_loss,
    triplet_loss,
    update_centres,
    weighted_center_loss,
    weighted_softmax_loss,
)


def test_class_weights_are_inverse_counts() -> None:
    omega = class_weights([100, 50, 25])
    assert omega[1] / omega[0] == pytest.approx(2)
    assert omega[2] / omega[0] == pytest.approx(4)
    assert omega.mean() == pytest.approx(1)
    with pytest.raises(CorpusError, match="at least one clip"):
        class_weights([3, 0])


def test_outlier_loss_by_hand() -> None:
    # Half of -log p of either class: logits (1, 0) have -log p of ln(1 + e^-1) and 1 + ln(1 + e^-1); least where all are equal.
    assert outlier_loss(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.5 + math.log(1 + math.exp(-1)), abs=1e-6)
    assert outlier_loss(torch.zeros(3, 4)).item() == pytest.approx(math.log(4), abs=1e-6)


def test_weighted_softmax_loss_by_hand() -> None:
    # -log softmax: row 0, class 0: log(1 + e^-1 ...) with logits (1, 0): ln(1 + e^-1); row 1, class 1, logits (0, 0): ln 2.
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    y = torch.tensor([0, 1])
    omega = torch.tensor([1.0, 3.0])
    expected = (1 * math.log(1 + math.exp(-1)) + 3 * math.log(2)) / 4
    assert weighted_softmax_loss(logits, y, omega).item() == pytest.approx(expected, abs=1e-6)


def test_weighted_center_loss_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    centres = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    loss = weighted_center_loss(z, torch.tensor([0, 1]), centres, torch.tensor([2.0, 1.0]))
    assert loss.item() == pytest.approx((2 * 5 + 1 * 25) / 3)  # squared distances 5 and 25: no half, no root
    loss.backward()
    # d/dz = 2 ω (z - c) / Σω
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.tensor([[4 / 3, 8 / 3], [-2.0, -8 / 3]]))


def test_centres_move_by_alpha_to_the_class_mean_and_absent_classes_stay() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 10.0], [5.0, 5.0]])
    z = torch.tensor([[2.0, 0.0], [4.0, 2.0], [0.0, 0.0]], requires_grad=True)
    update_centres(centres, z, torch.tensor([0, 0, 1]), alpha=0.5)
    torch.testing.assert_close(centres, torch.tensor([[1.5, 0.5], [5.0, 5.0], [5.0, 5.0]]))
    assert not centres.requires_grad
    update_centres(centres, z, torch.tensor([0, 0, 1]), alpha=1.0)
    torch.testing.assert_close(centres[0], torch.tensor([3.0, 1.0]))


def test_a_class_count_does_not_weigh_in_a_balanced_batch_of_one_class() -> None:
    """Weights are normalised inside the batch, so a batch of one class has the plain mean loss."""
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    y = torch.full((5,), 2)
    plain = torch.nn.functional.cross_entropy(logits, y)
    torch.testing.assert_close(weighted_softmax_loss(logits, y, class_weights([7, 1, 90])), plain)


def test_triplets_by_hand() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    # Unit length: a = (1, 0), p = (0, 1), n = (1, 0). Triplets (a, p, n): 2 - 0 + m; (p, a, n): 2 - 2 + m.
    assert triplet_loss(z, y, 0.2).item() == pytest.approx((2.2 + 0.2) / 2)
    assert triplet_loss(z[1:], y[1:], 0.2).item() == 0  # no positive pair


def test_cosine_pairs_by_hand() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    y = torch.tensor([0, 0, 1])
    # Same class: cos 0 -> 1. Different: cos .7071 twice -> .7071 - .2.
    assert cosine_pair_loss(z, y, 0.2).item() == pytest.approx(1 + 2**-0.5 - 0.2)


def test_separation_is_the_mean_cosine_of_centres() -> None:
    assert separation_loss(torch.tensor([[1.0, 0], [-2.0, 0]])).item() == pytest.approx(0)
    assert separation_loss(torch.tensor([[1.0, 0], [2.0, 0]])).item() == pytest.approx(2)
    assert separation_loss(torch.eye(4)).item() == pytest.approx(1)


def test_moved_centres_are_where_the_update_puts_them_and_pass_the_gradient() -> None:
    z = torch.randn(6, 64, requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 1, 3])
    centres = torch.randn(4, 64)
    moved = moved_centres(centres, z, y, 0.3)
    updated = centres.clone()
    update_centres(updated, z, y, 0.3)
    torch.testing.assert_close(moved.detach(), updated)
    separation_loss(moved).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


def test_smoothing_and_soft_targets_are_torchs() -> None:
    logits, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    omega = torch.ones(3)
    smooth = weighted_softmax_loss(logits, y, omega, smoothing=0.1)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, y, label_smoothing=0.1))
    soft = torch.softmax(torch.randn(5, 3), dim=1)
    mixed = weighted_softmax_loss(logits, y, omega, soft=soft, soft_share=0.25)
    torch.testing.assert_close(mixed, 0.75 * F.cross_entropy(logits, y) + 0.25 * F.cross_entropy(logits, soft))
