"""Holding an exported file against the network: synthetic input of many lengths, streams, real clips, the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ser.arrays import Float32Array, Int64Array
from edge_ser.engines import Backend, EncoderState
from edge_ser.errors import ExportError
from edge_ser.frontend.features import frame_count
from edge_ser.geometry import ENCODER_STRIDE, LEAD_FRAMES, vector_count
from edge_ser_train.method.inference import infer
from edge_ser_train.method.weights import TrainedModel
from edge_ser_train.metrics import confusion_matrix, unweighted_accuracy

_VERIFIED_FRAMES = (49, 50, 64, 65, 300, 1001, 1400)
_TIMED_SECONDS = (3, 14)
_TIMED_RUNS = 15


@dataclass(frozen=True)
class Verification:
    """How far an exported file is from the network it was made of, at several lengths of synthetic input."""

    n_inputs: int
    max_logit_error: float
    max_embedding_error: float
    max_streaming_error: float
    """Largest difference of a logit between one run over everything and a run in parts."""


@dataclass(frozen=True)
class Agreement:
    """How an exported file and what it is held against, the float network or another file, answer real clips."""

    clips: str
    n_clips: int
    argmax: float
    """Share of clips with the same label."""
    max_logit_error: float
    mean_logit_error: float
    ua_float: float | None
    """Of what the file is held against; None where the clips have no labels."""
    ua: float | None


def verify(trained: TrainedModel, backend: Backend, tolerance: float) -> Verification:
    """Compare a file with the network at several lengths, whole and in parts; ExportError beyond the tolerance."""
    mean, std = trained.net.feature_mean.numpy(), trained.net.feature_std.numpy()
    rng = np.random.default_rng(0)
    inputs = [(mean + std * rng.standard_normal((n, trained.net.n_bins))).astype(np.float32) for n in _VERIFIED_FRAMES]
    # One at a time: batched matrix products round differently.
    expected = [infer(trained.net, [x]) for x in inputs]
    whole = [backend.run(x) for x in inputs]
    streamed = [run_in_parts(backend, x, rng) for x in inputs]
    result = Verification(
        n_inputs=len(inputs),
        max_logit_error=max(float(np.abs(a.logits - e[0]).max()) for a, e in zip(whole, expected, strict=True)),
        max_embedding_error=max(float(np.abs(a.embedding - e[1]).max()) for a, e in zip(whole, expected, strict=True)),
        max_streaming_error=max(float(np.abs(a.logits - s).max()) for a, s in zip(whole, streamed, strict=True)),
    )
    if not max(result.max_logit_error, result.max_streaming_error) <= tolerance:
        raise ExportError(
            f"the exported file differs from the network: logits by {result.max_logit_error:.2g}, in parts by "
            f"{result.max_streaming_error:.2g}; expected at most {tolerance:g}; nothing was written"
        )
    return result


def run_in_parts(backend: Backend, features: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return the logits of features [T, n_bins] fed as a stream does: some blocks encoded, then the last ones answered."""
    n_vectors = vector_count(len(features))
    past: Float32Array | None = None
    state: EncoderState | None = None
    start = done = 0
    while n_vectors - done > 1:
        n = int(rng.integers(1, min(9, n_vectors - done)))
        stop = LEAD_FRAMES + ENCODER_STRIDE * (done + n)
        encoded, state = backend.encode(features[start:stop], state)
        past = encoded if past is None else np.concatenate([past, encoded])
        start, done = stop, done + n
    stop = LEAD_FRAMES + ENCODER_STRIDE * n_vectors
    answer = backend.run(features[start:stop], past, state)
    if not np.array_equal(answer.logits, backend.judge(answer.encoded).logits):
        raise ExportError("the exported file's head answers otherwise when it is run alone; nothing was written")
    return answer.logits


def agree(
    expected: Float32Array, backend: Backend, clips: Sequence[Float32Array], y: Int64Array | None, described: str
) -> Agreement:
    """Compare a file's answers on clips' features with the logits ``expected``; ``y`` are their classes, where known."""
    found = np.stack([backend.run(np.ascontiguousarray(x)).logits for x in clips])
    error = np.abs(found - expected)

    def ua(logits: Float32Array) -> float | None:
        if y is None:
            return None
        return float(unweighted_accuracy(confusion_matrix(y, logits.argmax(axis=1), logits.shape[1])))

    same = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    return Agreement(described, len(error), same, float(error.max()), float(error.mean()), ua(expected), ua(found))


def latencies(trained: TrainedModel, backends: dict[str, Backend]) -> dict[str, dict[str, float]]:
    """Return each file's median time in ms at 3 and 14 s: one thread, graph alone.

    All files take turns within one run, so that what else the machine does hits them alike.
    """
    rng = np.random.default_rng(0)
    mean, std = trained.net.feature_mean.numpy(), trained.net.feature_std.numpy()
    found: dict[str, dict[str, float]] = {name: {} for name in backends}
    for seconds in _TIMED_SECONDS:
        n_frames = frame_count(seconds * trained.front_end.rate_hz, trained.front_end)
        x = (mean + std * rng.standard_normal((n_frames, trained.net.n_bins))).astype(np.float32)
        times: dict[str, list[float]] = {name: [] for name in backends}
        for turn in range(_TIMED_RUNS + 2):
            for name, backend in backends.items():
                started = time.perf_counter()
                backend.run(x)
                if turn >= 2:  # the first runs allocate
                    times[name].append(1e3 * (time.perf_counter() - started))
        for name, values in times.items():
            found[name][f"{seconds} s"] = float(np.median(values))
    return found
