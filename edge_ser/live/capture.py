"""Where live audio comes from: a microphone, standard input, or a recording that plays in real time.

Every source is an iterator of :class:`Captured`; it ends with the audio and raises AudioError when the audio is torn off.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from edge_ser.arrays import AnyArray
from edge_ser.errors import AudioError, MissingExtraError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.standard_input import sound_of

_BLOCK_S = 0.02
_WAITING_S = 10.0  # what may wait for a slow listener before the newest is lost
_SILENT_DEVICE_S = 3.0  # a device that is gone often just stops calling; none that works is as late as this


@dataclass(frozen=True, eq=False)
class Captured:
    """A piece of live audio."""

    chunk: AnyArray
    """The samples (n,) or (n, channels), int16 or float32."""
    arrived: float
    """When its last sample was there, on the clock of ``time.monotonic``, in seconds."""
    overruns: int = 0
    """How often audio was lost just before it."""


_PORTAUDIO = {"linux": "sudo apt install libportaudio2", "darwin": "brew install portaudio"}
_REINSTALL = "pip install --force-reinstall sounddevice"  # its wheel for Windows holds the library


def _sounddevice() -> Any:
    """Return the module; MissingExtraError when it or the PortAudio library is not installed."""
    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("the microphone needs sounddevice; install with: pip install 'edge-ser[mic]'") from None
    except OSError as error:  # what sounddevice raises when it finds no PortAudio
        raise MissingExtraError(
            f"the microphone needs PortAudio ({error}); install it with: {_PORTAUDIO.get(sys.platform, _REINSTALL)}, or pipe "
            "audio in: arecord -t raw -f S16_LE -r 16000 | edge-ser listen -"
        ) from None
    return sounddevice


@dataclass(frozen=True)
class Device:
    """A microphone, as PortAudio sees it."""

    index: int
    """Its number; a name that contains part of ``name`` selects it, too."""
    name: str
    """What it calls itself, and the sound system it belongs to."""
    channels: int
    """How many it can record."""
    rate_hz: int
    """The sampling rate it prefers, in Hz."""
    is_default: bool
    """Whether it is taken when none is asked for."""


def devices() -> list[Device]:
    """Return the microphones there are."""
    sounddevice = _sounddevice()
    try:
        systems = [system["name"] for system in sounddevice.query_hostapis()]
        default = sounddevice.default.device[0]
        return [
            Device(
                i, f"{d['name']}, {systems[d['hostapi']]}", d["max_input_channels"], int(d["default_samplerate"]), i == default
            )
            for i, d in enumerate(sounddevice.query_devices())
            if d["max_input_channels"] > 0
        ]
    except sounddevice.PortAudioError as error:
        raise AudioError(f"cannot list the microphones: {error}") from None


class Microphone:
    """A microphone; iterating over it starts the recording, which goes on until :meth:`close`.

    Args:
        device: its number, or part of its name; None is the system's default.
        rate_hz: sampling rate; None is the one the device prefers, and resampling is left to soxr.
        channels: how many to record; they are averaged.

    Raises AudioError when there is no such device, when it refuses these settings, and, while iterating, when it is gone.
    """

    def __init__(self, device: int | str | None = None, rate_hz: int | None = None, channels: int = 1) -> None:
        self._sounddevice = _sounddevice()
        self._waiting: queue.Queue[Captured | None] = queue.Queue(maxsize=round(_WAITING_S / _BLOCK_S))
        self._lost = 0
        try:
            found = self._sounddevice.query_devices(device, "input")
            self.name: str = found["name"]
            self.rate_hz = rate_hz or int(found["default_samplerate"])
            self._stream = self._sounddevice.InputStream(
                samplerate=self.rate_hz,
                blocksize=round(self.rate_hz * _BLOCK_S),
                device=device,
                channels=channels,
                dtype="int16",
                callback=self._heard,
                finished_callback=self._gone,
            )
        except (self._sounddevice.PortAudioError, ValueError) as error:
            shown = "the default microphone" if device is None else f"microphone {device!r}"
            raise AudioError(f"cannot open {shown}: {error}; edge-ser listen --list-devices shows what is there") from None

    def close(self) -> None:
        """Stop recording."""
        self._stream.close()

    def __iter__(self) -> Iterator[Captured]:
        try:
            self._stream.start()
        except self._sounddevice.PortAudioError as error:
            raise AudioError(f"cannot record from {self.name}: {error}") from None
        while True:
            try:
                captured = self._waiting.get(timeout=_SILENT_DEVICE_S)
            except queue.Empty:
                captured = None
            if captured is None:
                raise AudioError(f"{self.name} gives no more audio; was it unplugged?")
            yield captured

    def _heard(self, samples: AnyArray, n: int, at: Any, status: Any) -> None:
        """Run in PortAudio's own thread, which must never wait."""
        self._lost += bool(status.input_overflow)
        try:
            self._waiting.put_nowait(Captured(samples.copy(), time.monotonic(), self._lost))
            self._lost = 0
        except queue.Full:
            self._lost += 1

    def _gone(self) -> None:
        with contextlib.suppress(queue.Full):  # the silence after what is waiting says it as well
            self._waiting.put_nowait(None)


@contextlib.contextmanager
def heard(recording: str | None = None) -> Iterator[tuple[int, Iterable[Captured]]]:
    """Open the system's microphone, or a recording as if it were one; give its rate in Hz and what is heard."""
    if recording is None:
        with contextlib.closing(Microphone()) as microphone:
            yield microphone.rate_hz, microphone
    else:
        with AudioReader(recording) as reader:
            yield reader.rate_hz, in_real_time(reader)


def standard_input(pipe: Any, rate_hz: int, channels: int = 1) -> Iterator[Captured]:
    """Yield the sound on a binary ``pipe`` as it comes, at ``rate_hz``: raw PCM of these channels, or any recording."""
    for chunk in sound_of(pipe, rate_hz, channels):
        yield Captured(chunk, time.monotonic())


def in_real_time(
    reader: AudioReader,
    speed: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Captured]:
    """Yield an open recording as a microphone would hear it, ``speed`` times as fast as it was spoken.

    A listener that is too slow finds all of it waiting, with the time it should have been there.
    """
    size = round(reader.rate_hz * _BLOCK_S)
    begun, position = clock(), 0
    for block in reader.blocks():
        for first in range(0, len(block), size):
            chunk = block[first : first + size]
            position += len(chunk)
            due = begun + position / reader.rate_hz / speed
            ahead = due - clock()
            if ahead > 0:
                sleep(ahead)
            yield Captured(chunk, due)
