"""A command judged by ``edge-ser serve``, over the Wyoming protocol, framed as a satellite does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import numpy.typing as npt
from ears import Heard
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import Describe, Info

from edge_ser import EdgeSerError

RATE_HZ = 16000
CHUNK = 1024  # samples in a message
ANSWER_S = 60.0


class Service:
    """``edge-ser serve`` at a URI; with --asr it tells what was said, too."""

    def __init__(self, uri: str) -> None:
        self.uri, self.loop = uri, asyncio.new_event_loop()
        self.waiting: npt.NDArray[np.int16] = np.zeros(0, np.int16)
        self.sent = 0
        self._connect()
        self._write(Describe())
        self.hears_words = bool(Info.from_event(self._next()).asr)
        self._do(self.client.disconnect())

    def start(self) -> None:
        """Begin with a command: a connection of its own, transcribe, audio-start."""
        self.waiting, self.sent = self.waiting[:0], 0
        self._connect()
        self._write(Transcribe(language="en"))
        self._write(AudioStart(RATE_HZ, 2, 1, timestamp=0))

    def feed(self, samples: npt.NDArray[np.int16]) -> None:
        """Hear more of it: an audio-chunk of 1024 samples as soon as they are there."""
        self.waiting = np.concatenate([self.waiting, samples])
        while len(self.waiting) >= CHUNK:
            self._send(self.waiting[:CHUNK])
            self.waiting = self.waiting[CHUNK:]

    def finish(self) -> Heard:
        """End it: audio-stop; then the transcript and the emotion come, either of them first."""
        if len(self.waiting):
            self._send(self.waiting)
        self._write(AudioStop(timestamp=1000 * self.sent // RATE_HZ))
        text, answer = None, None
        while answer is None or (self.hears_words and text is None):
            event = self._next()
            if Transcript.is_type(event.type):
                text = Transcript.from_event(event).text
            elif event.type == "user-event" and event.data["name"] == "emotion":
                answer = event.data["data"]
        self._do(self.client.disconnect())
        if "error" in answer:  # it cannot be judged
            return Heard("unknown", 0.0, self.sent / RATE_HZ, text=text)
        return Heard(answer["label"], answer["confidence"], answer["duration_s"], text)

    def close(self) -> None:
        """Leave."""
        self.loop.close()

    def _connect(self) -> None:
        self.client = AsyncClient.from_uri(self.uri)
        try:
            self._do(self.client.connect())
        except OSError as error:
            raise EdgeSerError(f"no service at {self.uri} ({error}); start one with edge-ser serve") from None

    def _send(self, samples: npt.NDArray[np.int16]) -> None:
        self._write(AudioChunk(RATE_HZ, 2, 1, samples.tobytes(), timestamp=1000 * self.sent // RATE_HZ))
        self.sent += len(samples)

    def _write(self, message: Eventable) -> None:
        self._do(self.client.write_event(message.event()))

    def _next(self) -> Event:
        """Return what the service says next; an error it tells of, or an end, ends the assistant."""
        try:
            event: Event | None = self._do(asyncio.wait_for(self.client.read_event(), ANSWER_S))
        except asyncio.TimeoutError:
            raise EdgeSerError(f"the service at {self.uri} did not answer within {ANSWER_S:g} s") from None
        if event is None:
            raise EdgeSerError(f"the service at {self.uri} closed the connection")
        if Error.is_type(event.type):
            raise EdgeSerError(Error.from_event(event).text)
        return event

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)
