"""Inference engines behind one small interface; each is imported when it is first used."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import AnyArray, Float32Array, UInt16Array
from edge_ser.errors import BackendError, did_you_mean
from edge_ser.frontend.features import FrontEndConfig
from edge_ser.geometry import ENCODER_FRAMES, ENCODER_STRIDE
from edge_ser.model.manifest import ModelFile

Vectors: TypeAlias = AnyArray
"""What an engine keeps of the encoder's vectors, a row each; opaque to all others."""

BACKENDS = {"onnx": ".onnx", "tflite": ".tflite", "native": ".eser"}
"""Engines and the files they read."""
ENGINE_PACKAGES = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "tflite": ("ai-edge-litert", "tflite-runtime"),
    "native": ("edge-ser",),
}
"""The packages an engine may come from."""


class Answer(NamedTuple):
    """One run of the graph."""

    logits: Float32Array
    """[n_labels]"""
    embedding: Float32Array
    """z, [embedding_size]"""
    encoded: Vectors
    """All encoder vectors so far, [P + N, vector_size]; the ``past`` of the next run."""


EncoderState: TypeAlias = "tuple[AnyArray, ...]"
"""What the encoder carries from one stretch of frames to the next; an engine's own affair, never changed in place."""


class Backend(Protocol):
    """A loaded graph. Its methods may be called from several threads at once, and keep nothing."""

    provider: str
    """What it runs on: ``cpu``, or the provider that was asked for where that is there."""
    kernel: str
    """Name of the inner loops that it chose for this processor; empty where the engine does not tell."""

    vector_size: int
    """Length of what it keeps of an encoder vector."""
    vector_dtype: npt.DTypeLike
    """Its type."""
    block_frames: int
    """Frames that a stream hands it in one go, a multiple of 16."""
    kept_frames: int
    """Frames that a stream keeps back for the run that gives the answer: 16, or 0 where ``judge`` costs no more than ``run``."""

    def transform(self, samples: Float32Array, config: FrontEndConfig) -> Float32Array:
        """Return the dB of every frame that fits into ``samples`` [n], [T, n_bins].

        :func:`edge_ser.frontend.features.transform`, or a front end of the engine's own, which rounds otherwise.
        """
        ...

    def run(self, features: Float32Array, past: Vectors | None = None, state: EncoderState | None = None) -> Answer:
        """Answer for features [T, n_bins], following on encoder vectors ``past`` [P, vector_size].

        T is 49 or more; after a ``state`` it is a multiple of 16.
        """
        ...

    def encode(self, features: Float32Array, state: EncoderState | None = None) -> tuple[Vectors, EncoderState]:
        """Return the encoder vectors [N, vector_size] of features [T, n_bins], and the state for the frames that follow.

        T is 33 + 16 N at first, and 16 N after a ``state``.
        """
        ...

    def judge(self, vectors: Vectors) -> Answer:
        """Answer for encoder vectors [P, vector_size] alone."""
        ...

    def statistics(self, vectors: Vectors) -> UInt16Array:
        """Return mean and standard deviation over time of encoder vectors [P, vector_size], channel-major, [2 · encoder_size].

        In the manifest's ``statistics_step``; of what the encoder gave, whatever a microphone's offset is.
        """
        ...


class TunableBackend(Backend, Protocol):
    """An engine that can be calibrated to a microphone."""

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the encoder vectors [N, encoder_size] of features [T, n_bins], T >= 49, channel-major as in training."""
        ...

    def shifted(self, offset: Float32Array) -> TunableBackend:
        """Return the same graph with ``offset`` [encoder_size] added to every encoder vector that the GRU sees."""
        ...


def require_finite(engine: str, answers: dict[str, tuple[AnyArray, tuple[int | None, ...]]]) -> None:
    """Raise BackendError unless every answer of an engine has its shape (None: any length) and holds finite numbers."""
    for name, (values, shape) in answers.items():
        if len(values.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape, strict=True)):
            raise BackendError(f"{engine} answered {name} of shape {values.shape}; expected {shape}; export the model again")
        if not np.isfinite(values).all():
            raise BackendError(f"{engine} answered {name} that are not finite; the model was damaged, export it again")


def whole_blocks(features: Float32Array) -> Float32Array:
    """Return the frames of features [T, n_bins], T >= 49, that encoder vectors are made of: the first 33 + 16 N."""
    return features[: len(features) - (len(features) - ENCODER_FRAMES) % ENCODER_STRIDE]


def require_cpu(engine: str, provider: str) -> None:
    """Raise BackendError for a provider of an engine that runs on the CPU alone."""
    if provider != "cpu":
        raise BackendError(f"provider is {provider!r}; the {engine} backend runs on the cpu alone, others are for ONNX files")


def shipped_backend(threads: int = 1, provider: str = "cpu") -> str:
    """Return the engine that answers for the model that ships.

    On one thread the C library answers wherever it has vector kernels for the processor; ONNX Runtime where a provider or several
    threads are asked for, or there is no such library. Where ONNX Runtime is not installed, the C library answers.
    """
    if provider != "cpu":
        return "onnx"
    from edge_ser.engines import clib

    if threads == 1 and clib.is_fast():
        return "native"
    return "onnx" if find_spec("onnxruntime") is not None or not clib.is_there() else "native"


def open_backend(model: ModelFile, name: str = "auto", threads: int = 1, provider: str = "cpu") -> TunableBackend:
    """Load ``model`` into the engine ``name`` (``auto``: the one that reads such files), on an engine's ``provider``.

    Raises BackendError for an unknown engine, one that is not installed, or one that reads other files.
    """
    if name not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {name!r}{did_you_mean(name, BACKENDS)}; expected auto or {', '.join(BACKENDS)}")
    if threads < 1:
        raise BackendError(f"threads is {threads}; expected 1 or more")
    suffix = model.path.suffix
    if name != "auto" and BACKENDS[name] != suffix:
        raise BackendError(f"backend {name} cannot read {model.path}; expected a file ending in {BACKENDS[name]}")
    if suffix == BACKENDS["tflite"]:
        from edge_ser.engines.tflite import TfliteBackend

        return TfliteBackend(model, threads, provider)
    if suffix == BACKENDS["native"]:
        from edge_ser.engines.native import NativeBackend

        return NativeBackend(model, threads, provider)
    from edge_ser.engines.onnx import OnnxBackend

    return OnnxBackend(model, threads, provider)
