"""The recogniser as a service for voice assistants, over the Wyoming protocol (JSON lines and PCM on a socket).

    client                                    server
    describe                                  info
    audio-start, audio-chunk ..., audio-stop  user-event `emotion`, or one error that says why there is none
    ping                                      pong

One connection may carry utterance after utterance. A message that is none, or too long a silence, ends it with an error
event; an utterance that cannot be answered does not. Everything else the protocol knows is dropped, as it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import Artifact, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from edge_ser._version import __version__
from edge_ser.errors import AudioError, ConfigError, EdgeSerError
from edge_ser.frontend.samples import MAX_CHANNELS
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.stream import Stream

Address: TypeAlias = "tuple[str, int] | Path"
"""Host and port, or the path of a Unix socket."""
MAX_PART_BYTES = 2**20
"""Longest data or payload of one message: half a minute of 16 kHz speech. A header line may have 64 KiB."""

_DTYPES = {2: "<i2", 4: "<i4"}  # by width in bytes
_LINGER_S = 2.0
_MAX_TEXT = 300


async def serve(
    recognizer: EmotionRecognizer, address: Address, max_clients: int, idle_s: float, on_ready: Callable[[str], None]
) -> signal.Signals:
    """Serve at ``address`` until SIGINT or SIGTERM, which it returns; ``on_ready`` is told the URI, once clients can connect.

    A client more than ``max_clients``, and one that sends no whole message for ``idle_s`` seconds, is turned away. Raises
    ConfigError when the address cannot be listened at.
    """
    recognizer.stream()  # a model that cannot stream is refused here
    info = _info(recognizer)
    conversations: set[asyncio.Task[Any]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = _Conversation(recognizer, info, reader, writer, idle_s)
        task = asyncio.current_task()
        if len(conversations) >= max_clients:
            await conversation.end("busy", f"{max_clients} clients are connected already; try again later")
        elif task is not None:
            conversations.add(task)
            task.add_done_callback(conversations.discard)
            with contextlib.suppress(asyncio.CancelledError):  # the loop of Python 3.11 would print it as an accident
                await conversation.run()

    def protocol() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(_Reader(), converse)

    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(signal_: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(signal_)

    try:
        if isinstance(address, Path):
            server: asyncio.Server = await loop.create_unix_server(protocol, address)
            uri = f"unix://{address}"
        else:
            server = await loop.create_server(protocol, *address)
            host, port = server.sockets[0].getsockname()[:2]
            uri = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    except OSError as error:
        where = address if isinstance(address, Path) else "{}, port {}".format(*address)
        raise ConfigError(f"cannot listen at {where}: {error.strerror or error}; choose another --uri") from None
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, stop, signal_)
    try:
        on_ready(uri)
        return await stopped
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        if isinstance(address, Path):
            address.unlink(missing_ok=True)


def parse_uri(uri: str) -> Address:
    """Return host and port of ``tcp://HOST:PORT``, or the path of ``unix:///PATH``; ConfigError for anything else.

    >>> parse_uri("tcp://127.0.0.1:10710")
    ('127.0.0.1', 10710)
    """
    with contextlib.suppress(ValueError):  # a port that is no number, or beyond 65535
        parts = urlsplit(uri)
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path.strip("/"):
            return parts.hostname, parts.port
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            return Path(parts.path)
    raise ConfigError(f"the URI is {uri!r}; expected tcp://HOST:PORT or unix:///PATH")


def _info(recognizer: EmotionRecognizer) -> Event:
    """Announce the recogniser.

    The protocol has no domain of emotion, and under another one (asr, handle ...) an assistant would take it for what it is
    not. So the lists of the known domains stay empty, and a list of its own, ``emotion``, is built like them; clients that
    do not know it pass over it.
    """
    manifest = recognizer.manifest
    model = Artifact(
        name=recognizer.path.stem,
        attribution=Attribution(name=", ".join(f"{c['name']}: {c['licence']}" for c in manifest.training["corpora"]), url=""),
        installed=True,
        description=f"for {manifest.intended_use}; not for {manifest.excluded_use}",
        version=manifest.graph_sha256[:12],
    )
    program = Artifact(
        name="edge-ser",
        attribution=Attribution(name="edge-ser", url=""),
        installed=True,
        description="Tells how a person sounds, not what they feel",
        version=__version__,
    )
    event = Info().event()
    event.data["emotion"] = [{**program.to_dict(), "models": [{**model.to_dict(), "labels": list(manifest.labels)}]}]
    return event


def _emotion(prediction: Prediction) -> Event:
    """Return the answer as the protocol's event for what it does not define; every figure is the one ``predict`` gives."""
    data = {
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "distance": prediction.distance,
        "novel": prediction.is_novel,
        "duration_s": prediction.duration_s,
        "embedding": prediction.embedding.tolist(),
    }
    return Event("user-event", {"name": "emotion", "data": data})


class _ConversationError(Exception):
    """Ends a conversation with an error event."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Reader(asyncio.StreamReader):
    """Refuses a length beyond reason before a byte of it has come: the package waits for, and keeps, any."""

    async def readexactly(self, n: int) -> bytes:
        if type(n) is not int or n > MAX_PART_BYTES:
            text = f"a message announces {n!r} bytes; expected a whole number up to {MAX_PART_BYTES}"
            raise _ConversationError("protocol", text)
        return await super().readexactly(n)


class _Conversation:
    """One client, whose events are taken in order; what takes time happens in a thread, so that no client waits for another."""

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        info: Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        idle_s: float,
    ) -> None:
        self._recognizer, self._info = recognizer, info
        self._reader, self._writer, self._idle_s = reader, writer, idle_s
        self._stream: Stream | None = None
        self._format: tuple[int, ...] = ()  # rate, width and channels of the utterance
        self._refused = False  # the utterance got its error; the rest of it is dropped

    async def run(self) -> None:
        """Answer until the client leaves, or has to."""
        farewell = ("", "")
        try:
            while (event := await self._next()) is not None:
                await self._take(event)
        except _ConversationError as error:
            farewell = error.code, str(error)
        except (OSError, asyncio.TimeoutError) as error:  # gone, or it no longer reads what it asked for
            error.__traceback__ = None  # the connection keeps the error, which would keep every frame it came through
        finally:
            self._stream = None
            await self.end(*farewell)

    async def end(self, code: str = "", text: str = "") -> None:
        """Close the connection, after an error event if there is something to say; who does not read it is not waited for."""

        async def part() -> None:
            await self._complain(code, text)
            self._writer.write_eof()
            while await self._reader.read(2**16):  # a socket closed on unread bytes would take the error event back
                pass

        if text:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(part(), _LINGER_S)
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # asked for always: nobody else takes note of a lost connection
            await asyncio.wait_for(self._writer.wait_closed(), _LINGER_S)
        self._writer.transport.abort()

    async def _next(self) -> Event | None:
        """Return the next event, or None at the end of the connection."""
        event = None
        try:
            event = await asyncio.wait_for(async_read_event(self._reader), self._idle_s)
        except asyncio.IncompleteReadError:
            return None
        except asyncio.TimeoutError:
            raise _ConversationError("idle", f"no message came within {self._idle_s:g} s; connect again") from None
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            pass  # JSON, but no event
        if event is None and not self._reader.at_eof():
            raise _ConversationError("protocol", "this is no Wyoming message; expected a line of JSON with a type")
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
            elif Ping.is_type(event.type):
                await self._send(Pong(_text(event)).event())
        except EdgeSerError as error:
            self._stream = None
            self._refused = not AudioStop.is_type(event.type)
            await self._complain("audio", str(error))

    async def _start(self, event: Event) -> None:
        if self._stream is not None:
            await self._complain("audio", "another audio-start before the audio-stop; the utterance so far is dropped")
        self._stream, self._refused = None, False
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
        samples: npt.NDArray[Any] = np.frombuffer(payload, dtype=_DTYPES[width]).reshape(-1, channels)
        for start in range(0, len(samples), rate_hz):  # a second at a time, for other clients want the threads, too
            await asyncio.to_thread(self._stream.feed, samples[start : start + rate_hz])

    async def _stop(self) -> None:
        refused, stream = self._refused, self._stream
        self._refused, self._stream = False, None
        if refused:
            return
        if stream is None:
            raise AudioError("an audio-stop came before an audio-start")
        await self._send(_emotion(await asyncio.to_thread(stream.finish)))

    async def _complain(self, code: str, text: str) -> None:
        if len(text) > _MAX_TEXT:  # it quotes what the client sent
            text = f"{text[: _MAX_TEXT // 2]} … {text[-_MAX_TEXT // 2 :]}"
        await self._send(Error(text, code).event())

    async def _send(self, event: Event) -> None:
        await asyncio.wait_for(async_write_event(event, self._writer), self._idle_s)


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
