"""``edge-ser serve --asr``: a speech-to-text service with the tone beside it."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import Describe, Info

from edge_ser import EmotionRecognizer
from edge_ser.arrays import AnyArray
from edge_ser.services.relay import MOST_UNJUDGED_BYTES, SpeechToText
from edge_ser.services.wyoming import parse_uri
from tests.commanding import run
from tests.runtime.services.mqtt_broker import Home, Mosquitto
from tests.runtime.services.speech_to_text import INFO, StandIn, before, hear_and_write, message
from tests.runtime.services.wyoming_clients import ANSWER_S, STOP, Server, chunk_with, ended, event, start_with, told


@pytest.fixture(scope="module")
def recognizer() -> EmotionRecognizer:
    return EmotionRecognizer()


def framed(samples: AnyArray, rate_hz: int) -> list[Event]:
    """Return a command as Home Assistant sends one: 1024 samples a chunk, the time with each."""
    chunks = [
        AudioChunk(rate_hz, 2, 1, samples[start : start + 1024].tobytes(), timestamp=1000 * start // rate_hz).event()
        for start in range(0, len(samples), 1024)
    ]
    return [Transcribe(language="en").event(), AudioStart(rate_hz, 2, 1).event(), *chunks, STOP]


async def say(client: AsyncClient, samples: AnyArray, rate_hz: int) -> None:
    for one in framed(samples, rate_hz):
        await client.write_event(one)


async def both(client: AsyncClient) -> tuple[Event, dict[str, Any]]:
    """Return the transcript and the emotion, whichever comes first."""
    found = {one.type: one for one in [await event(client), await event(client)]}
    return found["transcript"], found["user-event"].data["data"]


REPLIES: dict[str, list[bytes]] = {
    "plain": [message(Transcript("turn on the light").event())],
    "with all it may have": [message(Transcript('Größe „5“ 🎈\n\t"ja"', {"id": [1, 2.50]}, "de").event())],
    "an empty one": [message(Transcript("").event())],
    "keys in another order, spaces, a number as it was written": [
        b'{"data":   {"language": "en", "text": "five \\u00e9", "score": 1.50},  "type": "transcript"}\n'
    ],
    "half a character": [b'{"type": "transcript", "data": {"text": "\\ud83d"}}\n'],
    "data behind the line, of a later version": [b'{"type":"transcript","version":"9.1","data_length":15}\n{"text": "yes"}'],
    "in pieces": [
        message(Event("transcript-start", {"language": "en"})),
        message(Event("transcript-chunk", {"text": "turn on"})),
        message(Event("transcript-chunk", {"text": " it"})),
        message(Event("transcript-stop")),
        message(Transcript("turn on it").event()),
    ],
    "an error": [message(Error("no model of that language", "model-missing").event())],
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=list(REPLIES))
def test_what_the_recogniser_says_comes_back_byte_for_byte(
    recognizer: EmotionRecognizer, speech: Path, reply: list[bytes]
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    async def answer(heard: Event, writer: asyncio.StreamWriter) -> None:
        if heard.type == "audio-stop":
            writer.writelines(reply)
            writer.close()  # as many services do after each command

    async def talk() -> None:
        async with StandIn(answer) as asr, before(asr.uri, recognizer) as relay:
            reader, writer = await SpeechToText(relay.uri, parse_uri(relay.uri), False).connect()
            for one in framed(samples, rate_hz):
                await async_write_event(one, writer)
            came: list[tuple[Event, bytes]] = []
            tones: list[tuple[Event, bytes]] = []
            while (received := await asyncio.wait_for(reader.message(), ANSWER_S)) is not None:
                one, content = received
                (tones if one.type == "user-event" else came).append((one, content))
            writer.close()
            assert [content for _, content in came] == reply
            assert [one.data for one, _ in tones] == [{"name": "emotion", "data": told(recognizer.predict(speech))}]
            assert relay.published.get_nowait().label == recognizer.predict(speech).label
            assert relay.notes == []

    asyncio.run(talk())


def test_the_recogniser_hears_what_was_sent_each_message_before_the_next(recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    async def talk() -> None:
        async with StandIn() as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
            for _ in range(2):  # one connection, two commands
                for one in framed(samples, rate_hz):
                    await client.write_event(one)
                    assert await asyncio.wait_for(asr.heard.get(), ANSWER_S) == one
                transcript, tone = await both(client)
                assert transcript == Transcript("turn on the light").event()
                assert tone == told(recognizer.predict(speech))

    asyncio.run(talk())


def test_the_transcript_waits_for_no_judgement(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    may_judge = threading.Event()
    judged = recognizer.predict(speech)
    stream = recognizer.stream

    def slow(*given: Any) -> Any:
        assert may_judge.wait(ANSWER_S)
        return stream(*given)

    monkeypatch.setattr(recognizer, "stream", slow)

    async def talk() -> None:
        async with StandIn() as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
            await say(client, samples, rate_hz)
            assert await event(client) == Transcript("turn on the light").event()
            assert not may_judge.is_set(), "not a sample was judged"
            may_judge.set()
            assert (await event(client)).data["data"] == told(judged)
            assert relay.published.get_nowait().label == judged.label

    asyncio.run(talk())


def test_who_leaves_with_the_transcript_is_judged_all_the_same(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    may_judge = threading.Event()
    stream = recognizer.stream
    monkeypatch.setattr(recognizer, "stream", lambda *given: (may_judge.wait(ANSWER_S), stream(*given))[1])

    async def talk() -> None:
        async with StandIn() as asr, before(asr.uri, recognizer) as relay:
            async with AsyncClient.from_uri(relay.uri) as client:
                await say(client, samples, rate_hz)
                assert Transcript.is_type((await event(client)).type)
            may_judge.set()
            answer = await asyncio.wait_for(relay.published.get(), ANSWER_S)
            assert answer.duration_s == pytest.approx(len(samples) / rate_hz)
            async with AsyncClient.from_uri(relay.uri) as client:  # and who leaves before it is no fault of anybody
                await client.write_event(start_with())
            while await asyncio.wait_for(asr.heard.get(), ANSWER_S) is not None:
                pass
            assert relay.notes == []

    asyncio.run(talk())


def test_home_assistant_finds_a_speech_to_text_service(recognizer: EmotionRecognizer) -> None:
    async def talk() -> None:
        async with StandIn() as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
            await client.write_event(Describe().event())
            announced = await event(client)
            assert Info.from_event(announced) == Info.from_event(INFO)
            (program,) = announced.data.pop("emotion")
            assert program["models"][0]["labels"] == list(recognizer.labels)
            assert announced.data == INFO.data

    asyncio.run(talk())


def test_the_tone_stands_in_the_text_where_asked_for(recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    answer = recognizer.predict(speech)
    noise = np.random.default_rng(0).normal(0, 3000, 32000).astype(np.int16)
    assert recognizer.predict((noise, 16000)).label == "no_speech"
    texts: list[str] = []

    async def reply(heard: Event, writer: asyncio.StreamWriter) -> None:
        if heard.type == "audio-stop":
            writer.write(message(Transcript(texts.pop(0), {"id": 7}, "en").event()))

    async def talk() -> None:
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

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("expected", "sent"),
    [
        ("is silent", [start_with(), chunk_with(bytes(32000)), STOP]),
        ("expected 2 or 4", [start_with(width=1), chunk_with(width=1), chunk_with(width=1), STOP]),
        ("before an audio-start", [STOP]),
    ],
    ids=["silence", "8 bits", "a stop alone"],
)
def test_audio_that_cannot_be_judged_is_heard_all_the_same(
    recognizer: EmotionRecognizer, expected: str, sent: list[Event]
) -> None:
    async def talk() -> None:
        async with StandIn() as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
            for one in sent:
                await client.write_event(one)
                assert await asyncio.wait_for(asr.heard.get(), ANSWER_S) == one
            transcript, tone = await both(client)
            assert transcript == Transcript("turn on the light").event()
            assert list(tone) == ["error"], "no error event: that would be the recogniser's"
            assert expected in tone["error"]

    asyncio.run(talk())


def test_audio_that_comes_too_fast_is_passed_on_and_not_kept(
    recognizer: EmotionRecognizer, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    may_judge = threading.Event()
    stream = recognizer.stream
    monkeypatch.setattr(recognizer, "stream", lambda *given: (may_judge.wait(ANSWER_S), stream(*given))[1])
    chunk = chunk_with(bytes(range(256)) * 2**11)
    n = MOST_UNJUDGED_BYTES // 2**19 + 3

    async def talk() -> None:
        async with StandIn() as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
            for one in [start_with(), *[chunk] * n, STOP]:
                await client.write_event(one)
                assert await asyncio.wait_for(asr.heard.get(), ANSWER_S) == one
            assert Transcript.is_type((await event(client)).type)
            may_judge.set()
            assert "than it can be judged" in (await event(client)).data["data"]["error"]
            await say(client, samples, rate_hz)
            assert (await both(client))[1] == told(recognizer.predict(speech))

    asyncio.run(talk())


async def close(heard: Event, writer: asyncio.StreamWriter) -> None:
    if heard.type == "audio-stop":
        writer.close()


async def cut(heard: Event, writer: asyncio.StreamWriter) -> None:
    if heard.type == "audio-stop":
        writer.write(b'{"type": "transcript", "data_length": 100}\n{"text": "tur')
        writer.close()


async def reset(heard: Event, writer: asyncio.StreamWriter) -> None:
    if heard.type == "audio-start":
        writer.transport.abort()


async def babble(heard: Event, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def number(heard: Event, writer: asyncio.StreamWriter) -> None:
    if heard.type == "audio-stop":
        writer.write(b'{"type": "info", "data": 5}\n')


async def gigabytes(heard: Event, writer: asyncio.StreamWriter) -> None:
    writer.write(b'{"type": "transcript", "data_length": 9000000000}\n')


async def nothing(heard: Event, writer: asyncio.StreamWriter) -> None:
    pass


FAULTS: dict[str, tuple[Any, str]] = {
    "closes early": (close, "closed the connection before its transcript"),
    "closes in the middle of it": (cut, "closed the connection before its transcript"),
    "is killed": (reset, "closed the connection before its transcript"),
    "is no Wyoming service": (babble, "sent what cannot be read: this is no Wyoming message"),
    "sends an odd event": (number, "sent info with data that cannot be read"),
    "sends gigabytes": (gigabytes, "sent what cannot be read: a message announces 9000000000 bytes"),
    "hangs": (nothing, "sent no transcript within 3 s (serve --idle)"),
}


@pytest.mark.parametrize(("answer", "expected"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_of_the_recogniser_is_one_event_and_one_line(
    recognizer: EmotionRecognizer, speech: Path, answer: Any, expected: str
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    async def talk() -> None:
        async with StandIn(answer) as asr, before(asr.uri, recognizer, idle_s=3.0) as relay:
            async with AsyncClient.from_uri(relay.uri) as client:
                await say(client, samples, rate_hz)
                received = await event(client)
                if received.type == "user-event":
                    received = await event(client)
                error = Error.from_event(received)
                assert error.code == "asr"
                assert error.text.startswith(f"the speech-to-text service at {asr.uri} {expected}")
                assert await ended(client)
            assert relay.notes == [error.text]
            asr.answer = hear_and_write
            async with AsyncClient.from_uri(relay.uri) as client:
                await say(client, samples, rate_hz)
                assert (await both(client))[0] == Transcript("turn on the light").event()

    asyncio.run(talk())


def test_a_recogniser_that_answers_early_and_closes_is_no_fault(recognizer: EmotionRecognizer) -> None:
    async def early(heard: Event, writer: asyncio.StreamWriter) -> None:
        if heard.type == "audio-chunk":
            writer.write(message(Transcript("stop").event()))
            writer.close()

    async def talk() -> None:
        async with StandIn(early) as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
            await client.write_event(start_with())
            await client.write_event(chunk_with())
            assert await event(client) == Transcript("stop").event()
            assert await ended(client)
            assert relay.notes == []

    asyncio.run(talk())


def test_the_command_before_a_service_that_is_not_there(serve: Callable[..., Server]) -> None:
    async def talk() -> None:
        async with StandIn() as asr:
            pass
        server = Server("--asr", asr.uri)
        async with server.client() as client:
            await client.write_event(Describe().event())
            error = Error.from_event(await event(client))
            assert error.code == "asr"
            assert error.text == f"the speech-to-text service at {asr.uri} cannot be reached: Connection refused"
            assert await ended(client)
        assert await asyncio.to_thread(server.stop) == (0, f"edge-ser: {error.text}\n")

    asyncio.run(talk())


def test_the_tone_of_a_command_goes_to_the_broker(
    broker: Mosquitto, listen_at: Callable[..., Home], speech: Path, recognizer: EmotionRecognizer
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    home = listen_at(broker.port)

    async def talk() -> str:
        async with StandIn() as asr:
            server = Server("--asr", asr.uri, "--mqtt", f"{broker.url}/home/kitchen", "--home-assistant")
            await asyncio.to_thread(home.until, "home/kitchen/availability", "online")
            async with server.client() as client:
                await say(client, samples, rate_hz)
                while not Transcript.is_type((await event(client)).type):
                    pass
            topic, payload, _ = await asyncio.to_thread(home.next)
            assert topic == "home/kitchen/utterance"
            assert json.loads(payload) == {"event": "utterance", **recognizer.predict(speech).record()}
            assert "light" not in payload, "what was said is nobody's affair"
            status, notes = await asyncio.to_thread(server.stop)
            assert status == 0
            return notes

    assert asyncio.run(talk()).count("\n") == 1
    late = listen_at(broker.port)
    kept = {topic: payload for topic, payload, _ in (late.next() for _ in range(3))}
    assert kept["home/kitchen/availability"] == "offline"
    assert json.loads(kept["homeassistant/sensor/home_kitchen_utterance/config"])["state_topic"] == "home/kitchen/utterance"
    assert "home/kitchen/utterance" in kept


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    asr = ("serve", "--asr", "tcp://127.0.0.1:10300")
    for given, expected in [
        (("serve", "--tag"), "--tag goes with --asr"),
        ((*asr, "--learn", "--profile", tmp_path / "me.json"), "--learn goes without --asr"),
        (("serve", "--asr", "localhost"), "expected tcp://HOST:PORT or unix:///PATH"),
        ((*asr, "--uri", "tcp://127.0.0.1:10300"), "are both"),
        ((*asr, "--home-assistant"), "--home-assistant goes with --mqtt"),
    ]:
        done = run(*given)
        assert done.returncode == 2
        assert expected in done.stderr.decode().splitlines()[-1]


@pytest.mark.timing
def test_a_transcript_is_late_by_no_more_than_5_ms(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    async def took_ms(uri: str) -> float:
        async with AsyncClient.from_uri(uri) as client:
            for one in framed(samples, rate_hz)[:-1]:
                await client.write_event(one)
                await asyncio.sleep(0.01)
            began = time.perf_counter()
            await client.write_event(STOP)
            while not Transcript.is_type((await event(client)).type):
                pass
            return 1000 * (time.perf_counter() - began)

    async def talk() -> list[tuple[float, float]]:
        async with StandIn() as asr:
            server = Server("--asr", asr.uri)
            try:
                return [(await took_ms(asr.uri), await took_ms(server.uri)) for _ in range(40)]
            finally:
                await asyncio.to_thread(server.stop)

    pairs = asyncio.run(talk())[2:]
    direct, relayed = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = statistics.median(after - before for before, after in pairs)
    with capsys.disabled():
        print(f"\naudio-stop to transcript: {direct:.2f} ms without, {relayed:.2f} ms with; added {added:.2f} ms (medians of 38)")
    assert added <= 5
