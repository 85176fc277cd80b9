"""From logits to an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.model_file import Manifest

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """How an utterance sounds."""

    label: str
    """The most probable emotion."""
    confidence: float
    """Its calibrated probability, 0 to 1: of many answers given with 0.8, about 80 % are right on speech like the dev set's."""
    probabilities: dict[str, float]
    """Every label's probability, in the model's order; they sum to 1."""
    embedding: Float32Array
    """The 64-d feature z, float32; close in Euclidean distance means alike in emotion."""
    logits: Float32Array
    """The network's raw outputs, float32 [n_labels], before temperature and softmax."""
    duration_s: float
    """Length of the recording, in seconds."""


def softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return probabilities [..., n_labels] of logits [..., n_labels] divided by ``temperature``."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def decide(logits: Float32Array, embedding: Float32Array, manifest: Manifest, duration_s: float) -> Prediction:
    """Turn logits [n_labels] and embedding [64] into a Prediction, with the manifest's labels and temperature."""
    p = softmax(logits, manifest.temperature)
    best = int(p.argmax())
    probabilities = {label: float(value) for label, value in zip(manifest.labels, p, strict=True)}
    return Prediction(manifest.labels[best], float(p[best]), probabilities, embedding, logits, duration_s)
