"""The recogniser as a service for voice assistants, over the Wyoming protocol (JSON lines and PCM on a socket).

    client                                    server
    describe                                  info
    audio-start, audio-chunk ..., audio-stop  user-event `emotion`, or one error that says why there is none
    user-event `correct` with a label         user-event `corrected`, if it was asked for (serve --learn)
    ping                                      pong

One connection may carry utterance after utterance. A message that is none, or too long a silence, ends it with an error
event; an utterance that cannot be answered does not. Everything else the protocol knows is dropped, as it asks for.

Home Assistant is not served from here: its Wyoming integration takes only the services that the protocol names (speech to text,
wake words ...), and this is none of them. It hears of utterances and tone over MQTT, from `edge-ser listen --mqtt`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from wyoming.event import Event
from wyoming.info import Artifact, Attribution, Info

from edge_ser._version import __version__
from edge_ser.errors import ConfigError
from edge_ser.live.corrections import Corrections
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.services.conversation import LINGER_S, Conversation, Limits, Reader

Address: TypeAlias = "tuple[str, int] | Path"
"""Host and port, or the path of a Unix socket."""


async def serve(
    recognizer: EmotionRecognizer,
    address: Address,
    limits: Limits,
    on_ready: Callable[[str], None],
    corrections: Corrections | None = None,
) -> signal.Signals:
    """Serve at ``address`` until SIGINT or SIGTERM, which it returns; ``on_ready`` is told the URI, once clients can connect.

    Raises ConfigError when the address cannot be listened at, or somebody else listens there.
    """
    recognizer.stream()  # a model that cannot stream is refused here
    info = _info(recognizer)
    tasks: set[asyncio.Task[Any]] = set()
    places: list[Conversation] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        conversation = Conversation(recognizer, info, reader, writer, limits, task, corrections)
        with contextlib.suppress(asyncio.CancelledError):  # the loop of Python 3.11 would print it as an accident
            if len(places) >= limits.max_clients:
                now = time.monotonic()
                silent = [other for other in places if not other.is_speaking and other.keeps_place_until <= now]
                if not silent:
                    await conversation.end("busy", f"{limits.max_clients} clients are connected already; try again later")
                    return
                longest = min(silent, key=lambda other: other.keeps_place_until)
                places.remove(longest)
                longest.give_way()
            places.append(conversation)
            try:
                await conversation.talk()
            finally:
                if conversation in places:
                    places.remove(conversation)
                await conversation.end(*conversation.farewell)

    def protocol() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(Reader(), converse)

    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(signal_: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(signal_)

    try:
        if isinstance(address, Path):
            listening = _unix_socket(address)
            own = os.stat(address).st_ino
            server: asyncio.Server = await loop.create_unix_server(protocol, sock=listening)
            uri = f"unix://{address}"
        else:
            server = await loop.create_server(protocol, *address)
            host, port = server.sockets[0].getsockname()[:2]
            uri = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    except OSError as error:
        where = address if isinstance(address, Path) else "{}, port {}".format(*address)
        raise ConfigError(f"cannot listen at {where}: {error.strerror or error}; choose another --uri") from None
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(signal_, stop, signal_)
        except NotImplementedError:  # the loops of Windows; a signal wakes them all the same
            signal.signal(signal_, lambda number, _: loop.call_soon_threadsafe(stop, signal.Signals(number)))
    try:
        on_ready(uri)
        return await stopped
    finally:
        if isinstance(address, Path):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(address).st_ino == own:  # and not another server's, which found ours gone
                    address.unlink()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unix_socket(path: Path) -> socket.socket:
    """Return a socket that listens at ``path``, in place of one where nobody does any more; OSError where that cannot be."""
    if sys.platform == "win32":
        raise OSError("no Unix sockets")
    listening = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(LINGER_S)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()  # its server was killed
                except OSError:
                    pass  # somebody is there; bind says so
        listening.bind(str(path))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


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
            if not hasattr(socket, "AF_UNIX"):
                raise ConfigError(f"the URI is {uri!r}; this system's Python has no Unix sockets; expected tcp://HOST:PORT")
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
    event.data["emotion"] = [{**program.to_dict(), "models": [{**model.to_dict(), "labels": list(recognizer.labels)}]}]
    return event
