from __future__ import annotations

import numpy as np
import pytest

from edge_ser.arrays import Float32Array
from edge_ser_train.evaluate.conditions import (
    BABBLE,
    CONDITIONS,
    RATE_HZ,
    babble,
    clipped,
    coloured_noise,
    command,
    distant,
    in_room,
    lose_packets,
    own_floor,
    speech_bounds,
    speech_part,
    under_conditions,
    with_offset,
)
from edge_ser_train.method.sounds import quiet_ends


def vowel(seconds: float, hz: float = 140) -> Float32Array:
    """A voice of many harmonics, [n]."""
    t = np.arange(round(RATE_HZ * seconds)) / RATE_HZ
    harmonics = np.arange(1, 12)[:, None]
    return np.asarray(0.05 * (np.sin(2 * np.pi * hz * harmonics * t) / harmonics).sum(axis=0), dtype=np.float32)


@pytest.fixture(scope="module")
def clip() -> Float32Array:
    """A vowel of 1.5 s between 0.7 s and 0.5 s of a soft brown floor."""
    samples = 1e-4 * np.random.default_rng(5).standard_normal(round(2.7 * RATE_HZ)).cumsum().astype(np.float32) / 100
    samples[round(0.7 * RATE_HZ) :][: round(1.5 * RATE_HZ)] += vowel(1.5)
    return np.asarray(samples, dtype=np.float32)


def db(samples: Float32Array) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def test_quiet_ends_are_what_lies_around_the_speech() -> None:
    x = (np.random.default_rng(2).standard_normal((200, 128)) * 5 - 80).astype(np.float32)
    x[60:150] += 40
    assert quiet_ends(x) == (60, 50)
    assert quiet_ends(np.zeros((60, 128), dtype=np.float32)) == (0, 0)


def test_speech_is_found_and_a_part_of_it_is_speech(clip: Float32Array) -> None:
    start, stop = speech_bounds(clip)
    assert start / RATE_HZ == pytest.approx(0.7, abs=0.05)
    assert stop / RATE_HZ == pytest.approx(2.2, abs=0.05)
    parts = [speech_part(clip, 0.5, np.random.default_rng(seed)) for seed in range(20)]
    assert {len(part) for part in parts} == {RATE_HZ // 2}
    assert len({part.tobytes() for part in parts}) > 15
    # A frame that ends in the quiet is speech, so up to 40 ms of a part may be none.
    assert all(db(part) > db(vowel(1.5)) - 1 for part in parts)
    assert len(speech_part(clip, 9, np.random.default_rng(0))) == stop - start
    short = vowel(0.2)
    assert 0 < len(speech_part(short, 0.5, np.random.default_rng(0))) <= len(short)


def test_noise_has_its_colour() -> None:
    for exponent in (0, 1, 2):
        power = np.abs(np.fft.rfft(coloured_noise(64000, exponent, np.random.default_rng(0)))) ** 2
        decade = 10 * np.log10(power[200:400].mean() / power[2000:4000].mean())
        assert decade == pytest.approx(10 * exponent, abs=1)


@pytest.mark.parametrize(("reverberation_s", "direct_db"), [(0.6, -3), (0.2, 12)])
def test_a_room_has_its_reverberation(reverberation_s: float, direct_db: float) -> None:
    click = np.zeros(RATE_HZ, dtype=np.float32)
    click[0] = 1
    heard = in_room(click, reverberation_s, direct_db, np.random.default_rng(0))
    tail = heard[1:].astype(np.float64)
    assert heard[0] == pytest.approx(1)
    assert 10 * np.log10(np.square(tail).sum()) == pytest.approx(-direct_db, abs=0.01)
    # Schroeder's integral falls by 60 dB in the reverberation time; it is read at its first 30.
    left = 10 * np.log10(np.square(tail)[::-1].cumsum()[::-1] / np.square(tail).sum())
    assert 2 * np.argmax(left < -30) / RATE_HZ == pytest.approx(reverberation_s, rel=0.1)


def test_a_distant_microphone_is_as_loud_as_before(clip: Float32Array) -> None:
    heard = distant(clip, np.random.default_rng(0))
    assert heard.shape == clip.shape
    assert db(heard) == pytest.approx(db(clip), abs=0.01)
    behind = slice(round(2.25 * RATE_HZ), round(2.35 * RATE_HZ))
    assert db(heard[behind]) > db(clip[behind]) + 20


def test_the_floor_is_the_clips_own(clip: Float32Array) -> None:
    hum = clip + 1e-3 * np.sin(2 * np.pi * 500 * np.arange(len(clip)) / RATE_HZ).astype(np.float32)
    floor = own_floor(hum, RATE_HZ, np.random.default_rng(0))
    assert len(floor) == RATE_HZ
    assert db(floor) == pytest.approx(db(hum[: RATE_HZ // 10]), abs=1)
    power = np.abs(np.fft.rfft(floor)) ** 2
    assert power[480:520].sum() > 0.5 * power.sum(), "the hum lasts"
    silent = np.concatenate([np.zeros(8000, dtype=np.float32), vowel(1)])
    assert not own_floor(silent, RATE_HZ, np.random.default_rng(0)).any()
    between = CONDITIONS["1 s of its floor on both sides"](clip, np.random.default_rng(0))
    assert between[RATE_HZ:-RATE_HZ].tobytes() == clip.tobytes()


def test_zeros_lie_around_the_clip(clip: Float32Array) -> None:
    rng = np.random.default_rng(0)
    behind, around = (CONDITIONS[f"1 s of zeros {where}"](clip, rng) for where in ("behind", "on both sides"))
    assert behind.tobytes() == clip.tobytes() + bytes(4 * RATE_HZ)
    assert around.tobytes() == bytes(4 * RATE_HZ) + clip.tobytes() + bytes(4 * RATE_HZ)


def test_a_command_is_short_and_lies_in_noise(clip: Float32Array) -> None:
    heard = [command(clip, np.random.default_rng(seed)) for seed in range(100)]
    seconds = np.array([len(h) / RATE_HZ for h in heard])
    assert 1.2 <= seconds.min() < 1.4
    assert 3 < seconds.max() <= 3.2
    peaks = 20 * np.log10([np.abs(h).max() for h in heard])
    assert -25.01 < peaks.min() < -23
    assert -2 < peaks.max() < 0.01
    blocks = [[db(h[i : i + 800]) for i in range(0, len(h) - 800, 800)] for h in heard]
    speech_to_noise = [np.percentile(b, 98) - np.percentile(b, 5) for b in blocks]
    assert min(speech_to_noise) < 9
    assert max(speech_to_noise) > 25
    loudest = [np.argmax(b) / len(b) for b in blocks]
    assert min(loudest) < 0.2, "said at once"
    assert max(loudest) > 0.6, "said late"
    short = vowel(0.1)
    assert all(len(command(short, np.random.default_rng(seed))) > RATE_HZ for seed in range(5))


def test_babble_is_other_clips_at_its_level(clip: Float32Array) -> None:
    voices = [vowel(0.6, hz) for hz in (100, 170, 230)]
    noise = babble(clip, voices, 10, np.random.default_rng(0)) - clip
    assert db(clip) - db(noise) == pytest.approx(10, abs=0.01)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    near = np.min([np.abs(hz - k * f0) for f0 in (100, 170, 230) for k in range(1, 12)], axis=0) < 10
    assert power[near].sum() > 0.9 * power.sum()


def test_offset_and_clipping(clip: Float32Array) -> None:
    assert with_offset(clip, 0.05) == pytest.approx(clip / 2 + 0.05, abs=1e-7)
    peak = np.abs(clip).max()
    cut_off = clipped(clip, 0.2)
    assert np.abs(cut_off).max() == pytest.approx(peak, rel=1e-5)
    kept = np.abs(clip) < 0.2 * peak
    assert 0.3 < kept.mean() < 0.9
    assert cut_off[kept] == pytest.approx(5 * clip[kept], rel=1e-5)


def test_packets_are_lost_whole_and_in_bursts() -> None:
    kept = lose_packets(np.ones(20 * 320 * 500, dtype=np.float32), 0.1, np.random.default_rng(0)).reshape(-1, 320)
    assert set(kept.sum(axis=1).tolist()) == {0, 320}
    lost = kept[:, 0] == 0
    assert lost.mean() == pytest.approx(0.1, abs=0.02)
    bursts = np.sum(lost[1:] & ~lost[:-1])
    assert lost.sum() / bursts == pytest.approx(2, abs=0.2)


def test_every_model_hears_the_same(clip: Float32Array) -> None:
    voices = [vowel(0.6, hz) for hz in (100, 170, 230)]
    before = clip.tobytes()
    one, again, other = (under_conditions(clip, key, voices) for key in ("c/a.flac", "c/a.flac", "c/b.flac"))
    assert list(one) == [*CONDITIONS, BABBLE]
    assert {name: samples.tobytes() for name, samples in one.items()} == {n: s.tobytes() for n, s in again.items()}
    differ = {name for name in one if one[name].tobytes() != other[name].tobytes()}
    random = {"command", "0.5 s of speech alone", "1 s of its floor on both sides", "distant microphone", BABBLE}
    assert differ == random | {"pink noise, 20 dB SNR", "telephone, 10 % of packets lost"}
    assert clip.tobytes() == before
    assert {samples.dtype for samples in one.values()} == {np.dtype(np.float32)}
