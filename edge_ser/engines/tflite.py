"""LiteRT (ai-edge-litert), or its predecessor tflite-runtime."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.engines import STATE_FRAMES, Answer, EncoderState, channel_major, frequency_major, whole_blocks
from edge_ser.engines.providers import tflite_delegates
from edge_ser.errors import BackendError, ModelFileError, first_line
from edge_ser.frontend.features import ENCODER_STRIDE, transform
from edge_ser.model.manifest import ModelFile

Float32Array = npt.NDArray[np.float32]

_ROWS = ["rows1", "rows2", "rows3"]
_ENCODED = ["encoded", *(f"{name}_next" for name in _ROWS)]

SIGNATURES = {
    "classify": {"inputs": ["encoded"], "outputs": ["embedding", "logits"]},
    "encode": {"inputs": ["features"], "outputs": _ENCODED},
    "resume": {"inputs": ["features", *_ROWS], "outputs": _ENCODED},
}


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
    """A model in LiteRT, on the CPU or through a delegate; an interpreter serves one thread, so every thread gets its own."""

    transform = staticmethod(transform)
    vector_dtype: npt.DTypeLike = np.float32
    block_frames, kept_frames = 4 * ENCODER_STRIDE, ENCODER_STRIDE

    def __init__(self, model: ModelFile, threads: int = 1, spinning: bool = False, provider: str = "cpu") -> None:
        self._interpreter, self.engine = _engine()
        self._delegates, self.provider = tflite_delegates(self._interpreter, provider)
        self._model, self._threads = model, threads
        self._of_thread = threading.local()
        interpreter = self._of_thread.interpreter = self._load()
        found = interpreter.get_signature_list()
        if found != SIGNATURES:
            raise ModelFileError(f"{model.path}: its signatures are {found}; expected {SIGNATURES}")
        manifest = model.manifest
        self.vector_size = manifest.encoder_size
        self._offset: Float32Array | None = None
        size, n_bins = manifest.encoder_size, manifest.front_end.n_bins
        runners = self._of_thread.runners = self._runners(interpreter)
        encode, classify = runners["encode"], runners["classify"]
        ends = {
            "features": (encode.get_input_details()["features"], 3, n_bins),
            "encoded": (encode.get_output_details()["encoded"], 3, size),
            "past": (classify.get_input_details()["encoded"], 3, size),
            "logits": (classify.get_output_details()["logits"], 2, len(manifest.labels)),
            "embedding": (classify.get_output_details()["embedding"], 2, manifest.embedding_size),
        }
        for name, (details, rank, last) in ends.items():
            shape = tuple(int(d) for d in details["shape_signature"])
            if len(shape) != rank or shape[-1] != last:
                raise ModelFileError(
                    f"{model.path}: graph and manifest disagree: {name} is {shape}, the manifest expects {rank} dimensions, "
                    f"the last {last}"
                )

    def _load(self) -> Any:
        try:
            return self._interpreter(
                model_content=self._model.content, num_threads=self._threads, experimental_delegates=self._delegates
            )
        except Exception as error:  # the engine raises whatever its C++ side said
            reason = first_line(error)
            raise BackendError(f"{self._model.path}: {self.engine} refused the graph: {reason}") from None

    @staticmethod
    def _runners(interpreter: Any) -> dict[str, Any]:
        return {name: interpreter.get_signature_runner(name) for name in SIGNATURES}

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

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins]."""
        return channel_major(self.encode(whole_blocks(features))[0])

    def shifted(self, offset: Float32Array) -> TfliteBackend:
        """Return the same graph with ``offset`` [encoder_size] added to every encoder vector that the GRU sees."""
        other = copy.copy(self)
        other._offset = frequency_major(offset)
        return other

    def _call(self, signature: str, **inputs: npt.NDArray[Any]) -> dict[str, Any]:
        runners = getattr(self._of_thread, "runners", None)
        if runners is None:
            # Kept, because the runners use the interpreter without owning it.
            self._of_thread.interpreter = self._load()
            runners = self._of_thread.runners = self._runners(self._of_thread.interpreter)
        try:
            found: dict[str, Any] = runners[signature](**inputs)
        except Exception as error:
            reason = first_line(error)
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise BackendError(f"{self.engine} failed on {shapes}: {reason}") from None
        return found
