"""What ``edge-ser serve`` answers to clients that keep to the protocol, and how it starts and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from wyoming.audio import AudioChunk, AudioStart
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from edge_ser import EmotionRecognizer, Profile
from edge_ser.arrays import AnyArray
from tests.commanding import run, without
from tests.runtime.services.wyoming_clients import (
    COMMAND,
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


@in_a_loop
async def test_an_utterance_is_answered_as_predict_answers_it(
    server: Server, recognizer: EmotionRecognizer, speech: Path
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    stereo = np.stack([samples, samples[::-1]], axis=1)
    variants: list[tuple[AnyArray, int]] = [
        (samples, rate_hz),
        (samples.astype(np.int32) * 65536 + 7, rate_hz),
        (stereo, rate_hz),
        (samples, 44100),
        (stereo, 8000),
        (samples[:3000], rate_hz),
    ]
    async with server.client() as client:
        for given, rate in variants:
            assert await ask(client, given, rate) == told(recognizer.predict((given, rate)))


def test_many_clients_at_once_each_get_their_own_answer(
    server: Server, recognizer: EmotionRecognizer, real_clips: list[Path]
) -> None:
    clips = [soundfile.read(path, dtype="int16") for path in real_clips[:12]]
    rng = np.random.default_rng(0)

    async def talk(samples: AnyArray, rate_hz: int) -> dict[str, Any]:
        async with server.client() as client:
            first = await ask(client, samples, rate_hz, lambda: int(rng.integers(1, 5000)))
            assert await ask(client, samples, rate_hz) == first
            return first

    async def talk_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*(talk(*clip) for clip in clips))

    assert asyncio.run(talk_all()) == [told(recognizer.predict(clip)) for clip in clips]


@in_a_loop
async def test_it_announces_itself_and_answers_a_ping(server: Server) -> None:
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
@in_a_loop
async def test_an_utterance_that_cannot_be_answered_gets_one_error_and_the_next_one_its_answer(
    server: Server, recognizer: EmotionRecognizer, speech: Path, expected: str, sent: list[Event]
) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    async with server.client() as client:
        for one in sent:
            await client.write_event(one)
        error = await complaint(client)
        assert error.code == "audio"
        assert expected in error.text
        assert len(error.text) < 400
        assert await ask(client, samples, rate_hz) == told(recognizer.predict(speech))


@in_a_loop
async def test_a_second_start_drops_the_first_utterance(server: Server, recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    async with server.client() as client:
        await client.write_event(start_with())
        await client.write_event(chunk_with())
        await client.write_event(AudioStart(rate_hz, 2, 1).event())
        assert "another audio-start" in (await complaint(client)).text
        await client.write_event(AudioChunk(rate_hz, 2, 1, samples.tobytes()).event())
        await client.write_event(STOP)
        assert (await event(client)).data["data"] == told(recognizer.predict(speech))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly_in_the_middle_of_an_utterance(tmp_path: Path, number: int, status: int) -> None:
    path = tmp_path / "socket"
    server = Server(uri=f"unix://{path}")

    async def talk() -> None:
        async with server.client() as client:
            await client.write_event(start_with())
            await client.write_event(chunk_with(bytes(range(250)) * 128))
            await client.write_event(Ping().event())
            assert Pong.is_type((await event(client)).type)
            assert await asyncio.to_thread(server.stop, number) == (status, "")
            assert await ended(client)

    assert server.uri == f"unix://{path}"
    asyncio.run(talk())
    assert not path.exists()


def test_a_unix_socket_belongs_to_one_server(tmp_path: Path, recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    path = tmp_path / "socket"

    async def talk(server: Server) -> None:
        async with server.client() as client:
            assert await ask(client, samples, rate_hz) == told(recognizer.predict(speech))

    first = Server(uri=f"unix://{path}")
    second = subprocess.run([*COMMAND, "--uri", f"unix://{path}"], capture_output=True, check=False, timeout=240)
    assert second.returncode == 1
    assert second.stderr.decode() == (f"edge-ser: error: cannot listen at {path}: Address already in use; choose another --uri\n")
    asyncio.run(talk(first))
    first.stop(signal.SIGKILL)
    assert path.is_socket()
    heir = Server(uri=f"unix://{path}")  # in place of what a killed one left
    asyncio.run(talk(heir))
    path.unlink()  # somebody tidies up
    other = Server(uri=f"unix://{path}")
    assert heir.stop() == (0, "")
    asyncio.run(talk(other))
    assert other.stop() == (0, "")
    assert not path.exists()


def test_mistakes_of_setup_are_one_line(server: Server, tmp_path: Path) -> None:
    def failed(*arguments: str) -> tuple[int, str]:
        done = run("serve", *arguments)
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
    assert b"pip install 'edge-ser[serve]'" in run("serve", command=without("wyoming")).stderr


def test_a_client_puts_its_answer_right(serve: Callable[..., Server], speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    Profile().save(path)
    server = serve("--profile", path, "--learn")
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    def correct(data: Any) -> Event:
        return Event("user-event", {"name": "correct", "data": data})

    async def talk() -> None:
        async with server.client() as client:
            await client.write_event(correct({"label": "tired"}))
            assert "nothing was answered yet" in (await complaint(client)).text
            await ask(client, samples, rate_hz)
            wrongs: tuple[Any, ...] = ({}, [], {"label": 3})
            for wrong in wrongs:
                await client.write_event(correct(wrong))
                assert "lacks its label" in (await complaint(client)).text
            await client.write_event(correct({"label": "Sad"}))
            assert (await event(client)).data == {"name": "corrected", "data": {"label": "sad"}}
            await client.write_event(correct({"label": "sad"}))
            assert "within 2 s" in (await complaint(client)).text
            await ask(client, samples, rate_hz)

    asyncio.run(talk())
    person = Profile.load(path).person
    assert person is not None
    assert person.counts == {"sad": 1}
