"""Audio as it comes, an answer the moment it ends: the offline computation, wrapped.

    chunk -> AudioStream (16 kHz mono) -> FeatureStream (frames) -> encoder, a block at a time -> vectors kept
    estimate or finish: the last block and the head over the vectors

Samples wait until a block of frames is complete. Where the engine encodes and judges best in one run, the newest frames wait
until the next block is. So every frame is encoded once, in runs long enough to be cheap. What remains after the last sample is
that block and the head.
"""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.engines import Backend, EncoderState
from edge_ser.errors import AudioError
from edge_ser.frontend.audio import AudioStream
from edge_ser.frontend.features import FeatureStream, middle_window
from edge_ser.geometry import ENCODER_FRAMES, ENCODER_STRIDE, LEAD_FRAMES, vector_count
from edge_ser.model.manifest import Manifest
from edge_ser.personal.correction import Correction
from edge_ser.personal.microphone import silence_db
from edge_ser.prediction import Prediction, decide

EXACT_S = 600
"""Up to this length, in seconds, a stream answers what ``predict`` answers for the whole. Of a longer one the last 14 s are
judged: the middle of a recording without end cannot be kept."""


class Stream:
    """One utterance that arrives in chunks; made by :meth:`edge_ser.EmotionRecognizer.stream`.

    Its ``estimate`` is at any time what ``predict`` would answer for the samples so far, and ``finish()`` what it answers for
    the whole, bit for bit. A stream belongs to one thread at a time; several streams may run side by side.

    >>> from edge_ser import EmotionRecognizer
    >>> recognizer = EmotionRecognizer()
    >>> tone = 0.1 * np.sin(np.arange(32000, dtype=np.float32))
    >>> with recognizer.stream() as s:
    ...     for start in range(0, 32000, 500):
    ...         s.feed(tone[start : start + 500])
    ...     early, final = s.estimate, s.finish()
    >>> bool((final.logits == recognizer.predict((tone, 16000)).logits).all()), early.duration_s
    (True, 2.0)
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        rate_hz: float = 16000,
        min_confidence: float = 0.0,
        min_speech: float | None = None,
        correction: Correction | None = None,
    ) -> None:
        self.rate_hz = rate_hz
        self._backend, self._manifest = backend, manifest
        self._limits = min_confidence, min_speech
        self._correction = correction
        self._silence_db = silence_db(manifest.front_end)
        hop_samples, model_rate_hz = manifest.front_end.hop_samples, manifest.front_end.rate_hz
        self._block_samples = backend.block_frames * hop_samples * rate_hz / model_rate_hz
        self._exact_frames = EXACT_S * model_rate_hz // hop_samples
        self.reset()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream cannot be copied or pickled; copy the EmotionRecognizer and open a stream of that one")

    def reset(self) -> None:
        """Forget everything; the next chunk begins a new utterance."""
        self._audio = AudioStream(self.rate_hz, self._manifest.front_end.rate_hz)
        self._features = FeatureStream(self._manifest.front_end, self._backend.transform)
        self._frames = np.empty((0, self._manifest.front_end.n_bins), dtype=np.float32)  # not encoded yet
        self._state: EncoderState | None = None
        self._vectors = _Window(self._backend.vector_size, self._backend.vector_dtype)
        self._loud = _Window(1, np.bool_)  # of every frame: whether it is more than digital silence
        self._final: Prediction | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.reset()

    @property
    def duration_s(self) -> float:
        """Length of what was fed so far, in seconds."""
        return self._audio.duration_s

    def feed(self, chunk: npt.ArrayLike | bytes) -> None:
        """Take the next samples: an array, as :mod:`edge_ser.frontend.samples` says, or bytes of mono little-endian int16.

        AudioError for anything else, for NaN, and after :meth:`finish`; the stream is then as it was before.
        """
        if self._final is not None:
            raise AudioError("the stream has finished; call reset() or open another one for the next utterance")
        self._audio.add(chunk)
        if self._audio.n_waiting >= self._block_samples:
            self._advance()

    @property
    def estimate(self) -> Prediction | None:
        """The answer for what was fed so far (a resampler's last milliseconds excepted); None below 0.52 s, and in silence."""
        if self._final is not None:
            return self._final
        self._advance()
        return self._answer()

    def finish(self) -> Prediction:
        """End the utterance and return its answer, the one ``predict`` gives for the whole.

        Raises AudioError when nothing was fed, or nothing but digital silence.
        """
        if self._final is None:
            if self._audio.n_source_frames == 0:
                raise AudioError("the stream has ended without a sample; expected some speech")
            self._take(self._features.push(self._audio.flush(), last=True))
            self._encode()
            self._final = self._answer()
            if self._final is None:
                raise AudioError("the stream is silent: the judged part is digital silence; expected some speech")
        return self._final

    def _advance(self) -> None:
        """Turn the waiting samples into frames, and those into encoder vectors."""
        if self._audio.n_waiting:
            self._take(self._features.push(self._audio.take()))
            self._encode()

    def _encode(self) -> None:
        """Turn all frames but the newest block into encoder vectors."""
        first = LEAD_FRAMES if self._state is None else 0
        block = self._backend.block_frames
        n_blocks = (len(self._frames) - first - self._backend.kept_frames) // block
        if n_blocks > 0:
            n = first + n_blocks * block
            encoded, self._state = self._backend.encode(self._frames[:n], self._state)
            self._vectors.extend(encoded)
            self._frames = self._frames[n:]
            self._forget()

    def _take(self, frames: Float32Array) -> None:
        if len(frames):
            self._loud.extend(frames.max(axis=1, keepdims=True) > self._silence_db)
            self._frames = np.concatenate([self._frames, frames])

    def _judged(self) -> tuple[int, int]:
        """Return the first and one-past-last frame that are judged of the frames so far."""
        n_frames = self._loud.stop
        if n_frames <= self._exact_frames:
            return middle_window(n_frames, self._manifest.front_end)
        start = n_frames - self._manifest.front_end.max_frames
        start += -start % ENCODER_STRIDE
        return start, n_frames

    def _forget(self) -> None:
        """Drop what no later answer looks back at: a longer recording's middle, or last 14 s, never begins earlier."""
        start, _ = self._judged()
        self._loud.drop(start)
        self._vectors.drop(start // ENCODER_STRIDE)

    def _answer(self) -> Prediction | None:
        start, stop = self._judged()
        if stop - start < ENCODER_FRAMES or not self._loud.part(start, stop).any():
            return None
        first = start // ENCODER_STRIDE
        last = first + vector_count(stop - start)
        missing = last - self._vectors.stop
        if missing > 0:
            n = missing * ENCODER_STRIDE + (LEAD_FRAMES if self._state is None else 0)
            answer = self._backend.run(self._frames[:n], self._vectors.part(first, self._vectors.stop), self._state)
        else:
            answer = self._backend.judge(self._vectors.part(first, last))
        statistics = self._backend.statistics(answer.encoded)
        return decide(
            answer.logits, answer.embedding, statistics, self._manifest, self.duration_s, *self._limits, self._correction
        )


class _Window:
    """The rows first .. stop of a growing table, the rows before forgotten, in one piece of memory."""

    def __init__(self, width: int, dtype: npt.DTypeLike) -> None:
        self.stop = 0
        self._base = self._first = 0  # the row that lies at the front of the memory, and the first one not forgotten
        self._rows = np.empty((128, width), dtype=dtype)

    def extend(self, rows: AnyArray) -> None:
        """Append rows [n, width]."""
        kept = self.stop - self._first
        if self.stop - self._base + len(rows) > len(self._rows):
            # Twice the room that is needed, so that rows move seldom.
            larger = np.empty((2 * (kept + len(rows)), self._rows.shape[1]), dtype=self._rows.dtype)
            larger[:kept] = self.part(self._first, self.stop)
            self._rows, self._base = larger, self._first
        end = self.stop - self._base
        self._rows[end : end + len(rows)] = rows
        self.stop += len(rows)

    def drop(self, first: int) -> None:
        """Forget the rows before ``first``."""
        self._first = max(self._first, first)

    def part(self, start: int, stop: int) -> AnyArray:
        """Return rows [start, stop), a view."""
        return self._rows[start - self._base : stop - self._base]
