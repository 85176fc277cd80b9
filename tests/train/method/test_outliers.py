"""Sound without speech: what it sounds like, and what its loss is, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from edge_ser_train.corpora.clips import NO_CLASS
from edge_ser_train.method.losses import joint_loss
from edge_ser_train.method.outliers import KINDS, no_speech, outlier_loss, with_outliers


def test_outlier_loss_by_hand() -> None:
    # Half of -log p of either class: logits (1, 0) have -log p of ln(1 + e^-1) and 1 + ln(1 + e^-1); least where all are equal.
    assert outlier_loss(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.5 + math.log(1 + math.exp(-1)), abs=1e-6)
    assert outlier_loss(torch.zeros(3, 4)).item() == pytest.approx(math.log(4), abs=1e-6)


def test_rows_without_a_class_count_by_their_share() -> None:
    logits, z, y = torch.randn(4, 3), torch.randn(4, 64), torch.tensor([0, NO_CLASS, 2, 1])
    centres, omega, clips = torch.randn(3, 64), torch.ones(3), y != NO_CLASS
    plain = joint_loss(logits[clips], z[clips], y[clips], centres, omega, 0.3)
    total, *others = with_outliers(joint_loss)(logits, z, y, centres, omega, 0.3)
    torch.testing.assert_close(total, plain.total + outlier_loss(logits[1:2]) / 4)
    assert others == [plain.softmax, plain.center]


def test_sound_without_speech() -> None:
    sounds = [no_speech(48000, 16000, np.random.default_rng(i)) for i in range(200)]
    assert all(x.shape == (48000,) and x.dtype == np.float32 and np.isfinite(x).all() for x in sounds)
    levels = [20 * np.log10(max(1e-9, float(x.std()))) for x in sounds]
    assert -20 < max(levels) < -9.9
    assert 10 < sum(np.abs(x).max() <= 2 / 32768 for x in sounds) < 40  # next to none
    spectra = [np.abs(np.fft.rfft(x[:16000])) + 1e-12 for x in sounds]
    # Of noise alone, the greatest of 8,000 magnitudes is some 3.6 times its neighbours' median.
    tonal = sum((s / median_filter(s, 101)).max() > 8 for s in spectra)
    assert 60 < tonal < 140  # a hum, a whistle or notes in half of them
    np.testing.assert_array_equal(no_speech(48000, 16000, np.random.default_rng(7)), sounds[7])


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_sound_has_power_however_short(name: str) -> None:
    kind, _ = KINDS[name]
    for i in range(100):
        sound = kind(8000, 16000, np.random.default_rng(i))
        assert sound.shape == (8000,)
        assert sound.std() == pytest.approx(1), i
