"""Where live audio comes from: pipes, recordings in real time, and a microphone that is made up."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from edge_ser import AudioError
from edge_ser.cli import cli
from edge_ser.errors import MissingExtraError
from edge_ser.frontend.audio import AudioReader
from edge_ser.live import capture
from edge_ser.live.capture import Microphone, devices, in_real_time, standard_input


def test_raw_audio_that_comes_in_odd_pieces() -> None:
    samples = np.arange(-500, 500, dtype="<i2")
    data = samples.tobytes()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        pieces = []
        source = standard_input(pipe, 16000, channels=2)
        for first, last in ((0, 1), (1, 3), (3, 402), (402, 403), (403, 2000)):
            os.write(writing, data[first:last])
            if last in (402, 2000):
                pieces.append(next(source).chunk)
        os.write(writing, b"\1")  # half a sample, cut off
        os.close(writing)
        assert list(source) == []
    assert np.array_equal(np.concatenate(pieces), samples.reshape(-1, 2))


def test_a_pipe_that_breaks_is_an_audio_error() -> None:
    def broken(n: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(AudioError, match="cannot read standard input: Input/output error"):
        list(standard_input(SimpleNamespace(read1=broken), 16000))


class Clock:
    """A clock that stands still unless somebody sleeps."""

    now = 100.0
    slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def test_real_time_is_kept_and_lateness_is_told(speech: Path) -> None:
    clock, position = Clock(), 0
    with AudioReader(speech) as reader:
        for i, piece in enumerate(in_real_time(reader, 2.0, clock, clock.sleep)):
            position += len(piece.chunk)
            assert piece.arrived == pytest.approx(100 + position / 16000 / 2)
            assert clock.now >= piece.arrived - 1e-9
            clock.now += 1.0 if i == 10 else 0.0  # once, the listener is late
        assert position == reader.n_samples
        assert clock.slept == pytest.approx(reader.duration_s / 2 - 1.0, abs=0.03)


class FakeSounddevice:
    """What sounddevice offers, with a device that plays back what a test tells it to."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.default = SimpleNamespace(device=(1, 0))
        self.settings: dict[str, Any] = {}
        self.is_open = False
        self.broken = ""

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        found = [
            {"name": "speaker", "hostapi": 0, "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "webcam", "hostapi": 0, "max_input_channels": 2, "default_samplerate": 44100.0},
        ]
        if kind is None:
            return found
        if device not in (None, 1, "webcam"):
            raise ValueError(f"No input device matching {device!r}")
        return found[1]

    def InputStream(self, **settings: Any) -> FakeSounddevice:  # noqa: N802 (its name there)
        self.settings = settings
        if self.broken == "settings":
            raise self.PortAudioError("Invalid sample rate")
        return self

    def start(self) -> None:
        if self.broken == "start":
            raise self.PortAudioError("Device unavailable")
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def hear(self, samples: np.ndarray[Any, Any], overflow: bool = False) -> None:
        self.settings["callback"](samples, len(samples), None, SimpleNamespace(input_overflow=overflow))
        samples[:] = -1  # PortAudio uses its buffer again


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSounddevice:
    module = FakeSounddevice()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_microphones_are_listed(fake: FakeSounddevice) -> None:
    (device,) = devices()
    assert (device.index, device.name, device.channels, device.rate_hz, device.is_default) == (1, "webcam, ALSA", 2, 44100, True)


def test_a_microphone_records_at_its_own_rate(fake: FakeSounddevice) -> None:
    microphone = Microphone("webcam")
    assert (microphone.name, microphone.rate_hz) == ("webcam", 44100)
    assert (fake.settings["samplerate"], fake.settings["channels"], fake.settings["dtype"]) == (44100, 1, "int16")
    assert not fake.is_open
    heard = iter(microphone)
    fake.hear(np.full((882, 1), 7, dtype=np.int16))
    assert (next(heard).chunk == 7).all()
    assert fake.is_open
    microphone.close()
    assert not fake.is_open
    assert Microphone(1, rate_hz=16000).rate_hz == fake.settings["samplerate"] == 16000


def test_overruns_are_counted(fake: FakeSounddevice) -> None:
    microphone = Microphone()
    block = np.zeros((882, 1), dtype=np.int16)
    fake.hear(block)
    fake.hear(block, overflow=True)
    fake.hear(block)
    heard = iter(microphone)
    assert [next(heard).overruns for _ in range(3)] == [0, 1, 0]
    for _ in range(510):  # ten seconds fit
        fake.hear(block)
    for _ in range(500):
        assert next(heard).overruns == 0
    fake.hear(block)
    assert next(heard).overruns == 10


def test_a_microphone_that_is_gone_is_an_error(fake: FakeSounddevice, monkeypatch: pytest.MonkeyPatch) -> None:
    block = np.zeros((882, 1), dtype=np.int16)
    heard = iter(Microphone())
    fake.hear(block)
    fake.settings["finished_callback"]()
    next(heard)
    with pytest.raises(AudioError, match=r"webcam gives no more audio; was it unplugged\?"):
        next(heard)
    monkeypatch.setattr(capture, "_SILENT_DEVICE_S", 0.05)
    with pytest.raises(AudioError, match="unplugged"):
        next(iter(Microphone()))
    # Its last word finds no room when nobody listens; the silence says it as well.
    microphone = Microphone()
    for _ in range(600):
        fake.hear(block)
    fake.settings["finished_callback"]()
    with pytest.raises(AudioError, match="unplugged"):
        list(microphone)


def test_a_microphone_that_cannot_be_used_is_an_error(fake: FakeSounddevice) -> None:
    with pytest.raises(AudioError, match=r"cannot open microphone 'nosuch': No input device .*--list-devices"):
        Microphone("nosuch")
    fake.broken = "settings"
    with pytest.raises(AudioError, match="cannot open the default microphone: Invalid sample rate"):
        Microphone()
    fake.broken = "start"
    with pytest.raises(AudioError, match="cannot record from webcam: Device unavailable"):
        next(iter(Microphone()))


def test_without_portaudio_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"PortAudio library not found.*apt install libportaudio2"):
        Microphone()


def listen_to_fake(*arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        return CliRunner().invoke(cli, ["listen", *arguments])


def test_the_command_lists_microphones(fake: FakeSounddevice, monkeypatch: pytest.MonkeyPatch) -> None:
    done = listen_to_fake("--list-devices")
    assert (done.exit_code, done.stdout) == (0, "  1* webcam, ALSA  2 channels, 44100 Hz\n")
    monkeypatch.setattr(fake, "query_devices", list)
    assert isinstance(listen_to_fake("--list-devices").exception, AudioError)


@pytest.mark.parametrize("device", ["1", "webcam"])
def test_the_command_records_until_the_microphone_is_unplugged(fake: FakeSounddevice, talk: Path, device: str) -> None:
    samples, rate_hz = soundfile.read(talk, dtype="int16", always_2d=True)

    def start() -> None:
        for block in np.split(samples, range(320, len(samples), 320)):
            fake.hear(block)
        fake.settings["finished_callback"]()

    fake.start = start  # type: ignore[method-assign]
    done = listen_to_fake("--device", device, "--rate", str(rate_hz), "--jsonl")
    assert isinstance(done.exception, AudioError)
    assert not fake.is_open
    first, *_, last = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["source"], first["rate_hz"]) == ("webcam", 16000)
    assert last["reason"] == "webcam gives no more audio; was it unplugged?"
    assert (last["utterances"], last["time_s"], last["overruns"]) == (2, pytest.approx(len(samples) / rate_hz), 0)
