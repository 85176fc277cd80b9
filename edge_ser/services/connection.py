"""A client's connection: messages in, messages out, and its end. What is said over it is the subclasses' affair."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event

MAX_PART_BYTES = 2**20
"""Longest data or payload of one message: half a minute of 16 kHz speech. A header line may have 64 KiB."""
LINGER_S = 2.0
"""How long whoever is gone, or does not answer, is waited for."""

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


class FarewellError(Exception):
    """Ends a connection with an error event."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Reader(asyncio.StreamReader):
    """Refuses a length beyond reason before a byte of it has come: the package waits for, and keeps, any."""

    def __init__(self) -> None:
        super().__init__()
        self._message: list[bytes] = []

    async def message(self) -> tuple[Event, bytes] | None:
        """Return the next event and its bytes as they came; None at the end, also in the middle of a message.

        FarewellError for what is no message.
        """
        self._message.clear()
        event = None
        try:
            event = await async_read_event(self)
        except asyncio.IncompleteReadError:
            return None
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            pass  # JSON, but no event
        if event is not None:
            return event, b"".join(self._message)
        if self.at_eof():
            return None
        raise FarewellError("protocol", "this is no Wyoming message; expected a line of JSON with a type")

    async def readline(self) -> bytes:
        """Return the next line."""
        self._message.append(await super().readline())
        return self._message[-1]

    async def readexactly(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        if type(n) is not int or n > MAX_PART_BYTES:
            text = f"a message announces {n!r} bytes; expected a whole number up to {MAX_PART_BYTES}"
            raise FarewellError("protocol", text)
        self._message.append(await super().readexactly(n))
        return self._message[-1]


class Connection(ABC):
    """One client; :meth:`_converse` says what it hears."""

    def __init__(self, reader: Reader, writer: asyncio.StreamWriter, limits: Limits, task: asyncio.Task[Any]) -> None:
        self.is_speaking = False
        """Whether an utterance is open."""
        self.keeps_place_until = time.monotonic()
        """Until when the client need not give way to another between its utterances, on ``time.monotonic``'s clock."""
        self.farewell = ("", "")
        """Code and text of the error event to end with, if there is one."""
        self._reader, self._writer, self._limits, self._task = reader, writer, limits, task
        self._sending = asyncio.Lock()  # a connection's drain() takes one waiter before Python 3.11

    @abstractmethod
    async def _converse(self) -> None:
        """Answer until the client leaves, or ``farewell`` is set."""

    async def talk(self) -> None:
        """Answer until the client leaves, or has to."""
        try:
            await self._converse()
        except FarewellError as error:
            self.farewell = error.code, str(error)
        except (OSError, asyncio.TimeoutError) as error:  # gone, or it no longer reads what it asked for
            error.__traceback__ = None  # the connection keeps the error, which would keep every frame it came through

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

    async def _complain(self, code: str, text: str) -> None:
        if len(text) > _MAX_TEXT:  # it quotes what the client sent
            text = f"{text[: _MAX_TEXT // 2]} … {text[-_MAX_TEXT // 2 :]}"
        await self._send(Error(text, code).event())

    async def _send(self, message: Event | bytes) -> None:
        """Send an event, or the bytes of one."""

        async def write() -> None:
            if self._writer.is_closing():  # now: asyncio of Python 3.13.0 stumbles over a lost connection that is written to
                raise ConnectionResetError("the client is gone")
            if isinstance(message, bytes):
                self._writer.write(message)
                await self._writer.drain()
            else:
                await async_write_event(message, self._writer)

        async with self._sending:
            writing = asyncio.create_task(write())
            try:  # without wait_for, which before Python 3.12 loses a cancellation that meets the end of what it waits for
                if not (await asyncio.wait([writing], timeout=self._limits.idle_s))[0]:
                    raise asyncio.TimeoutError
                writing.result()
            finally:
                writing.cancel()
