from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_ser import AudioError, ConfigError, EmotionRecognizer
from edge_ser.arrays import Float32Array
from edge_ser.commands._options import configured
from edge_ser.live.capture import Captured
from edge_ser.live.listener import Event, Listener, Overrun, SpeechStarted, ToneChanged, UtteranceAnswered, listen
from edge_ser.live.screen import Screen
from edge_ser.live.segmenter import RATE_HZ, SegmenterConfig, utterances
from edge_ser.live.tone import ToneConfig
from tests.sounds import loud


@pytest.fixture(scope="module")
def talk(real_clips: list[Path]) -> Float32Array:
    """Three real recordings with silence between them."""
    parts = [np.zeros(RATE_HZ, dtype=np.float32)]
    for clip in real_clips[3:40:16]:
        samples, _ = soundfile.read(clip, dtype="float32")
        parts += [0.5 * samples / np.abs(samples).max(), np.zeros(RATE_HZ, dtype=np.float32)]
    return np.concatenate(parts)


def answers(events: list[Event]) -> list[UtteranceAnswered]:
    return [event for event in events if isinstance(event, UtteranceAnswered)]


def test_an_answer_is_what_predict_says_of_the_utterance(recognizer: EmotionRecognizer, talk: Float32Array) -> None:
    listener = Listener(recognizer)
    events = [e for chunk in np.split(talk, range(320, len(talk), 320)) for e in listener.feed(chunk)] + listener.finish()
    found = list(utterances([talk]))
    assert len(answers(events)) == len(found) == listener.utterances > 1
    for event, utterance in zip(answers(events), found, strict=True):
        assert (event.start_s, event.stop_s) == (utterance.start_s, utterance.stop_s)
        assert np.array_equal(event.prediction.logits, recognizer.predict(utterance.audio).logits)
    assert listener.time_s == len(talk) / RATE_HZ


def untimed(events: list[Event]) -> list[str]:
    """Return the events without what depends on the chunks: the moment they are told at."""
    records = [event.record() for event in events if event.name != "overrun"]
    hidden = ("time_s", "latency_ms", "compute_ms")
    return [json.dumps({key: value for key, value in r.items() if key not in hidden}) for r in records]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 30000), min_size=1, max_size=8))
def test_chunks_change_nothing(recognizer: EmotionRecognizer, talk: Float32Array, cuts: list[int]) -> None:
    whole = Listener(recognizer, detector=loud)
    expected = untimed(whole.feed(talk) + whole.finish())
    edges = np.cumsum(np.resize(cuts, len(talk)))
    listener = Listener(recognizer, detector=loud)
    events = [event for chunk in np.split(talk, edges[edges < len(talk)]) for event in listener.feed(chunk)]
    assert untimed(events + listener.finish()) == expected


def test_several_listeners_share_a_recogniser_in_asyncio(recognizer: EmotionRecognizer, talk: Float32Array) -> None:
    plain = Listener(recognizer, detector=loud)
    expected = untimed(plain.feed(talk) + plain.finish())

    async def conversation(chunk_samples: int) -> list[str]:
        listener, events = Listener(recognizer, detector=loud), list[Event]()
        for chunk in np.split(talk, range(chunk_samples, len(talk), chunk_samples)):
            events += await asyncio.to_thread(listener.feed, chunk)
        return untimed(events + listener.finish())

    async def everybody() -> list[list[str]]:
        return await asyncio.gather(*(conversation(n) for n in (800, 1111, 4000)))

    assert asyncio.run(everybody()) == [expected] * 3


def test_the_schema(recognizer: EmotionRecognizer, talk: Float32Array) -> None:
    """What programs rely on: a change of these keys is a change of the schema's version."""
    answer = ["label", "confidence", "probabilities", "speech", "duration_s"]
    schema = {
        "ready": ["schema", "version", "model", "labels", "source", "rate_hz"],
        "speech_start": ["start_s"],
        "estimate": answer,
        "utterance": ["start_s", "stop_s", "cut", *answer, "latency_ms", "compute_ms"],
        "tone": ["label", "confidence", "probabilities"],
        "overrun": ["overruns"],
        "end": ["reason", "utterances", "overruns"],
    }
    shown: list[Event] = []
    listen(Listener(recognizer), "test", [Captured(talk, 0.0, overruns=2)], shown.append, lambda: None)
    records = [json.loads(json.dumps(event.record(), allow_nan=False)) for event in shown]
    assert {record["event"] for record in records} == set(schema)
    for record in records:
        assert list(record) == ["event", "time_s", *schema[record["event"]]]
    assert records[0]["schema"] == 2
    assert records[0]["labels"] == list(recognizer.labels)
    assert (records[-1]["reason"], records[-1]["overruns"]) == ("ended", 2)


def test_estimates_come_on_the_way_and_no_more_often_than_asked(recognizer: EmotionRecognizer, talk: Float32Array) -> None:
    for estimate_s in (0.5, 1.5):
        listener = Listener(recognizer, estimate_s=estimate_s, detector=loud)
        lengths: list[float] = []
        for event in listener.feed(talk):
            if isinstance(event, SpeechStarted):
                lengths = [0.0]
            elif event.name == "estimate":
                lengths.append(event.record()["duration_s"])
                assert lengths[-1] - lengths[-2] >= estimate_s
    with pytest.raises(ConfigError, match=r"estimate_s is 0; expected 0.1 to 60 s"):
        Listener(recognizer, estimate_s=0)


def test_latency_counts_from_the_end_of_the_speech(recognizer: EmotionRecognizer) -> None:
    segmenter = SegmenterConfig(hangover_ms=320, post_roll_ms=0, pre_roll_ms=0)
    listener = Listener(recognizer, segmenter=segmenter, detector=loud)
    voice = (0.1 * np.random.default_rng(0).standard_normal(512 * 40)).astype(np.float32)
    listener.feed(voice)
    events: list[Event] = []
    while not answers(events):
        events = listener.feed(np.zeros(512, dtype=np.float32), arrived=time.monotonic() - 0.05)
    (answer,) = answers(events)
    assert answer.stop_s == pytest.approx(len(voice) / RATE_HZ)
    assert answer.latency_ms - answer.compute_ms == pytest.approx(320)
    assert answer.compute_ms >= 50
    assert answer.time_s == pytest.approx(answer.stop_s + 0.32)


def test_overruns_are_counted_and_told_once_a_second(recognizer: EmotionRecognizer) -> None:
    listener = Listener(recognizer, detector=loud)
    events = [e for _ in range(300) for e in listener.feed(np.zeros(160, dtype=np.float32), overruns=1)]
    assert [type(event) for event in events] == [Overrun] * 3
    assert listener.overruns == 300
    assert [event.record()["overruns"] for event in events] == [1, 101, 201]
    assert listener.ended("ended").overruns == 300


def test_the_end_says_why(recognizer: EmotionRecognizer) -> None:
    def torn(error: BaseException) -> Iterator[Captured]:
        yield Captured(np.zeros(16000, dtype=np.float32), time.monotonic())
        raise error

    shown: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        listen(Listener(recognizer, detector=loud), "x", torn(KeyboardInterrupt()), shown.append, lambda: None)
    assert shown[-1].record() == {"event": "end", "time_s": 1.0, "reason": "interrupted", "utterances": 0, "overruns": 0}
    shown = []
    with pytest.raises(AudioError, match="unplugged"):
        listen(Listener(recognizer, detector=loud), "x", torn(AudioError("was it\n unplugged?")), shown.append, lambda: None)
    assert shown[-1].record()["reason"] == "was it unplugged?"


def test_settings_are_read_by_name() -> None:
    segmenter, tone = configured(["threshold=0.7", "min_confidence=0.8"], SegmenterConfig, ToneConfig)
    assert (segmenter.threshold, tone.min_confidence) == (0.7, 0.8)
    for wrong, message in (
        ("hangover=3", "unknown setting 'hangover'.*; expected threshold, "),
        ("hangover_m=3", r"did you mean 'hangover_ms'\?"),
        ("hangover_ms", "expected NAME=VALUE"),
        ("hangover_ms=soon", "hangover_ms is 'soon'; expected a number"),
        ("max_s=99", "max_s is 99.0; expected 1 to 14 s"),
    ):
        with pytest.raises(click.BadParameter, match=message):
            configured([wrong], SegmenterConfig, ToneConfig)


def test_the_screen_without_a_terminal_is_a_table(recognizer: EmotionRecognizer, talk: Float32Array) -> None:
    out = io.StringIO()
    listener = Listener(recognizer, detector=loud)
    with Screen(listener, out, is_live=False) as screen:
        events = listener.feed(talk)
        for event in [*events, Overrun(3.0, 7)]:
            screen.show(event)
            screen.heard()
    text = out.getvalue()
    assert "\x1b" not in text
    header, *rows = text.splitlines()
    assert header.split()[:3] == ["start", "length", "emotion"]
    shown = [row for row in rows if row.endswith(" ms") or " ms  " in row]
    assert len(shown) == len(answers(events))
    for row, event in zip(shown, answers(events), strict=True):
        assert f" {event.prediction.label} " in row
        assert f"{event.prediction.confidence:.0%}" in row
    tones = [event.label for event in events if isinstance(event, ToneChanged)]
    assert [line.split("tone: ")[1] for line in rows if "tone: " in line] == tones
    assert "overrun 7" in text


def test_the_panel_is_drawn_in_place_ten_times_a_second_at_most(
    recognizer: EmotionRecognizer, talk: Float32Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    out, now = io.StringIO(), 0.0
    listener = Listener(recognizer, detector=loud)
    n_answers = 0
    with Screen(listener, out, is_live=True, clock=lambda: now) as screen:
        for chunk in np.split(talk, range(320, len(talk), 320)):
            now += 0.02
            for event in listener.feed(chunk):
                screen.show(event)
                n_answers += event.name == "utterance"
            screen.heard()
    text = out.getvalue()
    frames = text.count("○ silence") + text.count("● speech")
    assert 9 * now <= frames <= 10 * now + n_answers + 2
    assert "● speech" in text
    assert text.endswith("\x1b[?25h")
    # Every frame goes back over exactly the lines of the one before, unless a row was printed between.
    pieces = re.split(r"\x1b\[(\d+)A\x1b\[J", text)
    for drawn, up in zip(pieces[0::2], pieces[1::2], strict=False):
        assert drawn.split("\x1b[J")[-1].count("\n") == int(up)


def test_a_small_terminal_gets_a_small_panel(recognizer: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "5")
    out = io.StringIO()
    listener = Listener(recognizer, detector=loud)
    with Screen(listener, out, is_live=True) as screen:
        out.truncate(0)
        screen.heard()
    (line,) = re.sub(r"\x1b\[\??\d*\w", "", out.getvalue()).strip("\0").splitlines()
    assert len(line) < 40
    assert "silence" in line


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_panel_of_a_narrow_terminal_has_every_row(
    recognizer: EmotionRecognizer, talk: Float32Array, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "30")
    out = io.StringIO()
    listener = Listener(recognizer, detector=loud)
    with Screen(listener, out, is_live=True, clock=lambda: 0.0) as screen:
        for event in listener.feed(talk):
            screen.show(event)
        screen.heard()
    panel = out.getvalue().split("\x1b[J")[-1].removesuffix("\x1b[?25h").splitlines()
    assert max(map(len, panel)) < width
    text = "\n".join(panel)
    for part in ("dB", *recognizer.labels, "%", "tone", "answer computed in", "ms"):
        assert part in text, part
