"""One client of the Wyoming service: what it sends, in order, and what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import Describe
from wyoming.ping import Ping, Pong

from edge_ser.arrays import AnyArray
from edge_ser.errors import AudioError, ConfigError, EdgeSerError
from edge_ser.frontend.samples import MAX_CHANNELS
from edge_ser.live.corrections import Corrections
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.stream import Stream

MAX_PART_BYTES = 2**20
"""Longest data or payload of one message: half a minute of 16 kHz speech. A header line may have 64 KiB."""
LINGER_S = 2.0
"""How long whoever is gone, or does not answer, is waited for."""

_DTYPES = {2: "<i2", 4: "<i4"}  # by width in bytes
_MAX_TEXT = 300


@dataclass(frozen=True)
class Limits:
    """What a client may take. The protocol knows no password, so these hold for everybody."""

    max_clients: int
    """Connections at a time. When all are taken, a newcomer gets the place of a client that had no utterance answered for
    ``idle_s``, or none at all, whatever else it sends; where there is no such client it is turned away."""
    idle_s: float
    """How long a client may send nothing and, within an utterance, how far its audio may fall behind the clock, in seconds."""
    max_duration_s: float
    """Longest utterance, in seconds."""


class _ConversationError(Exception):
    """Ends a conversation with an error event."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Reader(asyncio.StreamReader):
    """Refuses a length beyond reason before a byte of it has come: the package waits for, and keeps, any."""

    async def readexactly(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        if type(n) is not int or n > MAX_PART_BYTES:
            text = f"a message announces {n!r} bytes; expected a whole number up to {MAX_PART_BYTES}"
            raise _ConversationError("protocol", text)
        return await super().readexactly(n)


class Conversation:
    """One client, whose events are taken in order; what takes time happens in a thread, so that no client waits for another."""

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        info: Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        task: asyncio.Task[Any],
        corrections: Corrections | None = None,
    ) -> None:
        self.is_speaking = False
        """Whether an utterance is open."""
        self.keeps_place_until = time.monotonic()
        """Until when the client need not give way to another between its utterances, on ``time.monotonic``'s clock."""
        self.farewell = ("", "")
        """Code and text of the error event to end with, if there is one."""
        self._recognizer, self._info = recognizer, info
        self._reader, self._writer, self._limits, self._task = reader, writer, limits, task
        self._patience_s = limits.idle_s  # how long the next message is waited for
        self._corrections = corrections
        self._answer: Prediction | None = None
        self._stream: Stream | None = None
        self._format: tuple[int, ...] = ()  # rate, width and channels of the utterance
        self._refused = False  # the utterance got its error; the rest of it is dropped

    async def talk(self) -> None:
        """Answer until the client leaves, or has to."""
        try:
            # A cancellation that meets the end of what was waited for is lost before Python 3.12.
            while not self.farewell[0] and (event := await self._next()) is not None:
                await self._take(event)
        except _ConversationError as error:
            self.farewell = error.code, str(error)
        except (OSError, asyncio.TimeoutError) as error:  # gone, or it no longer reads what it asked for
            error.__traceback__ = None  # the connection keeps the error, which would keep every frame it came through
        finally:
            self._stream = None

    def give_way(self) -> None:
        """Break the talk off, in favour of another client."""
        self.farewell = "busy", "all places are taken, and another client needs that of this one, which sends no audio"
        self._task.cancel()

    async def end(self, code: str = "", text: str = "") -> None:
        """Close the connection, after an error event if there is something to say; who does not read it is not waited for."""

        async def part() -> None:
            with contextlib.suppress(OSError, asyncio.TimeoutError):  # here, for who waits may be cancelled before it hears of it
                await self._complain(code, text)
                self._writer.write_eof()
                while await self._reader.read(2**16):  # a socket closed on unread bytes would take the error event back
                    pass

        if text:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(part(), LINGER_S)
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # asked for always: nobody else takes note of a lost connection
            await asyncio.wait_for(self._writer.wait_closed(), LINGER_S)
        self._writer.transport.abort()

    async def _next(self) -> Event | None:
        """Return the next event, or None at the end of the connection."""
        event, began = None, time.monotonic()
        try:
            event = await asyncio.wait_for(async_read_event(self._reader), self._patience_s)
        except asyncio.IncompleteReadError:
            return None
        except asyncio.TimeoutError:
            what = "no message came within" if self._stream is None else "the audio has fallen behind by"
            raise _ConversationError("idle", f"{what} {self._limits.idle_s:g} s; connect again") from None
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            pass  # JSON, but no event
        if event is None and not self._reader.at_eof():
            raise _ConversationError("protocol", "this is no Wyoming message; expected a line of JSON with a type")
        # Within an utterance only audio buys time: whoever just pings, or sends a sample now and then, does not stay.
        self._patience_s = self._limits.idle_s if self._stream is None else self._patience_s - (time.monotonic() - began)
        return event

    async def _take(self, event: Event) -> None:
        try:
            if AudioStart.is_type(event.type):
                await self._start(event)
            elif AudioChunk.is_type(event.type):
                await self._chunk(event)
            elif AudioStop.is_type(event.type):
                await self._stop()
            elif Describe.is_type(event.type):
                await self._send(self._info)
            elif self._corrections is not None and _is_correction(event):
                await self._correct(self._corrections, event)
            elif Ping.is_type(event.type):
                await self._send(Pong(_text(event)).event())
        except EdgeSerError as error:
            if event.type == "user-event":
                await self._complain("correct", str(error))
                return
            self._stream, self.is_speaking = None, False
            self._refused = not AudioStop.is_type(event.type)
            await self._complain("audio", str(error))

    async def _start(self, event: Event) -> None:
        if self._stream is not None:
            await self._complain("audio", "another audio-start before the audio-stop; the utterance so far is dropped")
        self._stream, self._refused, self.is_speaking = None, False, True
        self._format = rate_hz, width, channels = _format(event)
        if type(rate_hz) is not int or not 0 < rate_hz < 2**31:  # which of these it takes is the recogniser's affair
            raise AudioError(f"the audio has a rate of {rate_hz!r}; expected a whole number of Hz")
        if type(width) is not int or width not in _DTYPES:
            raise AudioError(f"the audio has samples of {width!r} bytes; expected 2 or 4 (signed integers, little-endian)")
        if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"the audio has {channels!r} channels; expected 1 to {MAX_CHANNELS}")
        self._stream = await asyncio.to_thread(self._recognizer.stream, rate_hz)

    async def _chunk(self, event: Event) -> None:
        if self._refused:
            return
        if self._stream is None:
            raise AudioError("an audio-chunk came before an audio-start")
        if (given := _format(event)) != self._format:
            raise AudioError(f"an audio-chunk has rate, width, channels {given}; its audio-start has {self._format}")
        rate_hz, width, channels = self._format
        payload = event.payload or b""
        if len(payload) % (width * channels):
            raise AudioError(f"an audio-chunk has {len(payload)} bytes; expected a multiple of {width * channels}")
        samples: AnyArray = np.frombuffer(payload, dtype=_DTYPES[width]).reshape(-1, channels)
        duration_s = len(samples) / rate_hz
        if self._stream.duration_s + duration_s > self._limits.max_duration_s:
            longest = f"{self._limits.max_duration_s:g} s (serve --max-duration)"
            raise AudioError(f"the utterance is longer than {longest}; send audio-stop before that")
        self._patience_s += duration_s
        for start in range(0, len(samples), rate_hz):  # a second at a time, for other clients want the threads, too
            await asyncio.to_thread(self._stream.feed, samples[start : start + rate_hz])

    async def _stop(self) -> None:
        refused, stream = self._refused, self._stream
        self._refused, self._stream = False, None
        if refused:
            return
        if stream is None:
            raise AudioError("an audio-stop came before an audio-start")
        self._answer = await asyncio.to_thread(stream.finish)
        await self._send(_emotion(self._answer))
        self.is_speaking, self.keeps_place_until = False, time.monotonic() + self._limits.idle_s

    async def _correct(self, corrections: Corrections, event: Event) -> None:
        data = event.data.get("data")
        label = data.get("label") if isinstance(data, dict) else None
        if not isinstance(label, str):
            raise ConfigError("a correction lacks its label; expected data with a label, such as happy")
        await asyncio.to_thread(corrections.correct, self._answer, label)
        await self._send(Event("user-event", {"name": "corrected", "data": {"label": label}}))

    async def _complain(self, code: str, text: str) -> None:
        if len(text) > _MAX_TEXT:  # it quotes what the client sent
            text = f"{text[: _MAX_TEXT // 2]} … {text[-_MAX_TEXT // 2 :]}"
        await self._send(Error(text, code).event())

    async def _send(self, event: Event) -> None:
        if self._writer.is_closing():  # asyncio of Python 3.13.0 stumbles over a lost connection that is written to
            raise ConnectionResetError("the client is gone")
        await asyncio.wait_for(async_write_event(event, self._writer), self._limits.idle_s)


def _is_correction(event: Event) -> bool:
    return event.type == "user-event" and isinstance(event.data, dict) and event.data.get("name") == "correct"


def _text(event: Event) -> str | None:
    """Return what a ping wants to hear, of which JSON may hold more than UTF-8 can."""
    text = event.data.get("text") if isinstance(event.data, dict) else None
    return text.encode(errors="replace").decode() if isinstance(text, str) else None


def _format(event: Event) -> tuple[Any, ...]:
    """Return rate, width and channels as a client gave them."""
    try:
        return tuple(event.data[key] for key in ("rate", "width", "channels"))
    except (KeyError, TypeError):
        raise AudioError(f"{event.type} lacks its rate, width or channels") from None


def _emotion(prediction: Prediction) -> Event:
    """Return the answer as the protocol's event for what it does not define; every figure is the one ``predict`` gives."""
    data = {
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "speech": prediction.speech,
        "duration_s": prediction.duration_s,
        "embedding": prediction.embedding.tolist(),
    }
    return Event("user-event", {"name": "emotion", "data": data})
