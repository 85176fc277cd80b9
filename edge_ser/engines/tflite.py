"""LiteRT (ai-edge-litert), or its predecessor tflite-runtime."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import AnyArray, Float32Array, UInt16Array
from edge_ser.engines import Answer, EncoderState, require_cpu, require_finite, whole_blocks
from edge_ser.engines.statistics import statistics_of_vectors
from edge_ser.errors import BackendError, first_line
from edge_ser.frontend.features import transform
from edge_ser.geometry import ENCODER_STRIDE, STATE_FRAMES, channel_major, frequency_major
from edge_ser.model.manifest import ModelFile

_ROWS = ["rows1", "rows2", "rows3"]

SIGNATURES = ("encode", "resume", "classify")


def _engine() -> tuple[type[Any], str]:
    """Return the interpreter's class and the name of the package it comes from."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, "ai-edge-litert"
    except ImportError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter as Older

        return Older, "tflite-runtime"
    except ImportError:
        raise BackendError("no TFLite engine is installed; install one with: pip install 'edge-ser[tflite]'") from None


class TfliteBackend:
    """A model in LiteRT, on the CPU; an interpreter serves one thread, so every thread gets its own."""

    provider = "cpu"
    kernel = ""
    transform = staticmethod(transform)
    vector_dtype: npt.DTypeLike = np.float32
    block_frames, kept_frames = 4 * ENCODER_STRIDE, ENCODER_STRIDE

    def __init__(self, model: ModelFile, threads: int = 1, provider: str = "cpu") -> None:
        require_cpu("tflite", provider)
        self._interpreter, self.engine = _engine()
        self._model, self._threads = model, threads
        self._of_thread = threading.local()
        self._load()
        self.vector_size = model.manifest.encoder_size
        self._sizes = (len(model.manifest.labels), model.manifest.embedding_size)
        self._offset: Float32Array | None = None

    def _load(self) -> dict[str, Any]:
        """Load the graph for this thread and return the runners of its signatures."""
        try:
            # Kept, because the runners use the interpreter without owning it.
            interpreter = self._of_thread.interpreter = self._interpreter(
                model_content=self._model.content, num_threads=self._threads
            )
            runners = self._of_thread.runners = {name: interpreter.get_signature_runner(name) for name in SIGNATURES}
        except Exception as error:  # the engine raises whatever its C++ side said
            raise BackendError(f"{self._model.path}: {self.engine} refused the graph: {first_line(error)}") from None
        return runners

    def run(self, features: Float32Array, past: Float32Array | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, n_bins], following on encoder vectors ``past`` [P, encoder_size]."""
        encoded, _ = self.encode(features, state)
        return self.judge(encoded if past is None else np.concatenate([past, encoded]))

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Float32Array, EncoderState]:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins], and the state for the frames that follow."""
        if state is None:
            found = self._call("encode", features=features[None])
        else:
            features = np.concatenate([state[0], features])
            found = self._call("resume", features=features[None], **dict(zip(_ROWS, state[1:], strict=True)))
        return found["encoded"][0], (features[-STATE_FRAMES:].copy(), *(found[f"{name}_next"] for name in _ROWS))

    def judge(self, vectors: Float32Array) -> Answer:
        """Answer for encoder vectors [P, encoder_size] alone."""
        seen = vectors if self._offset is None else vectors + self._offset
        found = self._call("classify", encoded=seen[None])
        return Answer(found["logits"][0], found["embedding"][0], vectors)

    def statistics(self, vectors: Float32Array) -> UInt16Array:
        """Return mean and standard deviation over time of encoder vectors [P, encoder_size], in steps, [2 · encoder_size]."""
        return statistics_of_vectors(channel_major(vectors), self._model.manifest.statistics_step)

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins]."""
        return channel_major(self.encode(whole_blocks(features))[0])

    def shifted(self, offset: Float32Array) -> TfliteBackend:
        """Return the same graph with ``offset`` [encoder_size] added to every encoder vector that the GRU sees."""
        other = copy.copy(self)
        other._offset = frequency_major(offset)
        return other

    def _call(self, signature: str, **inputs: AnyArray) -> dict[str, Any]:
        runners = getattr(self._of_thread, "runners", None) or self._load()
        try:
            found: dict[str, Any] = runners[signature](**inputs)
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise BackendError(f"{self.engine} failed on {shapes}: {first_line(error)}") from None
        n_labels, embedding_size = self._sizes
        shape = {"logits": (1, n_labels), "embedding": (1, embedding_size), "encoded": (1, None, self.vector_size)}
        require_finite(self.engine, {name: (found[name], shape[name]) for name in shape if name in found})
        return found
