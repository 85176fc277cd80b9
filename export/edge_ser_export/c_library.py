"""The C library with an exported model, built by this machine's compiler and driven through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ser.engines import Answer, EncoderState, Vectors
from edge_ser.errors import ExportError
from edge_ser.frontend.features import ENCODER_STRIDE, LOGMEL_V1, FrontEndConfig, extract

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

SOURCES = Path(str(resources.files("edge_ser") / "csrc"))
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off")
FEATURE_TOLERANCE_DB = 0.05
"""Largest difference between a feature in C and in numpy, for speech."""

_ENCODER_SIZE, _EMBEDDING_SIZE, _MAX_LABELS, _MAX_VECTORS = 480, 64, 16, 85


class Result(ctypes.Structure):
    """``eser_result``."""

    _fields_ = (
        ("n_labels", ctypes.c_uint32),
        ("label_index", ctypes.c_uint32),
        ("label", ctypes.c_char_p),
        ("probabilities", ctypes.c_float * _MAX_LABELS),
        ("logits", ctypes.c_float * _MAX_LABELS),
        ("embedding", ctypes.c_float * _EMBEDDING_SIZE),
        ("distance", ctypes.c_float),
        ("is_novel", ctypes.c_int32),
        ("judged_s", ctypes.c_float),
        ("logits_q16", ctypes.c_int32 * _MAX_LABELS),
        ("embedding_q16", ctypes.c_int32 * _EMBEDDING_SIZE),
    )

    def integers(self) -> tuple[int, ...]:
        """Return logits and embedding in 1/65536: the same on every target."""
        return (*self.logits_q16[: self.n_labels], *self.embedding_q16)


def compiler() -> str:
    """Return the C compiler: CC, or cc; ExportError where there is none."""
    name = os.environ.get("CC") or "cc"
    if shutil.which(name) is None:
        raise ExportError(
            f"--format c builds and runs what it writes, and there is no C compiler {name!r}; install one (apt install gcc) "
            "or set CC"
        )
    return name


def compiler_version() -> str:
    """Return the first line of what the compiler says of itself."""
    done = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or [compiler()])[0]


def build(folder: Path, output: Path, *flags: str) -> Path:
    """Compile the library with the model in ``folder`` into the shared library ``output`` and return it."""
    sources = [str(p) for p in (*sorted(SOURCES.glob("*.c")), folder / "eser_model.c")]
    command = [
        compiler(),
        *(flags or FLAGS),
        "-shared",
        "-fPIC",
        f"-I{SOURCES}",
        f"-I{folder}",
        *sources,
        "-lm",
        "-o",
        str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if "error" in x] or done.stderr.splitlines() or ["no message"]
        raise ExportError(f"the C compiler {compiler()} refused the exported model: {lines[0]}")
    return output


class CModel:
    """A model in the C library; a stream of its own for every call."""

    provider = "cpu"
    vector_size = _ENCODER_SIZE
    vector_dtype: npt.DTypeLike = np.uint8
    block_frames, kept_frames = ENCODER_STRIDE, 0

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.eser_strerror.restype = self.library.eser_version.restype = ctypes.c_char_p
        self.library.eser_size.restype = self.library.eser_vectors.restype = ctypes.c_size_t
        self._model = ctypes.byref(ctypes.c_char.in_dll(self.library, "eser_default_model"))
        self.state_bytes = int(self.library.eser_size(self._model))

    @classmethod
    def of_sources(cls, folder: Path) -> CModel:
        """Build and load the model whose sources lie in ``folder``; ExportError when they do not compile."""
        with tempfile.TemporaryDirectory() as scratch:
            return cls(build(folder, Path(scratch) / "model.so"))

    def stream(self) -> CStream:
        """Begin a stream."""
        return CStream(self)

    def run(self, features: Float32Array, past: Vectors | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, 128] in dB; after a ``state``, which holds the vectors, ``past`` is not looked at."""
        stream = self._resume(state)
        stream.push_features(features)
        return stream.answer()

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Vectors, EncoderState]:
        """Return the encoder vectors [N, 480] of features [T, 128], and the state: the stream's memory."""
        stream = self._resume(state)
        before = len(stream.vectors())
        stream.push_features(features)
        return stream.vectors()[before:], (stream.memory(),)

    def judge(self, vectors: Vectors) -> Answer:
        """Answer for encoder vectors [P, 480] alone."""
        stream = self.stream()
        stream.push_vectors(vectors)
        return stream.answer()

    def _resume(self, state: EncoderState | None) -> CStream:
        stream = self.stream()
        if state is not None:
            stream.restore(state[0])
        return stream

    def transform(self, samples: Float32Array, config: FrontEndConfig) -> Float32Array:
        """Return every frame that fits into ``samples`` [n], in dB, [T, 128]."""
        return self.features(samples)

    def features(self, samples: Float32Array) -> Float32Array:
        """Return the features of samples [n], 16 kHz, in dB, [T, 128]."""
        scratch = ctypes.create_string_buffer(self.state_bytes)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::160]
        out = np.empty((len(frames), 128), dtype=np.float32)
        for frame, row in zip(frames, out, strict=True):
            self.library.eser_features(_pointer(np.ascontiguousarray(frame)), _pointer(row), scratch)
        return out


class CStream:
    """An ``eser`` stream in memory of its own."""

    def __init__(self, model: CModel) -> None:
        self._library = model.library
        self._memory = (ctypes.c_uint64 * -(-model.state_bytes // 8))()
        self._stream = ctypes.c_void_p()
        self._require("eser_init", ctypes.byref(self._stream), model._model, self._memory, ctypes.c_size_t(model.state_bytes))

    def _require(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise ExportError(f"{function}: {self._library.eser_strerror(status).decode()}")

    def _push(self, function: str, values: npt.NDArray[np.generic], n: int) -> None:
        self._require(function, self._stream, _pointer(values), ctypes.c_size_t(n))

    def feed(self, samples: npt.NDArray[np.int16] | Float32Array) -> None:
        """Feed samples [n], int16 or float32."""
        self._push("eser_feed_i16" if samples.dtype == np.int16 else "eser_feed_f32", samples, len(samples))

    def push_features(self, features: Float32Array) -> None:
        """Feed frames of features [T, 128], in dB."""
        self._push("eser_push_features", features.astype(np.float32), len(features))

    def push_levels(self, levels: Uint8Array) -> None:
        """Feed frames of quantised features [T, 128]."""
        self._push("eser_push_levels", levels, len(levels))

    def push_vectors(self, vectors: Uint8Array) -> None:
        """Feed encoder vectors [P, 480]."""
        self._push("eser_push_vectors", vectors, len(vectors))

    def vectors(self) -> Uint8Array:
        """Return the encoder vectors that are kept, [P, 480]."""
        out = np.empty((_MAX_VECTORS, _ENCODER_SIZE), dtype=np.uint8)
        return out[: self._library.eser_vectors(self._stream, _pointer(out))]

    def memory(self) -> Uint8Array:
        """Return a copy of all that the stream is."""
        return np.frombuffer(bytes(self._memory), dtype=np.uint8)

    def restore(self, memory: Uint8Array) -> None:
        """Go on from where another stream's :meth:`memory` was taken."""
        ctypes.memmove(self._memory, _pointer(memory), memory.nbytes)

    def answer(self) -> Answer:
        """End the utterance and return the answer as a backend gives it."""
        result = self.finish()
        logits = np.array(result.logits[: result.n_labels], dtype=np.float32)
        return Answer(logits, np.array(result.embedding, dtype=np.float32), self.vectors())

    def estimate(self) -> Result:
        """Return the answer for what came so far."""
        result = Result()
        self._require("eser_estimate", self._stream, ctypes.byref(result))
        return result

    def finish(self) -> Result:
        """End the utterance and return the answer."""
        result = Result()
        self._require("eser_finish", self._stream, ctypes.byref(result))
        return result


def _pointer(values: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    if not values.flags.c_contiguous:
        raise ValueError("an array handed to C must be contiguous")
    return ctypes.c_void_p(values.ctypes.data)


def require_same_in_chunks(model: CModel) -> None:
    """Hold the C front end against numpy's and streams in random chunks against the whole; ExportError if they differ."""
    rng = np.random.default_rng(0)
    for seconds in (0.3, 0.52, 3.21, 16.0):
        # Noise whose colour and level wander, as int16, which both take exactly.
        noise = np.cumsum(rng.standard_normal(int(16000 * seconds))) * rng.uniform(0, 1)
        noise = noise - np.convolve(noise, np.ones(50) / 50, mode="same") + 0.3 * rng.standard_normal(len(noise))
        samples = np.rint(2000 * noise).clip(-32768, 32767).astype(np.int16)
        floats = (samples / 32768).astype(np.float32)
        if len(samples) >= LOGMEL_V1.min_samples:
            expected = extract(floats[: 14 * 16000])
            error = float(np.abs(model.features(floats[: 14 * 16000]) - expected)[: len(expected)].max())
            if not error <= FEATURE_TOLERANCE_DB:
                raise ExportError(f"the C front end differs from numpy's by {error:.2g} dB; expected {FEATURE_TOLERANCE_DB} dB")
        whole, parts = model.stream(), model.stream()
        whole.feed(floats)
        position = 0
        while position < len(samples):
            n = int(rng.choice([1, 37, 160, 1000, 5000]))
            parts.feed((samples if rng.integers(2) else floats)[position : position + n])
            position += n
            if position >= LOGMEL_V1.min_samples and rng.integers(8) == 0:
                parts.estimate()
        if whole.finish().integers() != parts.finish().integers():
            raise ExportError(f"the C stream answers otherwise in chunks than as a whole ({seconds} s of noise)")
