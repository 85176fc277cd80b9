"""A stand-in for a speech-to-text service, and ``edge-ser serve --asr`` before it, in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncClient
from wyoming.event import Event, async_read_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info

from edge_ser import EmotionRecognizer, Prediction
from edge_ser.arrays import AnyArray
from edge_ser.services.connection import Limits
from edge_ser.services.relay import Relay, SpeechToText
from edge_ser.services.wyoming import parse_uri, serve
from tests.runtime.services.wyoming_clients import ANSWER_S, STOP, event

BY = Attribution("nobody", "")
MODEL = AsrModel("tiny", BY, True, "a model", "1.0", languages=["en", "de"])
INFO = Info(asr=[AsrProgram("stand-in", BY, True, "hears what it is told", "1.0", models=[MODEL])]).event()

Answering = Callable[[Event, asyncio.StreamWriter], Awaitable[None]]


def message(event: Event) -> bytes:
    """Return an event as a service of an earlier version writes it: all in one line."""
    import json

    return json.dumps(event.to_dict(), indent=None).encode() + b"\n"


async def hear_and_write(event: Event, writer: asyncio.StreamWriter) -> None:
    """Answer as a service does."""
    if event.type == "describe":
        writer.write(message(INFO))
    elif event.type == "audio-stop":
        writer.write(message(Transcript("turn on the light").event()))


class StandIn:
    """A speech-to-text service that keeps what it hears; ``answer`` says what it does."""

    def __init__(self, answer: Answering = hear_and_write) -> None:
        self.answer = answer
        self.heard: asyncio.Queue[Event | None] = asyncio.Queue()
        """Events; None where a client closed the connection."""
        self.uri = ""

    async def __aenter__(self) -> StandIn:
        self._server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.uri = f"tcp://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (event := await async_read_event(reader)) is not None:
                self.heard.put_nowait(event)
                await self.answer(event, writer)
                if writer.is_closing():
                    return
            self.heard.put_nowait(None)
            writer.close()


class Before:
    """``serve --asr``: where it listens, and what it was told."""

    def __init__(self) -> None:
        self.uri = ""
        self.published: asyncio.Queue[Prediction] = asyncio.Queue()
        self.notes: list[str] = []


@contextlib.asynccontextmanager
async def before(asr: str, recognizer: EmotionRecognizer, tag: bool = False, idle_s: float = 60.0) -> AsyncIterator[Before]:
    """Serve before the service at ``asr``."""
    relay = Before()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    behind = SpeechToText(asr, parse_uri(asr), tag)
    made: Any = partial(Relay, recognizer, behind, relay.published.put_nowait, relay.notes.append)
    task = asyncio.create_task(serve(made, ("127.0.0.1", 0), Limits(4, idle_s, 3600.0), ready.set_result))
    relay.uri = await ready
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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


def judging_when_told(recognizer: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the recogniser begin a stream only when the event is set, and return it."""
    may_judge, stream = threading.Event(), recognizer.stream
    monkeypatch.setattr(recognizer, "stream", lambda *given: (may_judge.wait(ANSWER_S), stream(*given))[1])
    return may_judge
