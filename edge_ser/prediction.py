"""From logits to an answer."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray, Float32Array, Float64Array, UInt16Array
from edge_ser.model.manifest import Manifest, usual_statistics
from edge_ser.personal.correction import Correction, heard_of
from edge_ser.personal.person import Q16

UNCERTAIN = "uncertain"
"""The label of an answer below ``min_confidence``; the probabilities still tell what it would have been."""


NO_SPEECH = "no_speech"
"""The label of sound in which there probably is no speech; the probabilities of the emotions then say nothing."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """How an utterance sounds."""

    label: str
    """The most probable emotion; :data:`NO_SPEECH` where ``speech`` is below the threshold, :data:`UNCERTAIN` where the emotion's
    probability is below the confidence that was asked for."""
    confidence: float
    """The highest calibrated probability, 0 to 1: of many answers given with 0.8, about 80 % are right. It falls with
    the distance from the training speech: see :func:`distance_of`."""
    probabilities: dict[str, float]
    """Every label's probability, in the model's order, a person's own words behind; they sum to 1."""
    embedding: Float32Array
    """The 64-d feature z, float32; close in Euclidean distance means alike in emotion."""
    logits: Float32Array
    """The network's raw outputs, float32 [n_labels], before temperature and softmax."""
    statistics: UInt16Array
    """Mean and standard deviation of the encoder's vectors, in steps: what :meth:`EmotionRecognizer.adapt` learns from."""
    duration_s: float
    """Length of the recording, in seconds."""
    speech: float
    """Probability that there is any speech, 0 to 1: noise, tones, music and clicks have a low one."""

    def record(self) -> dict[str, Any]:
        """Return the answer as the command line prints it in JSON, without embedding and logits; six decimals."""
        return {
            "label": self.label,
            "confidence": round(self.confidence, 6),
            "probabilities": {label: round(p, 6) for label, p in self.probabilities.items()},
            "speech": round(self.speech, 6),
            "duration_s": round(self.duration_s, 6),
        }


def softmax(logits: AnyArray, temperature: float = 1.0) -> Float64Array:
    """Return probabilities [..., n_labels] of logits [..., n_labels] divided by ``temperature``."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: Float64Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def speech_probability(statistics: UInt16Array, speech: Mapping[str, Any], step: float) -> float:
    """Return the probability that there is speech in what has these statistics, in units of ``step``.

    ``speech`` is the manifest's logistic regression. The sum is of integers, so its order changes nothing.
    """
    product = float(_speech_weights(speech["weights"]).dot(statistics))
    exponent = product * step * speech["scale"] + speech["bias"]
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, exponent))))


@lru_cache(maxsize=8)
def _speech_weights(encoded: str) -> Float64Array:
    return np.frombuffer(base64.b64decode(encoded), dtype=np.int8).astype(np.float64)


LEAST_DISTANCE = 0.5
"""What is nearer to the training speech than half of dev's median is no surer for it."""


def distance_of(statistics: UInt16Array, distance: Mapping[str, Any], step: float) -> float:
    """Return how far statistics, in units of ``step``, are from the training speech's; the median of dev is 1.

    ``distance`` is the manifest's. It is Euclidean, at least :data:`LEAST_DISTANCE`; the sum is of integers.
    """
    difference = statistics - usual_statistics(distance["mean"], distance["unit"], step)
    return max(LEAST_DISTANCE, math.sqrt(difference.dot(difference)) * step * float(distance["scale"]))


def decide(
    logits: Float32Array,
    embedding: Float32Array,
    statistics: UInt16Array,
    manifest: Manifest,
    duration_s: float,
    min_confidence: float = 0.0,
    min_speech: float | None = None,
    correction: Correction | None = None,
) -> Prediction:
    """Turn logits [n_labels] and embedding [64] into a Prediction, with the manifest's labels, temperature and speech detector.

    The temperature is the manifest's times the distance from the training speech: what sounds unlike it is answered less surely.

    Below a probability of speech of ``min_speech``, None is the model's own threshold, the label is `no_speech`.
    Where a person's correction is given, it is theirs: labels, scores out of logits, embedding and statistics, temperature.
    """
    labels = manifest.labels
    scores: AnyArray = logits
    if correction is None:
        temperature = manifest.temperature * distance_of(statistics, manifest.distance, manifest.statistics_step)
    else:
        labels, temperature = correction.labels, correction.temperature
        scores = correction.scores(heard_of(labels[0], statistics, embedding, logits)) / Q16
    p = softmax(scores, temperature).tolist()
    confidence = max(p)
    speech = speech_probability(statistics, manifest.speech, manifest.statistics_step)
    label = UNCERTAIN if confidence < min_confidence else labels[p.index(confidence)]
    return Prediction(
        label=NO_SPEECH if speech < (manifest.speech["threshold"] if min_speech is None else min_speech) else label,
        confidence=confidence,
        probabilities=dict(zip(labels, p, strict=True)),
        embedding=embedding,
        logits=logits,
        statistics=statistics,
        duration_s=duration_s,
        speech=speech,
    )
