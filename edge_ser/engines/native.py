"""The C library of ``edge_ser/csrc`` as an engine: the front end in float, everything behind it in integers.

Its features differ from numpy's by some rounding errors of float32 (below 0.05 dB). They are its own for whole recordings and
for streams alike, so both answer the same, bit for bit. Of an encoder vector it keeps what the GRU takes of it: two directions of
3 · 128 numbers in 1/65536, and the forward state. After the last sample the way back is all that is left. It keeps the vector
itself for a person's correction.
"""

from __future__ import annotations

import copy
import ctypes

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import Float32Array, Int16Array, Int32Array, UInt16Array
from edge_ser.engines import Answer, EncoderState, Vectors, clib, require_cpu, whole_blocks
from edge_ser.engines.clib import Layer, Model, at
from edge_ser.errors import BackendError, ModelFileError
from edge_ser.frontend.features import LOGMEL_V1, FrontEndConfig
from edge_ser.geometry import (
    EMBEDDING_SIZE,
    ENCODER_SIZE,
    ENCODER_STRIDE,
    LEAD_FRAMES,
    N_BINS,
    channel_major,
    frequency_major,
    vector_count,
)
from edge_ser.model.eser_file import FORMAT, MAX_BIAS, matrices, parse, without_panels
from edge_ser.model.manifest import Manifest, ModelFile


class NativeBackend:
    """A model in the C library, on the CPU, one thread."""

    provider = "cpu"
    vector_dtype: npt.DTypeLike = np.int32
    block_frames, kept_frames = ENCODER_STRIDE, 0

    def __init__(self, model: ModelFile, threads: int = 1, provider: str = "cpu") -> None:
        require_cpu("native", provider)
        library = clib.load_library()
        _check(model)
        try:
            constants = parse(model.content, len(model.manifest.labels))
        except ModelFileError as error:
            raise ModelFileError(f"{model.path}: {error}") from None
        self._constants = {name: clib.on_a_line(v) if name.endswith("_weight") else v for name, v in constants.items()}
        self._vector_scale = float(model.manifest.quantization["vector_scale"])
        self._use(library, self._struct(model.manifest))
        self._winograd = [self._transformed(i) for i in (1, 2)]
        self._biases: list[Int32Array] = []

    def _use(self, library: ctypes.CDLL, model: Model) -> None:
        self._library, self._model = library, model
        self._encoder_bytes, self._vector_bytes = clib.struct_sizes(library)
        self.vector_size = self._vector_bytes // 4
        self._kernels, self.kernel = clib.kernel_in_use(library)

    def _struct(self, manifest: Manifest) -> Model:
        """Return the ``eser_model`` that points at the constants."""
        place = {name: at(values) for name, values in self._constants.items()}
        layers = [
            Layer(place[f"{name}_weight"], place[f"{name}_bias"], place[f"{name}_multiplier"], shift, matrix.n_in, matrix.n_out)
            for (name, matrix), shift in zip(
                matrices(len(manifest.labels)).items(), self._constants["shift"].tolist(), strict=True
            )
        ]
        # Labels, temperature, the probability of speech and the distance are used in Python alone.
        gain, offset, prelu = place["feature_gain"], place["feature_offset"], place["prelu"]
        unused = (1.0, None, 0.0, 0.0, 0.0, None, 0.0)  # the temperature's and what comes behind it
        return Model(FORMAT, len(manifest.labels), None, gain, offset, (Layer * 10)(*layers), prelu, *unused, (None,) * 2)

    def _transformed(self, i: int) -> Int16Array:
        """Give the model the weights of convolution ``i`` a second time, transformed for speed, and return them."""
        size = self._library.eser_winograd_size(ctypes.byref(self._model), self._kernels, i)
        weights = clib.on_a_line(np.zeros(size, dtype=np.int16))
        if len(weights) == 0:  # no use for them here
            return weights
        self._library.eser_winograd_weights(ctypes.byref(self._model), i, at(weights))
        self._model.winograd[i - 1] = at(weights)
        return weights

    def transform(self, samples: Float32Array, config: FrontEndConfig) -> Float32Array:
        """Return every frame that fits into ``samples`` [n], in dB, float32 [T, 128]."""
        return clib.features(self._library, self._kernels, samples)

    def run(self, features: Float32Array, past: Vectors | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, 128], following on encoder vectors ``past`` [P, vector_size]."""
        encoded, _ = self.encode(features, state)
        return self.judge(encoded if past is None else np.concatenate([past, encoded]))

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Vectors, EncoderState]:
        """Return the encoder vectors [N, vector_size] of features [T, 128], and the state for the frames that follow."""
        features = np.ascontiguousarray(features, dtype=np.float32)
        first = LEAD_FRAMES if state is None else 0
        if features.ndim != 2 or features.shape[1] != N_BINS or len(features) < first + ENCODER_STRIDE:
            raise BackendError(f"features have shape {features.shape}; expected ({first + ENCODER_STRIDE} or more, {N_BINS})")
        encoder, before = (np.empty(self._encoder_bytes, np.uint8), None) if state is None else (state[0].copy(), at(state[1]))
        vectors = np.empty(((len(features) - first) // ENCODER_STRIDE, self.vector_size), dtype=np.int32)
        n = self._library.eser_encode_batch(
            at(encoder), ctypes.byref(self._model), self._kernels, at(features), len(features), before, at(vectors), len(vectors)
        )
        return vectors[:n], (encoder, vectors[n - 1].copy())

    def judge(self, vectors: Vectors) -> Answer:
        """Answer for encoder vectors [P, vector_size] alone."""
        rows = self._rows(vectors)
        embedding, logits = np.empty(EMBEDDING_SIZE, dtype=np.float32), np.empty(self._model.n_labels, dtype=np.float32)
        model = ctypes.byref(self._model)
        self._library.eser_judge_batch(model, self._kernels, at(rows), len(rows), at(embedding), at(logits))
        return Answer(logits, embedding, vectors)

    def statistics(self, vectors: Vectors) -> UInt16Array:
        """Return mean and standard deviation over time of encoder vectors [P, vector_size], in steps, [2 · encoder_size]."""
        rows = self._rows(vectors)
        found = np.empty((2, ENCODER_SIZE), dtype=np.uint16)
        # Of every row the levels are the last bytes.
        self._library.eser_statistics(at(rows) + self._vector_bytes - ENCODER_SIZE, self._vector_bytes, len(rows), at(found))
        return channel_major(found).reshape(-1)

    def _rows(self, vectors: Vectors) -> Int32Array:
        """Return encoder vectors [P, vector_size] as C takes them; BackendError for others, or none."""
        rows = np.ascontiguousarray(vectors, dtype=np.int32)
        if rows.ndim != 2 or rows.shape[1] != self.vector_size or len(rows) == 0:
            raise BackendError(f"encoder vectors have shape {rows.shape}; expected (1 or more, {self.vector_size})")
        return rows

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the encoder vectors [N, 480] of features [T, 128]."""
        features = np.ascontiguousarray(whole_blocks(features), dtype=np.float32)
        encoder = np.empty(self._encoder_bytes, dtype=np.uint8)
        levels = np.empty((vector_count(len(features)), ENCODER_SIZE), dtype=np.uint8)
        self._library.eser_vectors_batch(
            at(encoder), ctypes.byref(self._model), self._kernels, at(features), len(features), at(levels), len(levels)
        )
        return channel_major(levels.astype(np.float32) * np.float32(self._vector_scale))

    def shifted(self, offset: Float32Array) -> NativeBackend:
        """Return the same model with ``offset`` [480] added to every encoder vector that the GRU sees: in the GRU's biases."""
        steps = frequency_major(offset).astype(np.float64) / self._vector_scale
        other = copy.copy(self)
        other._model = Model.from_buffer_copy(self._model)
        other._biases = []
        for i, name in ((4, "gru_input_forward"), (5, "gru_input_backward")):
            bias = self._constants[f"{name}_bias"]
            change = without_panels(self._constants[f"{name}_weight"], len(bias)) @ steps
            bias = np.clip(bias + np.rint(change), -MAX_BIAS, MAX_BIAS).astype(np.int32)
            other._model.layers[i].bias = at(bias)
            other._biases.append(bias)
        return other


def _check(model: ModelFile) -> None:
    """Raise ModelFileError for a manifest of a network that the C library does not have."""
    manifest = model.manifest
    found, expected = (manifest.front_end.name, manifest.precision), (LOGMEL_V1.name, "int8")
    if found != expected:
        raise ModelFileError(f"{model.path}: front end and precision are {found}; the C library has {expected}")
