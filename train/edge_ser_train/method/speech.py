"""What a run measures of speech when it ends: what tells it from other sound, its levels and its mean encoder vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_ser.arrays import BoolArray, Float32Array, Float64Array, UInt16Array
from edge_ser.engines.statistics import statistics_of_vectors
from edge_ser.frontend.features import extract
from edge_ser.model.manifest import FLOAT_STEP
from edge_ser.personal.microphone import Encoder, SpeechStatistics, speech_vectors
from edge_ser.prediction import distance_of, speech_probability
from edge_ser_train.corpora.clips import ORDINARY, Clip
from edge_ser_train.method.config import TrainConfig
from edge_ser_train.method.inference import encode
from edge_ser_train.method.model import EmotionNet
from edge_ser_train.method.outliers import no_speech

MISSED = 0.003
"""Share of the dev clips, as recorded or as copies, below the threshold: answered `no_speech` though somebody speaks."""

N_SOUNDS = 6000
"""Made sounds without speech that the probability of speech is fitted on."""

_SOUNDS = 5  # stream of random numbers; the loop, the dataset and the outliers have the streams before
_RIDGE = 1e-3  # of weights on statistics of spread 1, against the mean loss: finite weights where both kinds part cleanly
_STEPS = 500
_LARGEST = 127  # weight in the file


def fit_detector(speech: UInt16Array, none: UInt16Array, dev: list[UInt16Array]) -> dict[str, Any]:
    """Return what ``Manifest.speech`` holds, fitted on statistics of speech [n, size] and of sounds without any [m, size].

    Both kinds weigh the same. The threshold lets :data:`MISSED` of each of the dev sets, [k, size] each, pass below it, at most.
    """
    from scipy.optimize import minimize

    x = np.concatenate([speech, none]).astype(np.float64) * FLOAT_STEP
    sign = np.repeat([-1.0, 1.0], [len(speech), len(none)])
    share = np.repeat([0.5 / len(speech), 0.5 / len(none)], [len(speech), len(none)])
    mean = share @ x
    spread = max(float(np.sqrt((share @ np.square(x - mean)).mean())), 1e-6)  # one for all: what varies little says little
    x = (x - mean) / spread

    def loss(w: Float64Array) -> tuple[float, Float64Array]:
        exponent = sign * (x @ w[:-1] + w[-1])
        slope = share * sign / (1 + np.exp(-exponent.clip(-500, 500)))
        value = share @ np.logaddexp(0, exponent) + 0.5 * _RIDGE * (w[:-1] @ w[:-1])
        return float(value), np.append(slope @ x + _RIDGE * w[:-1], slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
    exact = found[:-1] / spread
    scale = float(max(np.abs(exact).max(), 1e-9)) / _LARGEST
    weights = np.rint(exact / scale).astype(np.int8)
    bias = float(found[-1] - weights @ mean * scale)
    detector = {"weights": base64.b64encode(weights.tobytes()).decode(), "scale": scale, "bias": bias, "threshold": 0.5}
    lowest = (np.quantile([speech_probability(s, detector, FLOAT_STEP) for s in of], MISSED, method="lower") for of in dev)
    return detector | {"threshold": float(min(lowest))}


def fit_distance(speech: UInt16Array, dev: UInt16Array) -> dict[str, Any]:
    """Return what ``Manifest.distance`` holds, of statistics of the training speech [n, size] and of dev's [m, size]."""
    mean = speech.astype(np.float64).mean(axis=0) * FLOAT_STEP
    unit = max(float(mean.max()), FLOAT_STEP) / 255
    packed = base64.b64encode(np.rint(mean / unit).astype(np.uint8).tobytes()).decode()
    enlarged = {"mean": packed, "unit": unit, "scale": 1e6}  # so that none is the least
    return enlarged | {"scale": 1e6 / float(np.median(distances_of(dev, enlarged)))}


def distances_of(statistics: UInt16Array, distance: dict[str, Any]) -> Float64Array:
    """Return how far every clip of these statistics [n, size] is from the training speech, [n]."""
    return np.array([distance_of(s, distance, FLOAT_STEP) for s in statistics])


def piece(vectors: Float32Array, heard: BoolArray, rng: np.random.Generator) -> Float32Array:
    """Return one to five of a clip's encoder vectors [N, size] in a row, about one that is ``heard`` [N].

    Of so short a sound the deviation is small, as it is of a steady one, so the fit has to see it.
    """
    n = min(int(rng.integers(1, 6)), len(vectors))
    about = int(rng.choice(np.flatnonzero(heard))) if heard.any() else len(vectors) // 2
    first = min(max(0, about - int(rng.integers(0, n))), len(vectors) - n)
    return vectors[first : first + n]


def statistics_of(vectors: Sequence[Float32Array]) -> UInt16Array:
    """Return the statistics of every clip's encoder vectors, [n, 2 · encoder_size]."""
    return np.stack([statistics_of_vectors(v, FLOAT_STEP) for v in vectors])


def speech_detector(
    net: EmotionNet, features: Sequence[Float32Array], vectors: Sequence[Float32Array], speech: UInt16Array,
    dev: list[UInt16Array], config: TrainConfig,
) -> dict[str, Any]:  # fmt: skip
    """Return what ``Manifest.speech`` holds, fitted on statistics of ``speech`` and of made sounds, and on a piece of each clip
    and sound: ``features`` and encoder ``vectors`` are the clips'.
    """
    front_end, rng = config.front_end_config, np.random.default_rng([config.seed, _SOUNDS])
    lengths = rng.integers(front_end.rate_hz // 2, 5 * front_end.rate_hz, min(N_SOUNDS, 2 * len(speech)))
    sounds = [extract(no_speech(int(n), front_end.rate_hz, rng), front_end) for n in lengths]
    none = encode(net, sounds)
    spoken = [piece(v, speech_vectors(x, front_end), rng) for v, x in zip(vectors, features, strict=True)]
    other = [piece(v, np.ones(len(v), dtype=np.bool_), rng) for v in none]
    return fit_detector(np.concatenate([speech, statistics_of(spoken)]), statistics_of([*none, *other]), dev)


def speech_statistics(
    net: EmotionNet, clips: Sequence[Clip], features: Sequence[Float32Array], vectors: Sequence[Float32Array], config: TrainConfig
) -> dict[str, Tensor]:
    """Return levels and mean encoder vectors of the training speech, all of it and the ordinary, by the manifest's names."""
    encoder = Encoder(config.front_end_config, "", int(net.gru.input_size), lambda x: encode(net, [x])[0])
    everything, ordinary = SpeechStatistics(encoder), SpeechStatistics(encoder)
    for clip, x, encoded in zip(clips, features, vectors, strict=True):
        everything.add(x, encoded)
        if clip.emotion in ORDINARY:
            ordinary.add(x, encoded)
    found = {
        "speech_mean": everything.mean,
        "speech_std": np.maximum(everything.std, 1e-3),
        "speech_vector": everything.vector,
        "ordinary_vector": (ordinary if ordinary.n_vectors else everything).vector,
    }
    return {name: torch.from_numpy(values) for name, values in found.items()}
