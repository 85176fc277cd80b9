"""ONNX Runtime."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import Float32Array, UInt16Array
from edge_ser.engines import Answer, EncoderState, require_finite, whole_blocks
from edge_ser.engines.providers import FATAL, onnx_session
from edge_ser.engines.statistics import statistics_of_vectors
from edge_ser.errors import BackendError, first_line
from edge_ser.frontend.features import transform
from edge_ser.geometry import ENCODER_FRAMES, ENCODER_STRIDE, STATE_FRAMES
from edge_ser.model.manifest import ModelFile

_ROWS = ("rows1", "rows2", "rows3")


class OnnxBackend:
    """A model in ONNX Runtime, on the CPU or on ``provider``.

    Its threads never spin while they wait: that would burn the cores of an idle device.
    """

    kernel = ""
    transform = staticmethod(transform)
    vector_dtype: npt.DTypeLike = np.float32
    block_frames, kept_frames = 4 * ENCODER_STRIDE, ENCODER_STRIDE

    def __init__(self, model: ModelFile, threads: int = 1, provider: str = "cpu") -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendError(
                f"ONNX Runtime cannot be imported ({error}); install it with: pip install onnxruntime, or take the C library: "
                "--backend native"
            ) from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = FATAL  # errors are raised; on the screen they would come twice
        try:
            self._session, self.provider = onnx_session(ort, model.content, options, provider)
        except BackendError:
            raise
        except Exception as error:  # the engine's exceptions share no narrower base
            raise BackendError(f"{model.path}: ONNX Runtime {ort.__version__} refused the graph: {first_line(error)}") from None
        manifest = model.manifest
        self.vector_size = manifest.encoder_size
        self._step = manifest.statistics_step
        self._sizes = (len(manifest.labels), manifest.embedding_size)
        n_bins, encoder_size = manifest.front_end.n_bins, manifest.encoder_size
        self._no_past = np.empty((1, 0, encoder_size), dtype=np.float32)
        self._least = np.zeros((ENCODER_FRAMES, n_bins), dtype=np.float32)
        self._no_head = {"judged": np.zeros(1, dtype=np.int64)}
        self._offset: Float32Array | None = None

    def run(self, features: Float32Array, past: Float32Array | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, n_bins], following on encoder vectors ``past`` [P, encoder_size]."""
        if self._offset is not None:
            encoded, _ = self.encode(whole_blocks(features) if state is None else features, state)
            return self.judge(encoded if past is None else np.concatenate([past, encoded]))
        return self._answer(self._feed(features, past, state))

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Float32Array, EncoderState]:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins], and the state for the frames that follow."""
        feed = self._feed(features, None, state) | self._no_head
        encoded, *rows = self._run(["encoded", *(f"{name}_next" for name in _ROWS)], feed)
        require_finite("ONNX Runtime", {"encoded": (encoded, (1, None, self.vector_size))})
        return encoded[0], (feed["features"][0, -STATE_FRAMES:].copy(), *rows)

    def judge(self, vectors: Float32Array) -> Answer:
        """Answer for encoder vectors [P, encoder_size] alone."""
        # The graph always encodes something; the head is told to leave it out.
        seen = vectors if self._offset is None else vectors + self._offset
        answer = self._answer(self._feed(self._least, seen, None) | {"judged": np.array([len(vectors)], dtype=np.int64)})
        return answer._replace(encoded=vectors)

    def statistics(self, vectors: Float32Array) -> UInt16Array:
        """Return mean and standard deviation over time of encoder vectors [P, encoder_size], in steps, [2 · encoder_size]."""
        return statistics_of_vectors(vectors, self._step)

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins]."""
        return self.encode(whole_blocks(features))[0]

    def shifted(self, offset: Float32Array) -> OnnxBackend:
        """Return the same graph with ``offset`` [encoder_size] added to every encoder vector that the GRU sees."""
        other = copy.copy(self)
        other._offset = offset
        return other

    def _feed(self, features: Float32Array, past: Float32Array | None, state: EncoderState | None) -> dict[str, Any]:
        rows = {}
        if state is not None:
            features = np.concatenate([state[0], features])
            rows = dict(zip(_ROWS, state[1:], strict=True))
        return {"features": features[None], "past": self._no_past if past is None else past[None], **rows}

    def _answer(self, feed: dict[str, Any]) -> Answer:
        logits, embedding, encoded = self._run(["logits", "embedding", "encoded"], feed)
        n_labels, embedding_size = self._sizes
        shapes = {"logits": (logits, (1, n_labels)), "embedding": (embedding, (1, embedding_size))}
        require_finite("ONNX Runtime", shapes | {"encoded": (encoded, (1, None, self.vector_size))})
        return Answer(logits[0], embedding[0], encoded[0])

    def _run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        try:
            found: list[Any] = self._session.run(outputs, feed)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on features {feed['features'].shape}: {first_line(error)}") from None
        return found
