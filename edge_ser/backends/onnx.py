"""ONNX Runtime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_ser.backends import Answer, EncoderState
from edge_ser.backends.providers import onnx_session
from edge_ser.errors import BackendError, ModelFileError
from edge_ser.model_file import ModelFile

Float32Array = npt.NDArray[np.float32]


class OnnxBackend:
    """A model in ONNX Runtime, on the CPU or on ``provider``.

    One thread and no spinning unless told otherwise: the network is small, and threads that spin while they wait burn a core
    of an idle device.
    """

    def __init__(self, model: ModelFile, threads: int = 1, spinning: bool = False, provider: str = "cpu") -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendError(f"ONNX Runtime cannot be imported ({error}); install it with: pip install onnxruntime") from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.log_severity_level = 3
        try:
            self._session, self.provider = onnx_session(ort, model.content, options, provider)
        except BackendError:
            raise
        except Exception as error:  # the engine's exceptions share no narrower base
            raise BackendError(f"{model.path}: ONNX Runtime {ort.__version__} refused the graph: {_first_line(error)}") from None
        manifest = model.manifest
        n_bins, encoder_size = manifest.front_end.n_bins, manifest.encoder_size
        _check(model, "input", self._session.get_inputs(), {"features": (3, n_bins), "past": (3, encoder_size)})
        outputs = {
            "logits": (2, len(manifest.labels)),
            "embedding": (2, manifest.embedding_size),
            "encoded": (3, encoder_size),
        }
        _check(model, "output", self._session.get_outputs(), outputs)
        self._no_past = np.empty((1, 0, encoder_size), dtype=np.float32)

    def run(self, features: Float32Array, past: Float32Array | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, n_bins], following on encoder vectors ``past`` [P, encoder_size]."""
        if state is not None:
            features = np.concatenate([state[0], features])
        feed = {"features": features[None], "past": self._no_past if past is None else past[None]}
        try:
            logits, embedding, encoded = self._session.run(["logits", "embedding", "encoded"], feed)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on features {features.shape}: {_first_line(error)}") from None
        return Answer(logits[0], embedding[0], encoded[0])

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Float32Array, EncoderState]:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins], and the state for the frames that follow."""
        if state is not None:
            features = np.concatenate([state[0], features])
        return self.run(features).encoded, (features[-33:].copy(),)

    def judge(self, vectors: Float32Array) -> Answer:
        """Answer for encoder vectors [P, encoder_size] alone."""
        raise NotImplementedError


def _check(model: ModelFile, kind: str, found: list[object], expected: dict[str, tuple[int, int]]) -> None:
    """Compare names, rank and last dimension of the graph's inputs or outputs with what the manifest implies."""
    shapes = {str(getattr(a, "name", "")): (len(a.shape), a.shape[-1]) for a in found}  # type: ignore[attr-defined]
    if shapes != expected:
        raise ModelFileError(
            f"{model.path}: graph and manifest disagree: the {kind}s (rank, size) are {shapes}, the manifest expects {expected}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
