"""The losses and the centre update of Dai et al. (ICASSP 2019), against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from edge_ser.errors import CorpusError
from edge_ser_train.corpora.clips import NO_CLASS
from edge_ser_train.method.losses import class_weights, joint_loss, update_centres, weighted_center_loss, weighted_softmax_loss


def test_class_weights_are_inverse_counts() -> None:
    omega = class_weights([100, 50, 25])
    assert omega[1] / omega[0] == pytest.approx(2)
    assert omega[2] / omega[0] == pytest.approx(4)
    assert omega.mean() == pytest.approx(1)
    with pytest.raises(CorpusError, match="at least one clip"):
        class_weights([3, 0])


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
    update_centres(centres, z, torch.tensor([0, NO_CLASS, 1]), alpha=1.0)
    torch.testing.assert_close(centres[0], torch.tensor([2.0, 0.0]))


def test_the_joint_loss_is_their_sum() -> None:
    logits, z, y = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 1])
    centres, omega = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([2.0, 1.0])
    softmax = (2 * math.log(1 + math.exp(-1)) + math.log(2)) / 3
    for lambda_center in (0.0, 0.3):
        losses = joint_loss(logits, z, y, centres, omega, lambda_center)
        found = [loss.item() for loss in losses]
        assert found == pytest.approx([softmax + lambda_center * 35 / 3, softmax, 35 / 3])


def test_a_class_count_does_not_weigh_in_a_balanced_batch_of_one_class() -> None:
    """Weights are normalised inside the batch, so a batch of one class has the plain mean loss."""
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    y = torch.full((5,), 2)
    plain = torch.nn.functional.cross_entropy(logits, y)
    torch.testing.assert_close(weighted_softmax_loss(logits, y, class_weights([7, 1, 90])), plain)
