"""``edge-ser serve --asr``: a speech-to-text service that fails, and mistakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from wyoming.asr import Transcript
from wyoming.audio import AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info

from edge_ser import EmotionRecognizer
from edge_ser.services.connection import Connection, Limits
from edge_ser.services.relay import SpeechToText
from edge_ser.services.wyoming import is_same, parse_uri
from tests.commanding import run
from tests.runtime.services.speech_to_text import StandIn, before, both, hear_and_write, message, say
from tests.runtime.services.wyoming_clients import ANSWER_S, Server, chunk_with, ended, event, in_a_loop, start_with


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
@in_a_loop
async def test_a_fault_of_the_recogniser_is_one_event_and_one_line(
    recognizer: EmotionRecognizer, speech: Path, answer: Any, expected: str
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    async with StandIn(answer) as asr, before(asr.uri, recognizer, idle_s=3.0 if answer is nothing else ANSWER_S) as relay:
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


@pytest.mark.parametrize("n", [1, 2])
@in_a_loop
async def test_a_transcript_that_never_comes_ends_it_whatever_else_is_said(
    recognizer: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr("edge_ser.services.relay.LOST_S", 0.0)  # whoever begins another may have given up the one before
    stops = 0

    async def hang(heard: Event, writer: asyncio.StreamWriter) -> None:
        """Answer all but the last of ``n`` utterances, late."""
        nonlocal stops
        stops += heard.type == "audio-stop"
        if heard.type == "describe":
            writer.write(message(Info().event()))
        elif heard.type == "audio-stop" and stops == n:
            writer.write(message(Transcript("stop").event()) * (n - 1))

    async def go_on(client: AsyncClient) -> Event:
        while (answered := await event(client)).type != "error":
            await client.write_event(Describe().event())
        return answered

    async with StandIn(hang) as asr, before(asr.uri, recognizer, idle_s=0.5) as relay, AsyncClient.from_uri(relay.uri) as client:
        for one in [start_with(), chunk_with(), AudioStop().event()] * n:
            await client.write_event(one)
        error = Error.from_event(await asyncio.wait_for(go_on(client), ANSWER_S))
        assert error.text.endswith("transcript within 0.5 s (serve --idle)")


@pytest.mark.parametrize("sent", [message(Describe().event()), Describe().event()], ids=["bytes", "an event"])
@in_a_loop
async def test_what_is_cancelled_while_it_sends_ends(sent: bytes | Event) -> None:
    class Talk(Connection):
        async def _converse(self) -> None:
            await self._send(sent)

    async with StandIn() as asr:
        reader, writer = await SpeechToText(asr.uri, parse_uri(asr.uri), False).connect()
        whole_test: Any = asyncio.current_task()
        for n_steps in range(20):  # at each of its steps
            task = asyncio.create_task(Talk(reader, writer, Limits(4, ANSWER_S, 3600.0), whole_test).talk())
            for _ in range(n_steps):
                await asyncio.sleep(0)
            was_running = task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == was_running
        assert not was_running, "the last one had sent it"
        writer.close()


@in_a_loop
async def test_a_recogniser_that_answers_early_and_closes_is_no_fault(recognizer: EmotionRecognizer) -> None:
    async def early(heard: Event, writer: asyncio.StreamWriter) -> None:
        if heard.type == "audio-chunk":
            writer.write(message(Transcript("stop").event()))
            writer.close()

    async with StandIn(early) as asr, before(asr.uri, recognizer) as relay, AsyncClient.from_uri(relay.uri) as client:
        await client.write_event(start_with())
        await client.write_event(chunk_with())
        assert await event(client) == Transcript("stop").event()
        assert await ended(client)
        assert relay.notes == []


@in_a_loop
async def test_the_command_before_a_service_that_is_not_there(serve: Callable[..., Server]) -> None:
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


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    asr = ("serve", "--asr", "tcp://127.0.0.1:10300")
    for given, expected in [
        (("serve", "--tag"), "--tag goes with --asr"),
        ((*asr, "--learn", "--profile", tmp_path / "me.json"), "--learn goes without --asr"),
        (("serve", "--asr", "localhost"), "expected tcp://HOST:PORT or unix:///PATH"),
        ((*asr, "--uri", "tcp://127.0.0.1:10300"), "are one address"),
        ((*asr, "--uri", "tcp://localhost:10300"), "are one address"),
        ((*asr, "--uri", "tcp://0.0.0.0:10300"), "are one address"),
        ((*asr, "--home-assistant"), "--home-assistant goes with --mqtt"),
    ]:
        done = run(*given)
        assert done.returncode == 2
        assert expected in done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("tcp://127.0.0.1:1", "tcp://localhost:1", True),
        ("tcp://0.0.0.0:1", "tcp://localhost:1", True),
        ("tcp://127.0.0.1:1", "tcp://0.0.0.0:1", True),
        ("tcp://[::]:1", "tcp://[::1]:1", True),
        ("unix:///a", "unix:///a", True),
        ("tcp://127.0.0.1:1", "tcp://localhost:2", False),
        ("tcp://127.0.0.1:1", "tcp://192.0.2.1:1", False),
        ("tcp://127.0.0.1:1", "tcp://no..name:1", False),
        ("tcp://127.0.0.1:1", "unix:///a", False),
    ],
)
def test_addresses_that_lead_to_one_place(one: str, other: str, same: bool) -> None:
    assert is_same(parse_uri(one), parse_uri(other)) is same
    assert is_same(parse_uri(other), parse_uri(one)) is same
