"""Audio in: any common file or array becomes mono float32 blocks at the front end's rate, checked on the way.

Files are decoded by libsndfile (FLAC, OGG, MP3 ...; WAV of 16 bits is read as it is) and resampled by soxr's stateful stream,
block by block, so the length of a recording is no memory question.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.errors import AudioError, first_line
from edge_ser.frontend.containers import Samples, for_libsndfile, open_recording
from edge_ser.frontend.samples import (
    MAX_CHANNELS,
    ChannelBalance,
    are_small,
    checked_rate,
    checked_samples,
    full_scale,
    is_array,
    mono,
    warn_if_cut_off,
    warn_if_quiet,
)

AudioSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | tuple[npt.ArrayLike, float]"
"""What :class:`AudioReader` takes: a path, a file's bytes, a binary file object, or ``(samples, rate_hz)``, see
:mod:`edge_ser.frontend.samples`."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
"""File name endings that are looked for when a folder is given; see :func:`recordings_below`."""

_BLOCK_SECONDS = 10
_BLOCK_VALUES = 2**20  # of all channels together
_MAX_VALUES_S = MAX_CHANNELS * 48000
_MANY_VALUES = 2**29
_MAX_VALUES_PER_BYTE = 512  # silence in FLAC has 300 to 450, speech in Opus 60 at most
_INT16 = np.dtype(np.int16)


def recordings_below(folder: Path, suffixes: tuple[str, ...] = AUDIO_SUFFIXES) -> list[Path]:
    """Return the files below a folder that are named as recordings are, sorted; none where there is no such folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


class AudioReader:
    """One recording as blocks of mono float32 samples at ``rate_hz``.

    Channels are averaged; int16 and int32 are scaled to full scale 1.0. ``n_samples`` is the total the blocks add up to,
    ``duration_s`` the length of the recording in seconds; both are known before the first block is read.

    Raises AudioError for anything that is not readable audio: a missing, empty, unrecognised or damaged file, NaN or
    infinity, samples far beyond full scale, an array of another dtype or shape, an impossible rate.

    >>> with AudioReader((np.zeros((48000, 2), dtype=np.int16), 48000)) as reader:
    ...     reader.n_samples, reader.duration_s, sum(len(block) for block in reader.blocks())
    (16000, 1.0, 16000)
    """

    def __init__(self, source: AudioSource, rate_hz: int = 16000) -> None:
        self._file: IO[bytes] | None = None
        self._sound: Any = None
        self._plain: Samples | None = None
        self.name = "audio"
        self._announced_times = 1.0
        if isinstance(source, tuple):
            self._array, self.source_rate_hz = _checked_array(source)
            self.n_source_frames: int = len(self._array)
            n_channels = 1 if self._array.ndim == 1 else self._array.shape[1]
        else:
            n_channels = self._open(source)
        self.rate_hz = rate_hz
        self._n_block = max(1, min(self.source_rate_hz * _BLOCK_SECONDS, _BLOCK_VALUES // n_channels))
        # soxr's own rounding, so the blocks add up to exactly this.
        self.n_samples = (2 * self.n_source_frames * rate_hz + self.source_rate_hz) // (2 * self.source_rate_hz)
        self.duration_s = self.n_source_frames / self.source_rate_hz

    def _open(self, source: Any) -> int:
        """Open a file of any kind and return its number of channels."""
        if is_array(source):
            raise AudioError("got an array without its rate; expected (samples, rate_hz), such as predict((samples, 16000))")
        self._file, self.name, self._plain, self._announced_times = open_recording(source)
        try:
            if self._plain is not None:
                self.n_source_frames, n_channels, rate_hz = self._plain
            else:
                self._sound = _soundfile().SoundFile(for_libsndfile(self._file), closefd=True)
                self.n_source_frames, n_channels, rate_hz = self._sound.frames, self._sound.channels, self._sound.samplerate
            self.source_rate_hz = checked_rate(rate_hz, self.name)
            self._check_size(n_channels, os.fstat(self._file.fileno()).st_size)
        except (RuntimeError, TypeError, ValueError, OSError) as error:  # libsndfile's are RuntimeErrors
            self.close()
            reason = str(getattr(error, "error_string", error)).rstrip(".") or "its header is damaged"
            raise AudioError(f"{self.name} is not readable audio: {reason}; expected WAV, FLAC, OGG or MP3") from None
        except BaseException:
            self.close()
            raise
        return n_channels

    def _check_size(self, n_channels: int, n_bytes: int) -> None:
        """Raise AudioError for what would take more memory or time than any recording of speech."""
        name, n_values = self.name, self.n_source_frames * n_channels
        if self.n_source_frames <= 0:
            raise AudioError(f"{name} holds no samples, only a header; expected some speech")
        if n_channels > MAX_CHANNELS or n_channels * self.source_rate_hz > _MAX_VALUES_S:
            raise AudioError(
                f"{name} has {n_channels} channels at {self.source_rate_hz} Hz; expected at most {MAX_CHANNELS} channels, and at "
                f"most {_MAX_VALUES_S} samples a second in all of them (64 channels at 48000 Hz)"
            )
        if n_values > max(_MANY_VALUES, _MAX_VALUES_PER_BYTE * n_bytes):
            raise AudioError(
                f"{name} announces {self.n_source_frames} samples of {n_channels} channels in {n_bytes} bytes; expected at most "
                f"{_MAX_VALUES_PER_BYTE} samples a byte of it, as silence has"
            )

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close what this reader opened; a file object that was handed in stays open."""
        if self._sound is not None:
            self._sound.close()
        if self._file is not None:
            self._file.close()

    def blocks(self) -> Iterator[Float32Array]:
        """Yield the samples, float32 [n] at ``rate_hz``, in order, once."""
        if self.source_rate_hz == self.rate_hz:
            yield from self._mono_blocks()
            return
        stream = _resampler(self.source_rate_hz, self.rate_hz)
        for block in self._mono_blocks():
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)

    def samples(self) -> Float32Array:
        """Return all samples at once, float32 [n_samples]."""
        blocks = list(self.blocks())
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _mono_blocks(self) -> Iterator[Float32Array]:
        balance = ChannelBalance(self.name, self.source_rate_hz)
        position, peak = 0, 0.0
        while position < self.n_source_frames:
            block = self._read(position)
            average, highest = mono(block, position, self.name)
            balance.add(block, average)
            peak = max(peak, highest)
            yield average
            position += len(block)
        balance.judge()
        warn_if_quiet(self.name, peak)
        warn_if_cut_off(self.name, self.duration_s, self._announced_times)

    def _read(self, position: int) -> Float32Array:
        n = min(self._n_block, self.n_source_frames - position)
        if self._file is None:
            return full_scale(self._array[position : position + n])
        try:
            decoded = self._plain.read(self._file, n) if self._plain is not None else self._decoded(n)
        except (RuntimeError, OSError) as error:
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            raise AudioError(f"{self.name} is damaged at {position / self.source_rate_hz:.2f} s: {reason}") from None
        if len(decoded) == 0:
            raise AudioError(
                f"{self.name} is truncated or misstates its length: its header announces {self.duration_s:.2f} s, "
                f"only {position / self.source_rate_hz:.2f} s can be decoded"
            )
        return full_scale(decoded)

    def _decoded(self, n: int) -> AnyArray:
        """Return the next ``n`` samples as libsndfile decodes them, fewer where a file ends."""
        # It takes ten times as long to make floats of int16 as numpy, for the same ones.
        of_16_bits = self._sound.subtype == "PCM_16"
        samples: AnyArray = self._sound.read(n, dtype="int16" if of_16_bits else "float32")
        return samples


def _soundfile() -> Any:
    """Return the module that decodes files; AudioError where it or libsndfile is not installed."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the module is there, its library is not
        raise AudioError(
            f"decoding files needs libsndfile ({first_line(error)}); install it with: pip install soundfile, on 32-bit Arm and "
            "musl: apt install libsndfile1, apk add libsndfile; or hand over (samples, rate_hz)"
        ) from None
    return soundfile


def _resampler(source_rate_hz: int, rate_hz: int) -> Any:
    """Return soxr's stateful stream for float32 of one channel; AudioError where soxr is not installed."""
    try:
        import soxr
    except ImportError:
        raise AudioError(
            f"audio of {source_rate_hz} Hz needs soxr, which is not installed; install it with: pip install soxr, on 32-bit Arm: "
            f"apt install python3-soxr; or give audio of {rate_hz} Hz"
        ) from None
    return soxr.ResampleStream(source_rate_hz, rate_hz, 1, dtype="float32")


def _checked_array(source: tuple[Any, ...]) -> tuple[AnyArray, int]:
    if len(source) != 2 or not is_array(source[0]):
        given = ", ".join(type(part).__name__ for part in source)
        raise AudioError(f"got a tuple of ({given}); expected (samples, rate_hz) with samples a numpy array")
    samples = checked_samples(source[0])
    if len(samples) == 0:
        raise AudioError("samples are empty; expected some speech")
    return samples, checked_rate(source[1], "audio")


class AudioStream:
    """Chunks of any length, rate and dtype as mono float32 samples at ``rate_hz``: those AudioReader gives for the whole.

    ``source_rate_hz`` is the chunks' rate. A chunk may wait (:meth:`add`) to be converted with others (:meth:`take`), which is
    cheaper than one by one (:meth:`push`). The few milliseconds soxr's filter looks ahead come with :meth:`flush`.

    >>> stream = AudioStream(48000)
    >>> parts = [stream.push(np.zeros(480, dtype=np.int16)) for _ in range(10)]
    >>> sum(map(len, parts)) + len(stream.flush()), stream.n_source_frames
    (1600, 4800)
    """

    def __init__(self, source_rate_hz: float, rate_hz: int = 16000) -> None:
        self.source_rate_hz = checked_rate(source_rate_hz, "the stream")
        self.n_source_frames = 0
        """Samples added so far, per channel."""
        self.n_waiting = 0
        """Those of them that wait for :meth:`take`."""
        self._waiting: list[AnyArray] = []
        self._balance = ChannelBalance("the stream", self.source_rate_hz)
        self._resampler: Any = None
        if self.source_rate_hz != rate_hz:
            self._resampler = _resampler(self.source_rate_hz, rate_hz)

    @property
    def duration_s(self) -> float:
        """Length of what was added so far, in seconds."""
        return self.n_source_frames / self.source_rate_hz

    def add(self, chunk: npt.ArrayLike | bytes) -> None:
        """Add the next samples, (n,) or (n, channels), or bytes of mono little-endian int16.

        AudioError for what is no such chunk; nothing of it is added then.
        """
        # Integers cannot be wrong; of floats the sum of squares mostly tells at once that none is NaN or far beyond full scale.
        if type(chunk) is np.ndarray and chunk.ndim == 1 and (chunk.dtype is _INT16 or are_small(chunk)):
            samples: AnyArray = chunk.copy()
        else:
            samples = self._checked(chunk)
        if len(samples) == 0:
            return
        if self._waiting and self._waiting[-1].dtype != samples.dtype:
            self._waiting = [self._converted()]
            samples = full_scale(samples)
        self._waiting.append(samples)
        self.n_waiting += len(samples)
        self.n_source_frames += len(samples)

    def _checked(self, chunk: Any) -> Float32Array:
        """Return any chunk as mono samples of its own, float32 [n]; AudioError where it is none."""
        if isinstance(chunk, (bytes, bytearray, memoryview)):
            if len(chunk) % 2:
                raise AudioError(f"the stream got {len(chunk)} bytes; expected whole int16 samples, two bytes each")
            chunk = np.frombuffer(chunk, dtype="<i2")
        if not is_array(chunk):
            raise AudioError(f"the stream got {type(chunk).__name__}; expected a numpy array of samples, or bytes of int16")
        samples = checked_samples(chunk)
        if len(samples) == 0:
            return np.empty(0, dtype=np.float32)
        floats = full_scale(samples)
        average, _ = mono(floats, self.n_source_frames, "the stream")
        self._balance.add(floats, average)
        return average.copy() if average is samples else average

    def take(self) -> Float32Array:
        """Return what was added since, as far as the resampler gives it out, float32 [m]."""
        waiting = self._converted()
        self._waiting, self.n_waiting = [], 0
        if self._resampler is None or len(waiting) == 0:
            return waiting
        resampled: Float32Array = self._resampler.resample_chunk(waiting)
        return resampled

    def push(self, chunk: npt.ArrayLike | bytes) -> Float32Array:
        """Add a chunk and return what is ready, float32 [m]."""
        self.add(chunk)
        return self.take()

    def flush(self) -> Float32Array:
        """End the signal: return what is left, float32 [m]."""
        self._balance.judge()
        waiting = self._converted()
        self._waiting, self.n_waiting = [], 0
        if self._resampler is None:
            return waiting
        rest: Float32Array = self._resampler.resample_chunk(waiting, last=True)
        return rest

    def _converted(self) -> Float32Array:
        if not self._waiting:
            return np.empty(0, dtype=np.float32)
        return full_scale(self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting))
