"""What a run measures of speech when it ends: what tells it from other sound, its levels and its mean encoder vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edge_ser.arrays import Float32Array, Float64Array
from edge_ser.frontend.features import extract
from edge_ser.personal.microphone import Encoder, SpeechStatistics
from edge_ser_train.corpora.clips import ORDINARY, Clip
from edge_ser_train.method.config import TrainConfig
from edge_ser_train.method.inference import encode, infer
from edge_ser_train.method.model import EmotionNet
from edge_ser_train.method.outliers import no_speech

MISSED = 0.003
"""Share of the dev clips, as recorded or as copies, below the threshold: answered `no_speech` though somebody speaks."""

N_SOUNDS = 2000
"""Made sounds without speech that the probability of speech is fitted on, at most: there are no more of them than of speech."""

_SOUNDS = 5  # stream of random numbers; the loop, the dataset and the outliers have the streams before
_RIDGE = 1e-3  # of weights on standardised z, against the mean loss: keeps them finite where both kinds part cleanly
_STEPS = 50


class SpeechDetector(NamedTuple):
    """Probability of speech = 1 / (1 + exp(-(weights · z + bias)))."""

    weights: Float64Array
    """[64]"""
    bias: float
    threshold: float
    """Probability below which there is no speech to judge."""

    def probability(self, z: Float32Array) -> Float64Array:
        """Return the probability of speech of embeddings z [n, 64]: [n]."""
        p: Float64Array = 1 / (1 + np.exp(-(z @ self.weights + self.bias)))
        return p


def fit_detector(speech: Float32Array, none: Float32Array, dev: list[Float32Array]) -> SpeechDetector:
    """Fit on embeddings of speech [n, 64] and of sounds without any [m, 64], both kinds weighing the same.

    The threshold lets :data:`MISSED` of each of the dev sets' embeddings, [k, 64] each, pass below it, at most.
    """
    x = np.concatenate([speech, none]).astype(np.float64)
    y = np.repeat([1.0, 0.0], [len(speech), len(none)])
    share = np.repeat([0.5 / len(speech), 0.5 / len(none)], [len(speech), len(none)])
    mean, std = share @ x, np.sqrt(share @ np.square(x - share @ x)) + 1e-6
    x = np.column_stack([(x - mean) / std, np.ones(len(x))])
    ridge = np.append(np.full(x.shape[1] - 1, _RIDGE), 0.0)
    w = np.zeros(x.shape[1])

    def loss(w: Float64Array) -> float:
        return float(share @ np.logaddexp(0, np.where(y == 1, -1, 1) * (x @ w)) + 0.5 * ridge @ np.square(w))

    for _ in range(_STEPS):  # Newton's method, a step halved until it lowers the loss
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        gradient = x.T @ (share * (p - y)) + ridge * w
        hessian = (x * (share * p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-9:
            step /= 2
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    weights = w[:-1] / std
    found = SpeechDetector(weights, float(w[-1] - weights @ mean), 0.5)
    return found._replace(threshold=float(min(np.quantile(found.probability(z), MISSED, method="lower") for z in dev)))


def speech_detector(net: EmotionNet, z: Float32Array, dev: list[Float32Array], config: TrainConfig) -> dict[str, Any]:
    """Return what ``Manifest.speech`` holds, fitted on embeddings of speech, z [n, 64], and on made sounds."""
    front_end, rng = config.front_end_config, np.random.default_rng([config.seed, _SOUNDS])
    lengths = rng.integers(front_end.rate_hz // 2, 5 * front_end.rate_hz, min(N_SOUNDS, len(z)))
    sounds = [extract(no_speech(int(n), front_end.rate_hz, rng), front_end) for n in lengths]
    found = fit_detector(z, infer(net, sounds)[1], dev)
    return {"weights": found.weights.round(6).tolist(), "bias": round(found.bias, 6), "threshold": found.threshold}


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
