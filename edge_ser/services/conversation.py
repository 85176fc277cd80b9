"""One client of the Wyoming service: what it sends, in order, and what it gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.ping import Ping, Pong

from edge_ser.errors import ConfigError, EdgeSerError
from edge_ser.live.corrections import Corrections
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.services.connection import Connection, FarewellError, Limits, Reader
from edge_ser.services.utterance import Utterance, announcement, duration_s, emotion


class Conversation(Connection):
    """One client, whose events are taken in order.

    ``publish`` hears of every answer; ``corrections``, where there are any, take what the client puts right.
    """

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        corrections: Corrections | None,
        publish: Callable[[Prediction], object],
        reader: Reader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        task: asyncio.Task[Any],
    ) -> None:
        super().__init__(reader, writer, limits, task)
        self._recognizer, self._corrections, self._publish = recognizer, corrections, publish
        self._utterance = Utterance(recognizer, limits.max_duration_s)
        self._patience_s = limits.idle_s  # how long the next message is waited for
        self._answer: Prediction | None = None

    async def _converse(self) -> None:
        try:
            # A cancellation that meets the end of what was waited for is lost before Python 3.12.
            while not self.farewell[0] and (event := await self._next()) is not None:
                await self._take(event)
        finally:
            self._utterance.drop()

    async def _next(self) -> Event | None:
        """Return the next event, or None at the end of the connection."""
        began = time.monotonic()
        try:
            message = await asyncio.wait_for(self._reader.message(), self._patience_s)
        except asyncio.TimeoutError:
            what = "the audio has fallen behind by" if self._utterance.is_open else "no message came within"
            raise FarewellError("idle", f"{what} {self._limits.idle_s:g} s; connect again") from None
        # Within an utterance only audio buys time: whoever just pings, or sends a sample now and then, does not stay.
        self._patience_s = self._patience_s - (time.monotonic() - began) if self._utterance.is_open else self._limits.idle_s
        return message[0] if message is not None else None

    async def _take(self, event: Event) -> None:
        try:
            if AudioStart.is_type(event.type) or AudioChunk.is_type(event.type) or AudioStop.is_type(event.type):
                await self._hear(event)
            elif Describe.is_type(event.type):
                await self._send(announcement(self._recognizer))
            elif self._corrections is not None and _is_correction(event):
                await self._correct(self._corrections, event)
            elif Ping.is_type(event.type):
                await self._send(Pong(_text(event)).event())
        except EdgeSerError as error:
            self.is_speaking = self._utterance.is_open
            await self._complain("correct" if event.type == "user-event" else "audio", str(error))

    async def _hear(self, event: Event) -> None:
        if AudioStart.is_type(event.type):
            if self._utterance.is_open:
                await self._complain("audio", "another audio-start before the audio-stop; the utterance so far is dropped")
            self.is_speaking = True
        answer = await self._utterance.take(event)
        if AudioChunk.is_type(event.type) and self._utterance.is_open:
            self._patience_s += duration_s(event)
        if answer is not None:
            self._answer = answer
            self._publish(answer)
            await self._send(emotion(answer))
            self.is_speaking, self.keeps_place_until = False, time.monotonic() + self._limits.idle_s

    async def _correct(self, corrections: Corrections, event: Event) -> None:
        data = event.data.get("data")
        label = data.get("label") if isinstance(data, dict) else None
        if not isinstance(label, str):
            raise ConfigError("a correction lacks its label; expected data with a label, such as happy")
        await asyncio.to_thread(corrections.correct, self._answer, label)
        learnt = self._recognizer.label_meant(label)
        await self._send(Event("user-event", {"name": "corrected", "data": {"label": learnt}}))


def _is_correction(event: Event) -> bool:
    return event.type == "user-event" and isinstance(event.data, dict) and event.data.get("name") == "correct"


def _text(event: Event) -> str | None:
    """Return what a ping wants to hear, of which JSON may hold more than UTF-8 can."""
    text = event.data.get("text") if isinstance(event.data, dict) else None
    return text.encode(errors="replace").decode() if isinstance(text, str) else None
