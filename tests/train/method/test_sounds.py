"""Copies of clips as everyday devices hear them, worked out on made sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ser.arrays import Float32Array
from edge_ser.errors import ConfigError
from edge_ser.frontend.features import LOGMEL_V1, extract
from edge_ser_train.corpora.tables import read_corpus
from edge_ser_train.method import copies as module
from edge_ser_train.method.config import AugmentConfig, TrainConfig, load_preset
from edge_ser_train.method.copies import load_copies
from edge_ser_train.method.dataset import draw_epoch, load_features
from edge_ser_train.method.sounds import RATE_HZ, coloured_noise, heard_elsewhere, reverberate, speech_span


@pytest.fixture(scope="module")
def spoken() -> Float32Array:
    """Two seconds, of which .5 to 1.4 s are loud."""
    samples = 1e-4 * np.random.default_rng(0).standard_normal(2 * RATE_HZ).astype(np.float32)
    samples[RATE_HZ // 2 : 7 * RATE_HZ // 5] *= 1000
    return samples


def test_the_speech_is_found(spoken: Float32Array) -> None:
    start, stop = speech_span(extract(spoken, LOGMEL_V1), LOGMEL_V1)
    assert abs(start - RATE_HZ // 2) <= LOGMEL_V1.frame_samples
    assert abs(stop - 7 * RATE_HZ // 5) <= LOGMEL_V1.frame_samples


def test_a_room_decays_as_it_is_told() -> None:
    click = np.zeros(RATE_HZ, dtype=np.float32)
    click[0] = 1
    heard = reverberate(click, 0.4, 6.0, np.random.default_rng(1))
    assert heard[0] == pytest.approx(1)
    assert 10 * np.log10(np.square(heard[1:]).sum()) == pytest.approx(-6, abs=0.01)
    early, late = (np.square(heard[int(t * RATE_HZ) : int((t + 0.05) * RATE_HZ)]).sum() for t in (0.1, 0.3))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=3)  # 60 dB in .4 s


def test_noise_has_power_1() -> None:
    assert coloured_noise(RATE_HZ, np.random.default_rng(2)).std() == pytest.approx(1, abs=1e-4)


def test_copies_are_many_kinds_and_always_the_same(spoken: Float32Array) -> None:
    span = (RATE_HZ // 2, 7 * RATE_HZ // 5)
    heard = [heard_elsewhere(spoken, span, [spoken], np.random.default_rng(i)) for i in range(150)]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in heard)
    seconds = np.array([len(x) / RATE_HZ for x in heard])
    assert 0.4 <= seconds.min() < 1.5
    assert 3 < seconds.max() < 4.5
    peaks = 20 * np.log10([np.abs(x).max() for x in heard])
    assert -61 < peaks.min() < -30 < -2 < peaks.max() <= 0.01
    digital = sum(bool((x[:160] == 0).all() or (x[-160:] == 0).all()) for x in heard)
    assert 10 < digital < 75
    np.testing.assert_array_equal(heard_elsewhere(spoken, span, [spoken], np.random.default_rng(3)), heard[3])


def test_copies_are_made_once(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_corpus(tiny_data, "tiny")[:4]
    features = load_features(clips, LOGMEL_V1, tmp_path)
    made = load_copies(clips, features, 2, LOGMEL_V1, tmp_path)
    assert [len(of) for of in made] == [2] * 4
    monkeypatch.setattr(module, "_fill", lambda *_: pytest.fail("made again"))
    for of, again in zip(made, load_copies(clips, features, 2, LOGMEL_V1, tmp_path), strict=True):
        for x, y in zip(of, again, strict=True):
            np.testing.assert_array_equal(x, y)
    assert load_copies(clips, features, 0, LOGMEL_V1, tmp_path) == [[]] * 4


def test_an_epoch_takes_copies_at_their_share() -> None:
    config = load_preset("edge")
    config = replace(config, augment=replace(config.augment, copies=2, copied=0.6))
    features = [np.zeros((60 + i % 7, 128), dtype=np.float32) for i in range(400)]
    copies = [[np.full((80, 128), v, dtype=np.float32) for v in (1, 2)] for _ in features]
    epoch = draw_epoch(3, features, copies, config)
    drawn = np.bincount([int(x[0, 0]) for x in epoch.features], minlength=3) / 400
    np.testing.assert_allclose(drawn, [0.4, 0.3, 0.3], atol=0.08)
    again = draw_epoch(3, features, copies, config)
    assert [int(x[0, 0]) for x in again.features] == [int(x[0, 0]) for x in epoch.features]


@pytest.mark.parametrize("augment", [AugmentConfig(copies=2), AugmentConfig(copied=0.5)])
def test_copies_and_their_share_go_together(augment: AugmentConfig) -> None:
    with pytest.raises(ConfigError, match=r"augment\.copied is"):
        TrainConfig(augment=augment)
