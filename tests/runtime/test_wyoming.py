from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event, read_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from edge_ser import EmotionRecognizer, Prediction
from edge_ser.wyoming_server import MAX_PART_BYTES

COMMAND = [sys.executable, "-c", "from edge_ser.cli import main; main()", "serve"]
ANSWER_S = 60.0  # a test machine may be busy

Samples = npt.NDArray[Any]


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
        _, complaints = self.process.communicate(timeout=30)
        return self.process.returncode, complaints.decode()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*arguments: object, uri: str = "tcp://127.0.0.1:0") -> Server:
        servers.append(Server(*arguments, uri=uri))
        return servers[-1]

    yield start
    for server in servers:
        status, complaints = server.stop()
        assert (status, complaints) == (0, "")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for the tests that leave it as it was: whatever they sent, it ends well and has complained of nothing."""
    server = Server()
    yield server
    status, complaints = server.stop()
    assert (status, complaints) == (0, "")


@pytest.fixture(scope="module")
def recognizer() -> EmotionRecognizer:
    return EmotionRecognizer()


async def event(client: AsyncClient) -> Event:
    received = await asyncio.wait_for(client.read_event(), ANSWER_S)
    assert received is not None
    return received


async def ended(client: AsyncClient) -> bool:
    return await asyncio.wait_for(client.read_event(), ANSWER_S) is None


async def ask(client: AsyncClient, samples: Samples, rate_hz: int, chunk: Callable[[], int] = (lambda: 1024)) -> dict[str, Any]:
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
        "distance": prediction.distance,
        "novel": prediction.is_novel,
        "duration_s": prediction.duration_s,
        "embedding": prediction.embedding.tolist(),
    }


def test_an_utterance_is_answered_as_predict_answers_it(server: Server, recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    stereo = np.stack([samples, samples[::-1]], axis=1)
    variants: list[tuple[Samples, int]] = [
        (samples, rate_hz),
        (samples.astype(np.int32) * 65536 + 7, rate_hz),
        (stereo, rate_hz),
        (samples, 44100),
        (stereo, 8000),
        (samples[:3000], rate_hz),
    ]

    async def talk() -> None:
        async with server.client() as client:
            for given, rate in variants:
                assert await ask(client, given, rate) == told(recognizer.predict((given, rate)))

    asyncio.run(talk())


def test_many_clients_at_once_each_get_their_own_answer(
    server: Server, recognizer: EmotionRecognizer, real_clips: list[Path]
) -> None:
    clips = [soundfile.read(path, dtype="int16") for path in real_clips[:12]]
    rng = np.random.default_rng(0)

    async def talk(samples: Samples, rate_hz: int) -> dict[str, Any]:
        async with server.client() as client:
            first = await ask(client, samples, rate_hz, lambda: int(rng.integers(1, 5000)))
            assert await ask(client, samples, rate_hz) == first
            return first

    async def talk_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*(talk(*clip) for clip in clips))

    assert asyncio.run(talk_all()) == [told(recognizer.predict(clip)) for clip in clips]


def test_it_announces_itself_and_answers_a_ping(server: Server) -> None:
    async def talk() -> None:
        async with server.client() as client:
            await client.write_event(Describe().event())
            announced = await event(client)
            # No domain of the protocol is emotion; nobody shall take us for what we are not.
            info = Info.from_event(announced)
            assert info == Info()
            (program,) = announced.data["emotion"]
            assert program["name"] == "edge-ser"
            assert program["models"][0]["labels"] == ["neutral", "angry", "happy", "sad"]
            assert "not for judging what a person feels" in program["models"][0]["description"]
            for text, back in [("there?", "there?"), (None, None), ("\ud800", "?")]:
                raw = json.dumps({"type": "ping", "data": {"text": text}}).encode() + b"\n"
                assert client._writer is not None
                client._writer.write(raw)
                assert Pong.from_event(await event(client)).text == back
            await client.write_event(Event("transcribe", {"language": "en"}))  # not ours: dropped
            await client.write_event(Ping("still").event())
            assert Pong.from_event(await event(client)).text == "still"

    asyncio.run(talk())


def start_with(**changes: Any) -> Event:
    return Event("audio-start", {"rate": 16000, "width": 2, "channels": 1} | changes)


def chunk_with(payload: bytes = b"\1\2" * 800, **changes: Any) -> Event:
    return Event("audio-chunk", {"rate": 16000, "width": 2, "channels": 1} | changes, payload)


STOP = AudioStop().event()
UNANSWERABLE: list[tuple[str, str, list[Event]]] = [
    ("a chunk before its start", "before an audio-start", [chunk_with(), chunk_with(), STOP]),
    ("a stop alone", "before an audio-start", [STOP]),
    ("no sample", "without a sample", [start_with(), STOP]),
    ("silence", "is silent", [start_with(), chunk_with(bytes(32000)), STOP]),
    ("half a sample", "multiple of 2", [start_with(), chunk_with(b"abc"), chunk_with(), STOP]),
    ("half a frame", "multiple of 4", [start_with(channels=2), chunk_with(b"ab", channels=2), STOP]),
    ("another format midway", "its audio-start has", [start_with(), chunk_with(rate=8000), chunk_with(), STOP]),
    ("8 bits", "expected 2 or 4", [start_with(width=1), chunk_with(width=1), STOP]),
    ("24 bits", "expected 2 or 4", [start_with(width=3), chunk_with(width=3), STOP]),
    ("a width of text", "expected 2 or 4", [start_with(width="2"), STOP]),
    ("a width of a list", "expected 2 or 4", [start_with(width=[2]), STOP]),
    ("a rate of zero", "whole number of Hz", [start_with(rate=0), chunk_with(rate=0), STOP]),
    ("a rate below zero", "whole number of Hz", [start_with(rate=-16000), STOP]),
    ("a rate of NaN", "whole number of Hz", [start_with(rate=float("nan")), chunk_with(rate=float("nan")), STOP]),
    ("a rate beyond reason", "whole number of Hz", [start_with(rate=10**6), STOP]),
    ("a rate of 4000 digits", "whole number of Hz", [start_with(rate=10**4000), STOP]),
    ("half a rate", "whole number of Hz", [start_with(rate=16000.5), STOP]),
    ("a rate of text", "whole number of Hz", [start_with(rate="16000"), STOP]),
    ("a rate of nothing", "whole number of Hz", [start_with(rate=None), STOP]),
    ("a rate of a list", "whole number of Hz", [start_with(rate=[16000]), STOP]),
    ("a rate of truth", "whole number of Hz", [start_with(rate=True), STOP]),
    ("no rate", "lacks its rate", [Event("audio-start", {}), STOP]),
    ("no channels", "expected 1 to 64", [start_with(channels=0), STOP]),
    ("too many channels", "expected 1 to 64", [start_with(channels=10**4299), STOP]),
    ("a chunk without a format", "lacks its rate", [start_with(), Event("audio-chunk", {}, b"ab"), STOP]),
]


@pytest.mark.parametrize(("expected", "sent"), [case[1:] for case in UNANSWERABLE], ids=[case[0] for case in UNANSWERABLE])
def test_an_utterance_that_cannot_be_answered_gets_one_error_and_the_next_one_its_answer(
    server: Server, recognizer: EmotionRecognizer, speech: Path, expected: str, sent: list[Event]
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    async def talk() -> None:
        async with server.client() as client:
            for one in sent:
                await client.write_event(one)
            error = await complaint(client)
            assert error.code == "audio"
            assert expected in error.text
            assert len(error.text) < 400
            assert await ask(client, samples, rate_hz) == told(recognizer.predict(speech))

    asyncio.run(talk())


def test_a_second_start_drops_the_first_utterance(server: Server, recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    async def talk() -> None:
        async with server.client() as client:
            await client.write_event(start_with())
            await client.write_event(chunk_with())
            await client.write_event(AudioStart(rate_hz, 2, 1).event())
            assert "another audio-start" in (await complaint(client)).text
            await client.write_event(AudioChunk(rate_hz, 2, 1, samples.tobytes()).event())
            await client.write_event(STOP)
            assert (await event(client)).data["data"] == told(recognizer.predict(speech))

    asyncio.run(talk())


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
    before = server.rss_mb

    async def talk() -> None:
        async with server.client() as client:
            assert client._writer is not None
            client._writer.write(sent + b'{"type": "describe"}\n' * 1000)  # more comes before we could read the error
            error = await complaint(client)
            assert error.code == "protocol"
            assert len(error.text) < 400
            assert await ended(client)

    asyncio.run(talk())
    assert server.rss_mb < before + 30


def test_a_message_of_odd_types_or_half_a_message_ends_nothing_else(server: Server) -> None:
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

    async def talk() -> None:
        async with server.client() as client:
            await client.write_event(Describe().event())
            assert Info.is_type((await event(client)).type)

    asyncio.run(talk())


def test_a_client_too_many_is_told_so(serve: Callable[..., Server]) -> None:
    server = serve("--max-clients", 2)

    async def talk() -> None:
        async with server.client() as first, server.client() as second:
            for client in (first, second):
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

    asyncio.run(talk())


def test_idle_slow_and_deaf_clients_are_turned_away(serve: Callable[..., Server], speech: Path) -> None:
    server = serve("--idle", 1, "--max-clients", 3)
    samples, rate_hz = soundfile.read(speech, dtype="int16")

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
        with server.raw() as connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            while True:  # asks, and never reads an answer, until the server has enough
                connection.sendall(ping)
        assert time.monotonic() - began < 20

    async def all_at_once() -> None:
        await asyncio.gather(idle(), slow(), asyncio.to_thread(deaf))
        async with server.client() as client:
            assert (await ask(client, samples, rate_hz))["label"]

    began = time.monotonic()
    asyncio.run(all_at_once())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_in_the_middle_of_an_utterance(tmp_path: Path, number: int) -> None:
    path = tmp_path / "socket"
    server = Server(uri=f"unix://{path}")

    async def talk() -> None:
        async with server.client() as client:
            await client.write_event(start_with())
            await client.write_event(chunk_with(bytes(range(250)) * 128))
            await client.write_event(Ping().event())
            assert Pong.is_type((await event(client)).type)
            assert await asyncio.to_thread(server.stop, number) == (0, "")
            assert await ended(client)

    assert server.uri == f"unix://{path}"
    asyncio.run(talk())
    assert not path.exists()


def test_mistakes_of_setup_are_one_line(server: Server, tmp_path: Path) -> None:
    def failed(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, timeout=60)
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stderr.decode().splitlines()[-1]

    status, line = failed("--uri", server.uri)
    assert status == 1
    assert "cannot listen at 127.0.0.1, port" in line
    (tmp_path / "file").touch()
    status, line = failed("--uri", f"unix://{tmp_path}/file")
    assert status == 1
    assert "cannot listen at" in line
    assert (tmp_path / "file").exists()
    for uri in ("10710", "tcp://127.0.0.1", "tcp://:10", "tcp://h:99999", "tcp://h:x", "http://h:1", "unix://", "stdio://"):
        status, line = failed("--uri", uri)
        assert status == 2
        assert "expected tcp://HOST:PORT or unix:///PATH" in line
    blocker = "import sys; sys.modules['wyoming'] = None; from edge_ser.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", blocker, "serve"], capture_output=True, check=False)
    assert b"pip install 'edge-ser[serve]'" in done.stderr


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


def test_random_frames_chunks_and_disconnects_for_a_while(
    serve: Callable[..., Server], recognizer: EmotionRecognizer, real_clips: list[Path]
) -> None:
    server = serve("--max-clients", 32)
    clips = [soundfile.read(path, dtype="int16") for path in real_clips[:8]]
    expected = [told(recognizer.predict(clip)) for clip in clips]
    counts = {"answered": 0, "hostile": 0, "left": 0}

    async def well_behaved(client: AsyncClient, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            n = int(rng.integers(len(clips)))
            samples, rate_hz = clips[n]
            answer = await ask(client, samples, rate_hz, lambda: int(np.exp(rng.uniform(0, 10))) + 1)
            assert answer == expected[n]
            counts["answered"] += 1

    async def hostile(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            _, writer = await asyncio.open_connection(*server.uri.removeprefix("tcp://").split(":"))
            with contextlib.suppress(OSError):
                writer.write(garbage(rng))
                await writer.drain()
            if rng.random() < 0.5:
                writer.transport.abort()  # a reset, in the middle of what the server does
            else:
                writer.close()
            counts["hostile"] += 1

    async def leaves(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                async with server.client() as client:
                    await client.write_event(start_with())
                    for _ in range(int(rng.integers(0, 20))):
                        await client.write_event(chunk_with(rng.bytes(2 * int(rng.integers(1, 4000)))))
                    if rng.random() < 0.5:
                        await client.write_event(STOP)
            counts["left"] += 1

    async def all_at_once() -> None:
        async with server.client() as first, server.client() as second:
            for client in (first, second):  # their places are theirs before the crowd comes
                await client.write_event(Ping().event())
                assert Pong.is_type((await event(client)).type)
            polite = well_behaved(first, 1), well_behaved(second, 2)
            await asyncio.gather(*polite, hostile(3), hostile(4), hostile(5), leaves(6))

    end = time.monotonic() + 3
    asyncio.run(all_at_once())  # all of it once, before the memory is looked at
    before, end = server.rss_mb, time.monotonic() + float(os.environ.get("EDGE_SER_SOAK_S", 6))
    asyncio.run(all_at_once())
    print(f"{counts}, server {before:.1f} MB before, {server.rss_mb:.1f} MB after")
    assert min(counts.values()) > 0
    assert server.process.poll() is None
    assert server.rss_mb < before + 30
