"""Clients of ``edge-ser serve``, which runs in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event

from edge_ser import Prediction
from edge_ser.arrays import AnyArray
from tests.commanding import COMMAND as EDGE_SER

COMMAND = [*EDGE_SER, "serve"]
ANSWER_S = 120.0  # a test machine may be busy
Given = ParamSpec("Given")


def in_a_loop(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    """Let a test that awaits run to its end."""

    @functools.wraps(test)
    def run(*given: Given.args, **named: Given.kwargs) -> None:
        asyncio.run(test(*given, **named))

    return run


class Server:
    """``edge-ser serve`` in a process of its own."""

    def __init__(self, *arguments: object, uri: str = "tcp://127.0.0.1:0") -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--uri", uri, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.uri = line.removeprefix("listening at ").strip()
        assert self.uri, self.stop(signal.SIGKILL)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        async with AsyncClient.from_uri(self.uri) as client:
            yield client

    def raw(self) -> socket.socket:
        host, port = self.uri.removeprefix("tcp://").split(":")
        return socket.create_connection((host, int(port)), timeout=ANSWER_S)

    @property
    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit status and standard error."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, complaints = self.process.communicate(timeout=120)
        return self.process.returncode, complaints.decode()


async def event(client: AsyncClient) -> Event:
    received = await asyncio.wait_for(client.read_event(), ANSWER_S)
    assert received is not None
    return received


async def ended(client: AsyncClient) -> bool:
    return await asyncio.wait_for(client.read_event(), ANSWER_S) is None


async def ask(client: AsyncClient, samples: AnyArray, rate_hz: int, chunk: Callable[[], int] = (lambda: 1024)) -> dict[str, Any]:
    """Send an utterance, int16 or int32 (n,) or (n, channels), and return the answer's data."""
    width, channels = samples.dtype.itemsize, 1 if samples.ndim == 1 else samples.shape[1]
    await client.write_event(AudioStart(rate_hz, width, channels).event())
    start = 0
    while start < len(samples):
        stop = start + chunk()
        await client.write_event(AudioChunk(rate_hz, width, channels, samples[start:stop].tobytes()).event())
        start = stop
    await client.write_event(AudioStop().event())
    answer = await event(client)
    assert answer.type == "user-event", answer
    assert answer.data["name"] == "emotion"
    data: dict[str, Any] = answer.data["data"]
    return data


async def complaint(client: AsyncClient) -> Error:
    received = await event(client)
    assert Error.is_type(received.type), received
    return Error.from_event(received)


def told(prediction: Prediction) -> dict[str, Any]:
    return {
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "speech": prediction.speech,
        "duration_s": prediction.duration_s,
        "embedding": prediction.embedding.tolist(),
    }


def start_with(**changes: Any) -> Event:
    return Event("audio-start", {"rate": 16000, "width": 2, "channels": 1} | changes)


def chunk_with(payload: bytes = b"\1\2" * 800, **changes: Any) -> Event:
    return Event("audio-chunk", {"rate": 16000, "width": 2, "channels": 1} | changes, payload)


STOP = AudioStop().event()
