"""Clients of ``edge-ser serve`` that are broken, slow, too many or hostile: each is told once, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import read_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from edge_ser import EmotionRecognizer
from edge_ser.services.connection import MAX_PART_BYTES, Connection, Limits, Reader
from tests.runtime.services.wyoming_clients import (
    STOP,
    Server,
    ask,
    chunk_with,
    complaint,
    ended,
    event,
    in_a_loop,
    start_with,
    told,
)

NOT_WYOMING = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "bytes": bytes(range(256)) * 4 + b"\n",
    "not UTF-8": b'{"type": "\xff\xfe"}\n',
    "a list": b'["audio-start"]\n',
    "a number": b"5\n",
    "no type": b'{"data": {}}\n',
    "an endless line": b"x" * 200_000,
    "a deep nest": b"[" * 60_000 + b"\n",
    "data of gigabytes": b'{"type": "describe", "data_length": 9000000000}\n',
    "a payload of gigabytes": b'{"type": "audio-chunk", "payload_length": 9000000000}\n',
    "a payload one byte too long": b'{"type": "audio-chunk", "payload_length": %d}\n' % (MAX_PART_BYTES + 1),
    "a payload of half a byte": b'{"type": "audio-chunk", "payload_length": 0.5}\n',
    "a payload of truth": b'{"type": "audio-chunk", "payload_length": true}\n',
    "a payload of text": b'{"type": "audio-chunk", "payload_length": "12"}\n',
    "a payload of 10^4000 bytes": b'{"type": "audio-chunk", "payload_length": 1%s}\n' % (b"0" * 4000),
    "data that is none": b'{"type": "describe", "data_length": 3}\nabc',
    "data that is a list": b'{"type": "describe", "data_length": 3}\n[5]',
}


@pytest.mark.parametrize("sent", NOT_WYOMING.values(), ids=list(NOT_WYOMING))
def test_what_is_no_message_gets_one_error_and_the_door(server: Server, sent: bytes) -> None:
    async def talk() -> None:
        async with server.client() as client:
            assert client._writer is not None
            client._writer.write(sent + b'{"type": "describe"}\n' * 1000)  # more comes before we could read the error
            error = await complaint(client)
            assert error.code == "protocol"
            assert len(error.text) < 400
            assert await ended(client)

    asyncio.run(talk())
    assert server.rss_mb < 1000  # nothing is kept free for the gigabytes that were announced


@in_a_loop
async def test_a_message_of_odd_types_or_half_a_message_ends_nothing_else(server: Server) -> None:
    odd = [
        b'{"type": 5, "data": 7, "payload_length": -3}\n',
        b'{"type": "ping", "data": []}\n',
        b'{"type": "describe", "data": null}\n',
    ]
    with server.raw() as connection, connection.makefile("rb") as answers:
        connection.sendall(b"".join(odd))
        assert [received and received.type for received in (read_event(answers), read_event(answers))] == ["pong", "info"]
    for half in (b'{"type": "audio-sta', b'{"type": "audio-chunk", "payload_length": 1000}\nabc', b""):
        with server.raw() as connection:
            connection.sendall(half)
    async with server.client() as client:
        await client.write_event(Describe().event())
        assert Info.is_type((await event(client)).type)


@in_a_loop
async def test_a_client_too_many_is_told_so(serve: Callable[..., Server]) -> None:
    server = serve("--max-clients", 2)
    async with server.client() as first, server.client() as second:
        for client in (first, second):
            await client.write_event(start_with())
            await client.write_event(Ping().event())
            assert Pong.is_type((await event(client)).type)
        async with server.client() as third:
            await third.write_event(Describe().event())
            error = await complaint(third)
            assert error.code == "busy"
            assert await ended(third)
    for _ in range(100):  # the server sees a little later than we that a client has left
        async with server.client() as fourth:
            await fourth.write_event(Ping().event())
            if Pong.is_type((await event(fourth)).type):
                return
        await asyncio.sleep(0.05)
    pytest.fail("the places of those who left stay taken")


@in_a_loop
async def test_who_only_pings_gives_way_to_who_has_audio(serve: Callable[..., Server], speech: Path) -> None:
    server = serve("--max-clients", 2)
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    async with server.client() as silent, server.client() as speaking:
        await speaking.write_event(start_with())
        for client in (silent, speaking):
            await client.write_event(Ping().event())
            assert Pong.is_type((await event(client)).type)
        async with server.client() as third:
            assert (await ask(third, samples, rate_hz))["label"]
            error = await complaint(silent)
            assert (error.code, "another client" in error.text) == ("busy", True)
            assert await ended(silent)
            async with server.client() as fourth:  # the others' places are theirs: one speaks, one just has
                assert (await complaint(fourth)).code == "busy"
            assert (await ask(third, samples, rate_hz))["label"]
            await speaking.write_event(chunk_with())
            await speaking.write_event(STOP)
            assert (await event(speaking)).type == "user-event"


def test_within_an_utterance_only_audio_buys_time(serve: Callable[..., Server]) -> None:
    server = serve("--idle", 1)

    async def pinging() -> None:
        async with server.client() as client:
            await client.write_event(start_with())
            await client.write_event(chunk_with(bytes(2)))
            for _ in range(1000):
                await client.write_event(Ping().event())
                if Error.is_type((received := await event(client)).type):
                    break
                await asyncio.sleep(0.05)
            assert Error.from_event(received).code == "idle"
            assert "fallen behind by 1 s" in Error.from_event(received).text
            assert await ended(client)

    async def trickling() -> None:
        async with server.client() as client:
            await client.write_event(start_with())
            answer = asyncio.create_task(complaint(client))
            while not answer.done():
                await client.write_event(chunk_with(bytes(2)))
                await asyncio.sleep(0.05)
            assert (await answer).code == "idle"

    async def both() -> None:
        await asyncio.gather(pinging(), trickling())

    asyncio.run(both())


@in_a_loop
async def test_an_utterance_has_a_longest_length(serve: Callable[..., Server], speech: Path) -> None:
    server = serve("--max-duration", 4.5)
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    async with server.client() as client:
        await client.write_event(start_with())
        for _ in range(50):
            await client.write_event(chunk_with(bytes(3200)))  # 0.1 s
        await client.write_event(STOP)
        error = await complaint(client)
        assert error.code == "audio"
        assert error.text == "the utterance is longer than 4.5 s (serve --max-duration); send audio-stop before that"
        assert (await ask(client, samples, rate_hz))["duration_s"] == pytest.approx(4.339, abs=0.001)


def test_idle_slow_and_deaf_clients_are_turned_away(serve: Callable[..., Server]) -> None:
    server = serve("--idle", 1, "--max-clients", 3)

    async def idle() -> None:
        async with server.client() as client:
            await client.write_event(start_with())
            error = await complaint(client)
            assert error.code == "idle"
            assert await ended(client)

    async def slow() -> None:
        reader, writer = await asyncio.open_connection(*server.uri.removeprefix("tcp://").split(":"))
        for byte in b'{"type": "desc':  # a byte now and then is no message
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        line = await reader.readline()
        assert json.loads(line)["type"] == "error"
        writer.close()

    def deaf() -> None:
        ping = json.dumps({"type": "ping", "data": {"text": "x" * 60_000}}).encode() + b"\n"
        with server.raw() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:  # asks, and never reads an answer, until the server has enough
                connection.sendall(ping)

    async def all_at_once() -> None:
        await asyncio.gather(idle(), slow(), asyncio.to_thread(deaf))
        for _ in range(100):  # on a busy machine we may be too slow for it ourselves
            async with server.client() as client:
                await client.write_event(Ping().event())
                if Pong.is_type((await event(client)).type):
                    return
        pytest.fail("the places of those who were turned away stay taken")

    asyncio.run(all_at_once())


def garbage(rng: np.random.Generator) -> bytes:
    """Return frames as a broken or hostile client sends them."""
    kinds = ["audio-start", "audio-chunk", "audio-stop", "describe", "ping", "user-event", "", 3, None]
    odd = [0, -1, 1, 2, 4, 16000, 2.5, 1e99, float("nan"), 2**70, "x", None, [], {}, True]
    frames = b""
    for _ in range(int(rng.integers(1, 12))):
        data: dict[str, Any] = {"rate": 16000, "width": 2, "channels": 1}
        data |= {key: odd[rng.integers(len(odd))] for key in data if rng.random() < 0.3}
        data = {key: value for key, value in data.items() if rng.random() < 0.95}
        header: dict[str, Any] = {"type": kinds[rng.integers(len(kinds))], "data": data}
        payload = rng.bytes(int(rng.integers(0, 3000)))
        if rng.random() < 0.5:
            header["payload_length"] = len(payload)
        if rng.random() < 0.1:
            header["payload_length"] = odd[rng.integers(len(odd))]
        if rng.random() < 0.1:
            header["data_length"] = odd[rng.integers(len(odd))]
        frames += json.dumps(header).encode() + b"\n" + payload
    return frames[: rng.integers(1, len(frames) + 1)] if rng.random() < 0.5 else frames


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_random_frames_chunks_and_disconnects(
    serve: Callable[..., Server], recognizer: EmotionRecognizer, real_clips: list[Path], rounds: int
) -> None:
    server = serve("--max-clients", 32)
    clips = [soundfile.read(path, dtype="int16") for path in real_clips[:8]]
    expected = [told(recognizer.predict(clip)) for clip in clips]

    async def well_behaved(client: AsyncClient, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(rounds):
            n = int(rng.integers(len(clips)))
            samples, rate_hz = clips[n]
            answer = await ask(client, samples, rate_hz, lambda: int(np.exp(rng.uniform(0, 10))) + 1)
            assert answer == expected[n]

    async def hostile(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10 * rounds):
            _, writer = await asyncio.open_connection(*server.uri.removeprefix("tcp://").split(":"))
            with contextlib.suppress(OSError):
                writer.write(garbage(rng))
                await writer.drain()
            if rng.random() < 0.5:
                writer.transport.abort()  # a reset, in the middle of what the server does
            else:
                writer.close()

    async def leaves(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(5 * rounds):
            with contextlib.suppress(OSError):
                async with server.client() as client:
                    await client.write_event(start_with())
                    for _ in range(int(rng.integers(0, 20))):
                        await client.write_event(chunk_with(rng.bytes(2 * int(rng.integers(1, 4000)))))
                    if rng.random() < 0.5:
                        await client.write_event(STOP)

    async def all_at_once() -> None:
        async with server.client() as first, server.client() as second:
            for client in (first, second):  # their places are theirs before the crowd comes
                await ask(client, *clips[0])
            polite = well_behaved(first, 1), well_behaved(second, 2)
            await asyncio.gather(*polite, hostile(3), hostile(4), hostile(5), leaves(6))

    asyncio.run(all_at_once())  # all of it once, before the memory is looked at
    before = server.rss_mb
    asyncio.run(all_at_once())
    print(f"server {before:.1f} MB before, {server.rss_mb:.1f} MB after {rounds} rounds")
    assert server.process.poll() is None
    assert server.rss_mb < before + 50


class Silent(Connection):
    async def _converse(self) -> None:
        pass


def test_nothing_is_written_to_a_client_that_has_just_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """For asyncio of Python 3.13.0 would watch its socket on, and fail the next client whose socket has the same number."""
    written: list[object] = []

    async def send() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for name in ("write", "writelines"):
            monkeypatch.setattr(writer, name, written.append)
        task = asyncio.current_task()
        assert task is not None
        connection = Silent(Reader(), writer, Limits(1, 60, 60), task)
        sending = asyncio.create_task(connection._send(Ping().event()))
        await asyncio.sleep(0)  # it has begun, while the client was there
        writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await sending
        server.close()

    asyncio.run(send())
    assert written == []
