"""A service for voice assistants, over the Wyoming protocol (JSON lines and PCM on a socket): connections, places, the end.

    client                                    server
    describe                                  info
    audio-start, audio-chunk ..., audio-stop  user-event `emotion`, or one error that says why there is none
    user-event `correct` with a label         user-event `corrected`, if it was asked for (serve --learn)
    ping                                      pong

One connection may carry utterance after utterance. A message that is none, or too long a silence, ends it with an error
event; an utterance that cannot be answered does not. Everything else the protocol knows is dropped, as it asks for.

Home Assistant's Wyoming integration takes only the services that the protocol names (speech to text, wake words ...), and this is
none of them. It takes the one of :mod:`~edge_ser.services.relay`, which stands before a speech-to-text service (serve --asr).
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

from edge_ser.errors import ConfigError
from edge_ser.services.connection import LINGER_S, Connection, Limits, Reader

Address: TypeAlias = "tuple[str, int] | Path"
"""Host and port, or the path of a Unix socket."""

Made: TypeAlias = Callable[[Reader, asyncio.StreamWriter, Limits, "asyncio.Task[Any]"], Connection]
"""What makes a client's connection."""


async def serve(made: Made, address: Address, limits: Limits, on_ready: Callable[[str], None]) -> signal.Signals:
    """Serve at ``address`` until SIGINT or SIGTERM, which it returns; ``on_ready`` is told the URI, once clients can connect.

    Raises ConfigError when the address cannot be listened at, or somebody else listens there.
    """
    tasks: set[asyncio.Task[Any]] = set()
    places: list[Connection] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, Reader)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        connection = made(reader, writer, limits, task)
        with contextlib.suppress(asyncio.CancelledError):  # the loop of Python 3.11 would print it as an accident
            if len(places) >= limits.max_clients:
                now = time.monotonic()
                silent = [other for other in places if not other.is_speaking and other.keeps_place_until <= now]
                if not silent:
                    await connection.end("busy", f"{limits.max_clients} clients are connected already; try again later")
                    return
                longest = min(silent, key=lambda other: other.keeps_place_until)
                places.remove(longest)
                longest.give_way()
            places.append(connection)
            try:
                await connection.talk()
            finally:
                if connection in places:
                    places.remove(connection)
                await connection.end(*connection.farewell)

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


def is_same(one: Address, other: Address) -> bool:
    """Return whether both lead to one place on this machine, under whatever names."""
    if one == other or isinstance(one, Path) or isinstance(other, Path) or one[1] != other[1]:
        return one == other
    with contextlib.suppress(OSError, UnicodeError):  # a name that nobody knows
        hosts = [{found[4][0] for found in socket.getaddrinfo(*at, type=socket.SOCK_STREAM)} for at in (one, other)]
        mine, its = ({{"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), host) for host in found} for found in hosts)
        return not mine.isdisjoint(its)
    return False


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
