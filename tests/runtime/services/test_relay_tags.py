"""``edge-ser serve --asr --tag``: each transcript has the tone of its own utterance."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from wyoming.asr import Transcript
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event

from edge_ser import EmotionRecognizer
from edge_ser.services.relay import MOST_UNJUDGED_BYTES
from tests.runtime.services.speech_to_text import StandIn, before, both, framed, judging_when_told, message, say
from tests.runtime.services.wyoming_clients import ANSWER_S, STOP, chunk_with, event, in_a_loop, start_with


@in_a_loop
async def test_the_tone_stands_in_the_text_where_asked_for(recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    answer = recognizer.predict(speech)
    noise = np.random.default_rng(0).normal(0, 3000, 32000).astype(np.int16)
    assert recognizer.predict((noise, 16000)).label == "no_speech"
    texts: list[str] = []

    async def reply(heard: Event, writer: asyncio.StreamWriter) -> None:
        if heard.type == "audio-stop":
            writer.write(message(Transcript(texts.pop(0), {"id": 7}, "en").event()))

    async with StandIn(reply) as asr, before(asr.uri, recognizer, tag=True) as relay:
        for spoken, text, expected in [
            (samples, "turn it off", f"[{answer.label}] turn it off"),
            (samples, "", ""),  # nothing was understood
            (noise, "turn it off", "turn it off"),
            (np.zeros(16000, np.int16), "turn it off", "turn it off"),  # cannot be judged at all
            (samples, "turn it off", f"[{answer.label}] turn it off"),
        ]:
            texts.append(text)
            async with AsyncClient.from_uri(relay.uri) as client:
                await say(client, spoken, rate_hz)
                transcript, _ = await both(client)
                assert Transcript.from_event(transcript) == Transcript(expected, {"id": 7}, "en")


def sounding(monkeypatch: pytest.MonkeyPatch, recognizer: EmotionRecognizer, labels: list[str]) -> None:
    """Have the utterances of a connection answered with ``labels``, in order."""
    stream, left = recognizer.stream, list(labels)

    def labelled(*given: Any) -> Any:
        made = stream(*given)
        finish = made.finish
        monkeypatch.setattr(made, "finish", lambda: replace(finish(), label=left.pop(0)))
        return made

    monkeypatch.setattr(recognizer, "stream", labelled)


async def texts_of(client: AsyncClient, n: int) -> list[str]:
    """Return the next ``n`` transcripts' texts; "" for an error event."""
    texts: list[str] = []
    while len(texts) < n:
        received = await event(client)
        if received.type in ("transcript", "error"):
            texts.append(received.data["text"] if received.type == "transcript" else "")
    return texts


def numbered(n: int, stop_at: int, pieces: Callable[[int], list[Event]]) -> Any:
    """Return a recogniser that answers ``n`` utterances, all once the ``stop_at``-th audio-stop came."""
    stops = 0

    async def reply(heard: Event, writer: asyncio.StreamWriter) -> None:
        nonlocal stops
        stops += heard.type == "audio-stop"
        if heard.type == "audio-stop" and stops == stop_at:
            for number in range(n):
                writer.writelines(map(message, pieces(number)))

    return reply


def plain(number: int) -> list[Event]:
    return [Transcript(f"text {number}").event()]


def streamed(number: int) -> list[Event]:
    chunk = Event("transcript-chunk", {"text": f"text {number}"})
    return [Event("transcript-start"), chunk, *plain(number), Event("transcript-stop")]


def failing_first(number: int) -> list[Event]:
    return plain(number) if number else [Error("it fell over").event()]


SILENT = [start_with(), chunk_with(bytes(32000)), STOP]
OF_8_BITS = [start_with(width=1), chunk_with(width=1), STOP]


@pytest.mark.parametrize(
    ("first", "pieces", "expected"),
    [
        (None, plain, ["[angry] text 0", "[neutral] text 1", "[happy] text 2"]),
        (None, streamed, ["[angry] text 0", "[neutral] text 1", "[happy] text 2"]),
        (None, failing_first, ["", "[neutral] text 1", "[happy] text 2"]),
        (SILENT, plain, ["text 0", "[angry] text 1", "[neutral] text 2"]),
        (OF_8_BITS, plain, ["text 0", "[angry] text 1", "[neutral] text 2"]),
        ([STOP], plain, ["text 0", "[angry] text 1", "[neutral] text 2"]),
        ([start_with(), chunk_with(), start_with(), STOP], plain, ["text 0", "[angry] text 1", "[neutral] text 2"]),
    ],
    ids=["plain", "streamed", "an error", "silence", "8 bits", "a stop alone", "a start over"],
)
@in_a_loop
async def test_utterances_sent_without_waiting_keep_their_tones(
    recognizer: EmotionRecognizer,
    speech: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: list[Event] | None,
    pieces: Callable[[int], list[Event]],
    expected: list[str],
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    sounding(monkeypatch, recognizer, ["angry", "neutral", "happy"])
    async with (
        StandIn(numbered(3, 3, pieces)) as asr,
        before(asr.uri, recognizer, tag=True) as relay,
        AsyncClient.from_uri(relay.uri) as client,
    ):
        for utterance in [first or framed(samples, rate_hz), *[framed(samples, rate_hz)] * 2]:
            for one in utterance:
                await client.write_event(one)
        assert await texts_of(client, 3) == expected


@in_a_loop
async def test_the_next_utterance_may_have_begun(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    sounding(monkeypatch, recognizer, ["angry", "neutral"])
    stops = 0

    async def reply(heard: Event, writer: asyncio.StreamWriter) -> None:
        """Answer the first utterance when the second has begun, and the second at once."""
        nonlocal stops
        stops += heard.type == "audio-stop"
        if heard.type == "mark" or (heard.type == "audio-stop" and stops == 2):
            writer.writelines(map(message, plain(stops)))

    async with StandIn(reply) as asr, before(asr.uri, recognizer, tag=True) as relay, AsyncClient.from_uri(relay.uri) as client:
        await say(client, samples, rate_hz)
        assert (await event(client)).data["data"]["label"] == "angry"
        *begun, stop = framed(samples, rate_hz)
        for one in [*begun, Event("mark")]:
            await client.write_event(one)
        assert await texts_of(client, 1) == ["[angry] text 1"]
        await client.write_event(stop)
        assert await texts_of(client, 1) == ["[neutral] text 2"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([[], [1, 2], [3], [4]], ["text 1", "text 2", "[happy] text 3", "[sad] text 4"]),
        ([[], [1], [2, 3], [4]], ["text 1", "text 2", "text 3", "[sad] text 4"]),
        ([[], [1], [2], [3, 4]], ["text 1", "text 2", "text 3", "text 4"]),
        ([[], [2], [3], [4]], ["text 2", "text 3", "text 4"]),
    ],
    ids=["late", "behind by one, for an utterance", "behind by one", "lost"],
)
@in_a_loop
async def test_an_utterance_without_a_transcript_shifts_no_tone(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch, sent: list[list[int]], expected: list[str]
) -> None:
    """``sent`` are the transcripts that come with each audio-stop."""
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    sounding(monkeypatch, recognizer, ["angry", "neutral", "happy", "sad"])
    to_send, texts = list(sent), []

    async def reply(heard: Event, writer: asyncio.StreamWriter) -> None:
        if heard.type == "audio-stop":
            for number in to_send.pop(0):  # Python 3.13.0 has no lines to write where there are none
                writer.writelines(map(message, plain(number)))

    async with StandIn(reply) as asr, before(asr.uri, recognizer, tag=True) as relay, AsyncClient.from_uri(relay.uri) as client:
        # Whoever begins the second has given the first up; the others come in quick succession.
        for numbers, lost_s in zip(sent, [math.inf, 0.0, math.inf, math.inf], strict=True):
            monkeypatch.setattr("edge_ser.services.relay.LOST_S", lost_s)
            await say(client, samples, rate_hz)
            texts += await texts_of(client, len(numbers))
        # Until as many came as there were utterances, nobody can tell of which they are.
        assert texts == expected


@in_a_loop
async def test_a_transcript_before_the_audio_stop_takes_no_other_place(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    sounding(monkeypatch, recognizer, ["angry", "neutral"])
    n = 0

    async def reply(heard: Event, writer: asyncio.StreamWriter) -> None:
        """Answer the first utterance at its start, the second at its end."""
        nonlocal n
        if heard.type == ("audio-stop" if n else "audio-start"):
            writer.writelines(map(message, plain(n)))
            n += 1

    async with StandIn(reply) as asr, before(asr.uri, recognizer, tag=True) as relay, AsyncClient.from_uri(relay.uri) as client:
        start, *rest = framed(samples, rate_hz)[1:]
        await client.write_event(start)
        assert await texts_of(client, 1) == ["text 0"]
        for one in rest[:-1]:
            await client.write_event(one)
        await client.write_event(start)  # it leaves the rest unsaid, for it has its transcript
        for one in rest:
            await client.write_event(one)
        assert await texts_of(client, 1) == ["[angry] text 1"]


@in_a_loop
async def test_audio_that_comes_too_fast_keeps_its_place(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    sounding(monkeypatch, recognizer, ["angry"])
    monkeypatch.setattr("edge_ser.services.relay.LOST_S", math.inf)  # the client waits for the judge, not for the transcript
    may_judge = judging_when_told(recognizer, monkeypatch)
    chunk = chunk_with(bytes(range(256)) * 2**11)
    async with (
        StandIn(numbered(2, 2, plain)) as asr,
        before(asr.uri, recognizer, tag=True) as relay,
        AsyncClient.from_uri(relay.uri) as client,
    ):
        for one in [start_with(), *[chunk] * (MOST_UNJUDGED_BYTES // 2**19 + 3), STOP]:
            await client.write_event(one)
            assert await asyncio.wait_for(asr.heard.get(), ANSWER_S) == one
        may_judge.set()
        assert "than it can be judged" in (await event(client)).data["data"]["error"]
        await say(client, samples, rate_hz)
        assert await texts_of(client, 2) == ["text 0", "[angry] text 1"]
