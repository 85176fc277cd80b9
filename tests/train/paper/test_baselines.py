"""The losses that the paper's is compared with, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_ser.errors import ConfigError
from edge_ser_train.method.config import LossConfig
from edge_ser_train.method.losses import centre_scores, joint_loss, update_centres
from edge_ser_train.paper.baselines import (
    ISLAND_WEIGHT,
    MARGIN,
    cosine_pair_loss,
    criterion,
    moved_centres,
    separation_loss,
    triplet_loss,
)


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


def test_a_criterion_minimises_what_its_name_says() -> None:
    logits, z, y = torch.randn(6, 4, requires_grad=True), torch.randn(6, 64), torch.tensor([0, 0, 1, 1, 1, 3])
    centres, omega = torch.randn(4, 64), torch.ones(4)
    joint = joint_loss(logits, z, y, centres, omega, 0.3)
    island = 0.3 * ISLAND_WEIGHT * separation_loss(moved_centres(centres, z, y, 0.5))
    expected = {
        "joint": joint.total,
        "triplet": triplet_loss(z, y, MARGIN),
        "cosine_pairs": cosine_pair_loss(z, y, MARGIN),
        "island": joint.total + island,
    }
    for kind, total in expected.items():
        named = criterion(LossConfig(kind=kind, alpha=0.5))
        losses = named.loss(logits, z, y, centres, omega, 0.3)
        assert named.kind == kind
        torch.testing.assert_close(losses.total, total)
        assert (losses.softmax, losses.center) == (joint.softmax, joint.center)
        (gradient,) = torch.autograd.grad(losses.total, logits, retain_graph=True)  # FC2 has one, if only 0
        assert bool(gradient.any()) == (kind in ("joint", "island"))
    warm = criterion(LossConfig(kind="island")).loss(logits, z, y, centres, omega, 0.0)
    assert warm.total == joint.softmax
    with pytest.raises(ConfigError, match=r"loss\.kind is 'tripet' \(did you mean 'triplet'"):
        criterion(LossConfig(kind="tripet"))


def test_without_a_classifier_the_nearest_centre_in_direction_answers() -> None:
    z = np.array([[2, 0], [0, 3]], dtype=np.float32)
    scores = centre_scores(np.zeros((2, 2), np.float32), z, np.array([[0, 1], [9, 0]], dtype=np.float32))
    np.testing.assert_allclose(scores, [[-2, 0], [0, -2]], atol=1e-6)
