"""The C library with an exported model, built by this machine's compiler and driven as a backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import Float32Array
from edge_ser.engines import Answer, EncoderState, Vectors, clib
from edge_ser.engines.clib import SOURCES, Stream
from edge_ser.errors import ExportError
from edge_ser.frontend.features import LOGMEL_V1, FrontEndConfig, extract
from edge_ser.geometry import ENCODER_SIZE, ENCODER_STRIDE

FLAGS = ("-std=c99", "-O3", "-ffp-contract=off")
FEATURE_TOLERANCE_DB = 0.05
"""Largest difference between a feature in C and in numpy, for speech."""


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
    includes = (f"-I{SOURCES}", f"-I{folder}")
    command = [compiler(), *(flags or FLAGS), "-shared", "-fPIC", *includes, *sources, "-lm", "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if "error" in x] or done.stderr.splitlines() or ["no message"]
        raise ExportError(f"the C compiler {compiler()} refused the exported model: {lines[0]}")
    return output


class CModel:
    """A model in the C library; a stream of its own for every call."""

    provider = "cpu"
    vector_size = ENCODER_SIZE
    vector_dtype: npt.DTypeLike = np.uint8
    block_frames, kept_frames = ENCODER_STRIDE, 0

    def __init__(self, library: Path) -> None:
        self.library = clib.bind(library)
        self.state_bytes = self.stream().n_bytes

    @classmethod
    def of_sources(cls, folder: Path) -> CModel:
        """Build and load the model whose sources lie in ``folder``; ExportError when they do not compile."""
        with tempfile.TemporaryDirectory() as scratch:
            return cls(build(folder, Path(scratch) / "model.so"))

    def stream(self) -> Stream:
        """Begin a stream."""
        return Stream(self.library)

    def run(self, features: Float32Array, past: Vectors | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, 128] in dB; after a ``state``, which holds the vectors, ``past`` is not looked at."""
        stream = self._resume(state)
        stream.push_features(features)
        return _answer(stream)

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
        return _answer(stream)

    def _resume(self, state: EncoderState | None) -> Stream:
        stream = self.stream()
        if state is not None:
            stream.restore(state[0])
        return stream

    def transform(self, samples: Float32Array, config: FrontEndConfig) -> Float32Array:
        """Return every frame that fits into ``samples`` [n], in dB, [T, 128]."""
        return self.features(samples)

    def features(self, samples: Float32Array) -> Float32Array:
        """Return the features of samples [n], 16 kHz, in dB, [T, 128]."""
        return clib.features(self.library, samples)


def _answer(stream: Stream) -> Answer:
    """End the utterance and return the answer as a backend gives it."""
    result = stream.finish()
    logits = np.array(result.logits[: result.n_labels], dtype=np.float32)
    return Answer(logits, np.array(result.embedding, dtype=np.float32), stream.vectors())


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
