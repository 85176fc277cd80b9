"""The C library of ``edge_ser/csrc``, through ctypes: the front end in float, everything behind it in integers.

Its features differ from numpy's by some rounding errors of float32 (below 0.05 dB), so they are its own for whole recordings
and for streams alike, and both answer the same, bit for bit. Of an encoder vector it keeps what the GRU takes of it (two
directions of 3 · 128 numbers in 1/65536) and its forward state, so that after the last sample the way back is all that is left.
"""

from __future__ import annotations

import copy
import ctypes
import pkgutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edge_ser.engines import Answer, EncoderState, Vectors, channel_major, frequency_major, whole_blocks
from edge_ser.errors import BackendError, ModelFileError
from edge_ser.frontend.features import ENCODER_FRAMES, ENCODER_STRIDE, LOGMEL_V1, FrontEndConfig
from edge_ser.model.eser_file import EMBEDDING_SIZE, FORMAT, MAX_BIAS, MAX_LABELS, N_BINS, layers, parse
from edge_ser.model.manifest import Manifest, ModelFile

Float32Array = npt.NDArray[np.float32]

LIBRARY = "libeser.so"
ENCODER_SIZE = 480
_PANEL = 16

_WITHOUT = (
    "the C library is not installed: there was no C compiler when edge-ser was; install one (apt install gcc), then "
    "pip install --force-reinstall --no-deps edge-ser"
)


class _Layer(ctypes.Structure):
    """``eser_layer``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "multiplier")),
        *((name, ctypes.c_int32) for name in ("shift", "n_in", "n_out")),
    )


class _Model(ctypes.Structure):
    """``eser_model``."""

    _fields_ = (
        ("format", ctypes.c_uint32),
        ("n_labels", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("labels", "feature_gain", "feature_offset")),
        ("layers", _Layer * 10),
        *((name, ctypes.c_void_p) for name in ("prelu", "centres")),
        ("temperature", ctypes.c_float),
        ("novelty_distance", ctypes.c_float),
        ("winograd", ctypes.c_void_p * 2),
    )


_PACKAGE = Path(__file__).parents[1]


def library_path() -> Path | None:
    """Return where the compiled library lies: beside the package, or where an editable install put it; None: nowhere."""
    if not _PACKAGE.is_dir():  # it is imported from a zip archive
        return None
    places = (_PACKAGE, *(Path(entry) / "edge_ser" for entry in sys.path))
    return next((place / LIBRARY for place in places if (place / LIBRARY).is_file()), None)


def _zipped() -> ctypes.CDLL:
    """Load the library out of the zip archive that the package is imported from; BackendError where there is none."""
    try:
        content = None if _PACKAGE.is_dir() else pkgutil.get_data("edge_ser", LIBRARY)
    except OSError:
        content = None
    if content is None:
        raise BackendError(_WITHOUT)
    with tempfile.NamedTemporaryFile(prefix="edge-ser-", suffix=".so") as file:  # once loaded it needs no name
        file.write(content)
        file.flush()
        return ctypes.CDLL(file.name)


@lru_cache(maxsize=1)
def load_library() -> tuple[ctypes.CDLL, tuple[int, ...]]:
    """Return the library and the sizes of its structs; BackendError when it is missing or another version's."""
    path = library_path()
    sizes = (ctypes.c_uint32 * 5)()
    try:
        library = _zipped() if path is None else ctypes.CDLL(str(path))
        library.eser_sizes(sizes)
        library.eser_encode_batch.restype = library.eser_vectors_batch.restype = ctypes.c_size_t
        library.eser_kernels_at.restype = ctypes.c_void_p
        library.eser_winograd_size.restype = ctypes.c_size_t
    except (OSError, AttributeError) as error:
        raise BackendError(f"{path} cannot be loaded ({error}); install edge-ser again") from None
    if (sizes[0], sizes[1]) != (FORMAT, ctypes.sizeof(_Model)) or 0 in sizes:
        raise BackendError(f"{path} is of another version of edge-ser; install edge-ser again")
    return library, tuple(sizes)


def kernels() -> list[str]:
    """Return the names of the inner loops that this processor runs, plain C first, the ones in use last."""
    library, _ = load_library()
    found: list[str] = []
    while at := library.eser_kernels_at(len(found)):
        found.append(cast(bytes, ctypes.c_char_p.from_address(at).value).decode())
    return found


def is_fast() -> bool:
    """Return whether the library is there and has kernels for this processor that were measured against ONNX Runtime's."""
    try:
        return kernels()[-1] == "avx2"
    except BackendError:
        return False


class NativeBackend:
    """A model in the C library, on the CPU, one thread."""

    provider = "cpu"
    vector_dtype: npt.DTypeLike = np.int32
    block_frames, kept_frames = ENCODER_STRIDE, 0

    def __init__(self, model: ModelFile, threads: int = 1, spinning: bool = False, provider: str = "cpu") -> None:
        if provider != "cpu":
            raise BackendError(f"unknown provider {provider!r}; the native backend expects cpu")
        self._library, (_, _, self._encoder_bytes, self._scratch_bytes, projected_bytes) = load_library()
        self.vector_size = projected_bytes // 4
        self._kernels = ctypes.c_void_p(self._library.eser_kernels_at(len(kernels()) - 1))
        _check(model)
        try:
            self._constants = parse(model.content, len(model.manifest.labels))
        except ModelFileError as error:
            raise ModelFileError(f"{model.path}: {error}") from None
        self._vector_scale = float(model.manifest.quantization["vector_scale"])
        self._model = self._struct(model.manifest)
        self._winograd = [self._transformed(i) for i in (1, 2)]
        self._n_labels = len(model.manifest.labels)
        self._biases: list[npt.NDArray[np.int32]] = []

    def _struct(self, manifest: Manifest) -> _Model:
        """Return the ``eser_model`` that points at the constants."""
        at = {name: values.ctypes.data for name, values in self._constants.items()}
        matrices = layers(len(manifest.labels)).items()
        rows = [
            _Layer(at[f"{name}_weight"], at[f"{name}_bias"], at[f"{name}_multiplier"], shift, layer.n_in, layer.n_out)
            for (name, layer), shift in zip(matrices, self._constants["shift"].tolist(), strict=True)
        ]
        # Labels, centres and temperature are used in Python alone.
        gain, offset, prelu = at["feature_gain"], at["feature_offset"], at["prelu"]
        return _Model(FORMAT, len(manifest.labels), None, gain, offset, (_Layer * 10)(*rows), prelu, None, 1.0, 1.0, (None,) * 2)

    def _transformed(self, i: int) -> npt.NDArray[np.int16]:
        """Give the model the weights of convolution ``i`` a second time, transformed for speed, and return them."""
        weights = np.empty(self._library.eser_winograd_size(ctypes.byref(self._model), self._kernels, i), dtype=np.int16)
        if len(weights) == 0:  # no use for them here
            return weights
        self._library.eser_winograd_weights(ctypes.byref(self._model), i, _at(weights))
        self._model.winograd[i - 1] = weights.ctypes.data
        return weights

    def forget_winograd(self) -> None:
        """Compute every convolution directly from now on: the same answers, later; to compare the two."""
        self._winograd = []
        self._model.winograd[:] = (None, None)

    def _scratch(self) -> ctypes.Array[Any]:
        return (ctypes.c_uint64 * -(-self._scratch_bytes // 8))()

    def transform(self, samples: Float32Array, config: FrontEndConfig) -> Float32Array:
        """Return every frame that fits into ``samples`` [n], in dB, float32 [T, 128]."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        n_frames = max(0, 1 + (len(samples) - config.frame_samples) // config.hop_samples)
        out = np.empty((n_frames, N_BINS), dtype=np.float32)
        self._library.eser_features_batch(_at(samples), ctypes.c_size_t(n_frames), _at(out), self._scratch())
        return out

    def run(self, features: Float32Array, past: Vectors | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, 128], following on encoder vectors ``past`` [P, vector_size]."""
        encoded, _ = self.encode(features, state)
        return self.judge(encoded if past is None else np.concatenate([past, encoded]))

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Vectors, EncoderState]:
        """Return the encoder vectors [N, vector_size] of features [T, 128], and the state for the frames that follow."""
        features = np.ascontiguousarray(features, dtype=np.float32)
        first = ENCODER_FRAMES - ENCODER_STRIDE if state is None else 0
        if features.ndim != 2 or features.shape[1] != N_BINS or len(features) < first + ENCODER_STRIDE:
            raise BackendError(f"features have shape {features.shape}; expected ({first + ENCODER_STRIDE} or more, {N_BINS})")
        if state is None:
            encoder = np.empty(self._encoder_bytes, dtype=np.uint8)
            self._library.eser_encoder_reset(_at(encoder))
        else:
            encoder = state[0].copy()
        before = None if state is None else _at(state[1])
        vectors = np.empty(((len(features) - first) // ENCODER_STRIDE, self.vector_size), dtype=np.int32)
        n = self._library.eser_encode_batch(
            _at(encoder), ctypes.byref(self._model), self._kernels, _at(features), ctypes.c_size_t(len(features)), before,
            _at(vectors), ctypes.c_size_t(len(vectors)), self._scratch(),
        )  # fmt: skip
        return vectors[:n], (encoder, vectors[n - 1].copy())

    def judge(self, vectors: Vectors) -> Answer:
        """Answer for encoder vectors [P, vector_size] alone."""
        rows = np.ascontiguousarray(vectors, dtype=np.int32)
        if rows.ndim != 2 or rows.shape[1] != self.vector_size or len(rows) == 0:
            raise BackendError(f"encoder vectors have shape {rows.shape}; expected (1 or more, {self.vector_size})")
        embedding, logits = np.empty(EMBEDDING_SIZE, dtype=np.int32), np.empty(MAX_LABELS, dtype=np.int32)
        self._library.eser_head_projected(
            ctypes.byref(self._model), self._kernels, _at(rows), ctypes.c_uint32(len(rows)), _at(embedding), _at(logits),
            self._scratch(),
        )  # fmt: skip
        unit = np.float32(1 / 65536)
        return Answer(logits[: self._n_labels].astype(np.float32) * unit, embedding.astype(np.float32) * unit, vectors)

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the encoder vectors [N, 480] of features [T, 128]."""
        features = np.ascontiguousarray(whole_blocks(features), dtype=np.float32)
        encoder = np.empty(self._encoder_bytes, dtype=np.uint8)
        self._library.eser_encoder_reset(_at(encoder))
        levels = np.empty(((len(features) - ENCODER_FRAMES) // ENCODER_STRIDE + 1, ENCODER_SIZE), dtype=np.uint8)
        self._library.eser_vectors_batch(
            _at(encoder), ctypes.byref(self._model), self._kernels, _at(features), ctypes.c_size_t(len(features)),
            _at(levels), ctypes.c_size_t(len(levels)), self._scratch(),
        )  # fmt: skip
        return channel_major(levels.astype(np.float32) * np.float32(self._vector_scale))

    def shifted(self, offset: Float32Array) -> NativeBackend:
        """Return the same model with ``offset`` [480] added to every encoder vector that the GRU sees: in the GRU's biases."""
        steps = frequency_major(offset).astype(np.float64) / self._vector_scale
        other = copy.copy(self)
        other._model = _Model.from_buffer_copy(self._model)
        other._biases = []
        for i, name in ((4, "gru_input_forward"), (5, "gru_input_backward")):
            # Panels of 16 rows, [n_out / 16, n_in / 4, 16, 4].
            panels = self._constants[f"{name}_weight"].reshape(-1, ENCODER_SIZE // 4, _PANEL, 4).transpose(0, 2, 1, 3)
            change = panels.reshape(-1, ENCODER_SIZE) @ steps
            bias = np.clip(self._constants[f"{name}_bias"] + np.rint(change), -MAX_BIAS, MAX_BIAS).astype(np.int32)
            other._model.layers[i].bias = bias.ctypes.data
            other._biases.append(bias)
        return other


def _at(values: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def _check(model: ModelFile) -> None:
    """Raise ModelFileError for a manifest of a network that the C library does not have."""
    manifest = model.manifest
    found, expected = (manifest.front_end.name, manifest.precision), (LOGMEL_V1.name, "int8")
    if found != expected:
        raise ModelFileError(f"{model.path}: front end and precision are {found}; the C library has {expected}")
