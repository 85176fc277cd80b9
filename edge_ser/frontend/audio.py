"""Audio in: any common file or array becomes mono float32 blocks at the front end's rate, checked on the way.

Files are decoded by libsndfile (WAV, FLAC, OGG, MP3 ...) and resampled by soxr's stateful stream, block by block, so the
length of a recording is no memory question.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_ser.errors import AudioError

Float32Array = npt.NDArray[np.float32]
AudioSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | tuple[npt.NDArray[Any], float]"
"""What :class:`AudioReader` takes: a path, a file's bytes, a binary file object, or ``(samples, rate_hz)``."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
"""File name endings that are looked for when a folder is given; see :func:`recordings_below`."""

_BLOCK_SECONDS = 10
_UNKNOWN_LENGTH = 2**62
_MP3_TAIL_BYTES = 2**13  # tags
_RATE_RANGE_HZ = (1000, 768_000)
MAX_CHANNELS = 64
_MAX_PEAK = 8.0  # decoded lossy audio overshoots 1.0 a little; int16 values in a float array overshoot it by far
_INTEGER_SCALE = {np.dtype(np.int16): 2.0**-15, np.dtype(np.int32): 2.0**-31}
_INT16, _FLOAT32 = np.dtype(np.int16), np.dtype(np.float32)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def recordings_below(folder: Path) -> list[Path]:
    """Return the files below a folder that are named as recordings are, sorted; none where there is no such folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())


class AudioReader:
    """One recording as blocks of mono float32 samples at ``rate_hz``.

    Channels are averaged; int16 and int32 are scaled to full scale 1.0. ``n_samples`` is the total the blocks add up to,
    ``duration_s`` the length of the recording in seconds; both are known before the first block is read.

    Raises AudioError for anything that is not readable audio: a missing, empty, unrecognised or truncated file, NaN or
    infinity, samples far beyond full scale, an array of another dtype or shape, an impossible rate.

    >>> with AudioReader((np.zeros((48000, 2), dtype=np.int16), 48000)) as reader:
    ...     reader.n_samples, reader.duration_s, sum(len(block) for block in reader.blocks())
    (16000, 1.0, 16000)
    """

    def __init__(self, source: AudioSource, rate_hz: int = 16000) -> None:
        self._owned: IO[bytes] | None = None
        self._file: IO[bytes]
        self._sound: Any = None
        self._array: npt.NDArray[Any] | None = None
        self.name = "audio"
        if isinstance(source, tuple):
            self._array, self.source_rate_hz = _checked_array(source)
            self.n_source_frames = len(self._array)
        else:
            self._open(source)
        self.rate_hz = rate_hz
        # soxr's own rounding, so the blocks add up to exactly this.
        self.n_samples = (2 * self.n_source_frames * rate_hz + self.source_rate_hz) // (2 * self.source_rate_hz)
        self.duration_s = self.n_source_frames / self.source_rate_hz

    def _open(self, source: Any) -> None:
        import soundfile

        if isinstance(source, np.ndarray):
            raise AudioError("got an array without its rate; expected (samples, rate_hz), such as predict((samples, 16000))")
        file: Any
        if isinstance(source, (str, os.PathLike)):
            self.name = str(os.fspath(source))
            try:
                file = open(source, "rb")  # noqa: SIM115 (closed by close())
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise AudioError(f"cannot open {self.name}: {reason}; expected an audio file") from None
            self._owned = file
        elif isinstance(source, (bytes, bytearray, memoryview)):
            file = io.BytesIO(source)
        elif source is not None and hasattr(source, "read"):
            self.name = str(getattr(source, "name", "audio"))
            file = source
        else:
            raise AudioError(f"got {type(source).__name__}; expected a path, bytes, a binary file object, or (samples, rate_hz)")
        try:
            self._file = _seekable(file, self.name)
            if self._file is not file:
                self._owned = self._file
            # libsndfile swallows what a Python file object raises while it decodes, so it gets a plain descriptor if it can.
            if self._owned is None:
                self._sound = soundfile.SoundFile(self._file)
            else:
                os.lseek(self._owned.fileno(), 0, io.SEEK_SET)
                # A duplicate for it to close: some versions close what they cannot open even if told not to.
                self._sound = soundfile.SoundFile(os.dup(self._owned.fileno()), closefd=True)
            self.source_rate_hz = _checked_rate(self._sound.samplerate, self.name)
            self.n_source_frames = self._checked_length()
        except AudioError:
            self.close()
            raise
        except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError, OSError) as error:
            self.close()
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            raise AudioError(f"{self.name} is not readable audio: {reason}; expected WAV, FLAC, OGG or MP3") from None

    def _checked_length(self) -> int:
        frames: int = self._sound.frames
        if frames <= 0:
            raise AudioError(f"{self.name} holds no samples, its header says; expected some speech")
        if frames >= _UNKNOWN_LENGTH:
            raise AudioError(f"{self.name} does not state its length (written to a pipe?); re-encode it to a file")
        return frames

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close what this reader opened; a file object that was handed in stays open."""
        if self._sound is not None:
            self._sound.close()
        if self._owned is not None:
            self._owned.close()

    def blocks(self) -> Iterator[Float32Array]:
        """Yield the samples, float32 [n] at ``rate_hz``, in order, once."""
        if self.source_rate_hz == self.rate_hz:
            yield from self._mono_blocks()
            return
        import soxr

        stream = soxr.ResampleStream(self.source_rate_hz, self.rate_hz, 1, dtype="float32")
        for block in self._mono_blocks():
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)

    def samples(self) -> Float32Array:
        """Return all samples at once, float32 [n_samples]."""
        blocks = list(self.blocks())
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _mono_blocks(self) -> Iterator[Float32Array]:
        n_block = self.source_rate_hz * _BLOCK_SECONDS
        position = 0
        while position < self.n_source_frames:
            block = self._read(position, n_block)
            yield _mono(block, position, self.name)
            position += len(block)
        if self._sound is not None and self._sound.format == "MP3":
            self._require_end()

    def _require_end(self) -> None:
        """Refuse an MP3 whose length libsndfile guessed too short (variable bit rate without a Xing or VBRI header)."""
        if self._owned is not None:
            reached = os.lseek(self._owned.fileno(), 0, io.SEEK_CUR)
            size = os.fstat(self._owned.fileno()).st_size
        else:
            reached = self._file.tell()
            size = self._file.seek(0, io.SEEK_END)
        if size - reached > _MP3_TAIL_BYTES:
            raise AudioError(
                f"{self.name} goes on after the {self.duration_s:.2f} s its header announces (variable bit rate without a "
                "Xing header); re-encode it"
            )

    def _read(self, position: int, n_block: int) -> Float32Array:
        if self._array is not None:
            return _full_scale(self._array[position : position + n_block])
        import soundfile

        try:
            decoded: Float32Array = self._sound.read(n_block, dtype="float32")
        except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            raise AudioError(f"{self.name} is damaged at {position / self.source_rate_hz:.2f} s: {reason}") from None
        if len(decoded) == 0:
            raise AudioError(
                f"{self.name} is truncated or misstates its length: its header announces {self.duration_s:.2f} s, "
                f"only {position / self.source_rate_hz:.2f} s can be decoded"
            )
        return decoded[: self.n_source_frames - position]


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
        self.source_rate_hz = _checked_rate(source_rate_hz, "the stream")
        self.n_source_frames = 0
        """Samples added so far, per channel."""
        self.n_waiting = 0
        """Those of them that wait for :meth:`take`."""
        self._waiting: list[npt.NDArray[Any]] = []
        self._resampler: Any = None
        if self.source_rate_hz != rate_hz:
            import soxr

            self._resampler = soxr.ResampleStream(self.source_rate_hz, rate_hz, 1, dtype="float32")

    @property
    def duration_s(self) -> float:
        """Length of what was added so far, in seconds."""
        return self.n_source_frames / self.source_rate_hz

    def add(self, chunk: npt.NDArray[Any] | bytes) -> None:
        """Add the next samples, (n,) or (n, channels), or bytes of mono little-endian int16.

        AudioError for what is no such chunk; nothing of it is added then.
        """
        # Integers cannot be wrong; of floats the sum of squares mostly tells at once that none is NaN or far beyond full scale.
        if type(chunk) is np.ndarray and chunk.ndim == 1 and (chunk.dtype is _INT16 or _are_small(chunk)):
            mono: npt.NDArray[Any] = chunk.copy()
        else:
            mono = self._checked(chunk)
        if len(mono) == 0:
            return
        if self._waiting and self._waiting[-1].dtype != mono.dtype:
            self._waiting = [self._converted()]
            mono = _full_scale(mono)
        self._waiting.append(mono)
        self.n_waiting += len(mono)
        self.n_source_frames += len(mono)

    def _checked(self, chunk: Any) -> Float32Array:
        """Return any chunk as mono samples of its own, float32 [n]; AudioError where it is none."""
        if isinstance(chunk, (bytes, bytearray, memoryview)):
            if len(chunk) % 2:
                raise AudioError(f"the stream got {len(chunk)} bytes; expected whole int16 samples, two bytes each")
            chunk = np.frombuffer(chunk, dtype="<i2")
        if not isinstance(chunk, np.ndarray):
            raise AudioError(f"the stream got {type(chunk).__name__}; expected a numpy array of samples, or bytes of int16")
        if chunk.size == 0:
            return np.empty(0, dtype=np.float32)
        samples = _checked_samples(chunk)
        mono = _mono(_full_scale(samples), self.n_source_frames, "the stream")
        return mono.copy() if mono is samples else mono

    def take(self) -> Float32Array:
        """Return what was added since, as far as the resampler gives it out, float32 [m]."""
        waiting = self._converted()
        self._waiting, self.n_waiting = [], 0
        if self._resampler is None or len(waiting) == 0:
            return waiting
        resampled: Float32Array = self._resampler.resample_chunk(waiting)
        return resampled

    def push(self, chunk: npt.NDArray[Any] | bytes) -> Float32Array:
        """Add a chunk and return what is ready, float32 [m]."""
        self.add(chunk)
        return self.take()

    def flush(self) -> Float32Array:
        """End the signal: return what is left, float32 [m]."""
        waiting = self._converted()
        self._waiting, self.n_waiting = [], 0
        if self._resampler is None:
            return waiting
        rest: Float32Array = self._resampler.resample_chunk(waiting, last=True)
        return rest

    def _converted(self) -> Float32Array:
        if not self._waiting:
            return np.empty(0, dtype=np.float32)
        return _full_scale(self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting))


def _are_small(samples: npt.NDArray[Any]) -> bool:
    """Return whether these are float32 samples and it is plain that none is NaN or beyond the highest peak."""
    return samples.dtype is _FLOAT32 and bool(np.dot(samples, samples) <= _MAX_PEAK**2)


def _full_scale(samples: npt.NDArray[Any]) -> Float32Array:
    """Return samples of any accepted dtype as float32, integers divided by their full scale."""
    if samples.dtype == np.float64:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity and is refused as such
            return samples.astype(np.float32)
    scale = _INTEGER_SCALE.get(samples.dtype)
    floats: Float32Array = samples.astype(np.float32, copy=False)
    return floats if scale is None else floats * np.float32(scale)


def _mono(block: Float32Array, position: int, name: str) -> Float32Array:
    """Return the channels' average, float32 [n], of a block that starts at sample ``position``; AudioError if it is no audio."""
    mono = block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32)
    peak = max(float(mono.max()), -float(mono.min()))
    if peak <= _MAX_PEAK:  # not true of NaN
        return mono
    rows = block if block.ndim == 1 else np.abs(block).max(axis=1)
    finite = np.isfinite(rows)
    if finite.all():
        raise AudioError(
            f"{name} has samples of magnitude {float(np.abs(block).max()):.6g}; float samples are expected within -1 to 1 "
            "(divide int16 values by 32768)"
        )
    first = position + int(np.argmin(finite))
    raise AudioError(f"{name} has NaN or infinite samples, the first at sample {first}; expected finite samples")


def _seekable(file: IO[bytes], name: str) -> IO[bytes]:
    """Return ``file`` if it can seek, else its whole content in a temporary file (a pipe)."""
    try:
        if file.seekable():
            start = file.tell()
            first = file.read(1)
            if not isinstance(first, bytes):
                raise TypeError(f"it gives {type(first).__name__}")
            empty = not first
            file.seek(start)
            content: IO[bytes] = file
        else:
            import shutil  # with all its archive formats; for pipes alone
            import tempfile

            content = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close(); a pipe may be longer than the memory)
            shutil.copyfileobj(file, content)
            empty = content.tell() == 0
            content.seek(0)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise AudioError(f"cannot read {name}: {error}; expected a binary file object") from None
    if empty:
        raise AudioError(f"{name} is empty, or was read to its end before; expected an audio file")
    return content


def _checked_rate(rate: Any, name: str) -> int:
    low, high = _RATE_RANGE_HZ
    whole = isinstance(rate, (int, np.integer)) or (isinstance(rate, (float, np.floating)) and float(rate).is_integer())
    if isinstance(rate, bool) or not whole or not low <= rate <= high:
        raise AudioError(f"{name} has a rate of {rate!r}; expected a whole number of Hz from {low} to {high}")
    return int(rate)


def _checked_array(source: tuple[Any, ...]) -> tuple[npt.NDArray[Any], int]:
    if len(source) != 2 or not isinstance(source[0], np.ndarray):
        given = ", ".join(type(part).__name__ for part in source)
        raise AudioError(f"got a tuple of ({given}); expected (samples, rate_hz) with samples a numpy array")
    samples = _checked_samples(source[0])
    if len(samples) == 0:
        raise AudioError("samples are empty; expected some speech")
    return samples, _checked_rate(source[1], "audio")


def _checked_samples(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return samples (n,) or (n, channels) in this machine's byte order; AudioError for another dtype or shape."""
    if samples.dtype not in _INTEGER_SCALE and samples.dtype not in _FLOATS:
        raise AudioError(f"samples are {samples.dtype}; expected int16, int32, float32 or float64")
    if samples.dtype.byteorder not in "=|":
        samples = samples.astype(samples.dtype.newbyteorder("="))
    if samples.ndim not in (1, 2):
        raise AudioError(f"samples have shape {samples.shape}; expected (n,) or (n, channels)")
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise AudioError(
            f"samples have shape {samples.shape}; expected (n, channels) with 1 to {MAX_CHANNELS} channels "
            "(transpose an array of (channels, n))"
        )
    return samples
