"""Scores of a classifier: UA, WA, macro-F1, confusion, calibration, and intervals over speakers. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ser.arrays import AnyArray, Float64Array, Int64Array
from edge_ser.prediction import softmax
from edge_ser_train.bootstrap import bounds, draws


def confusion_matrix(y: Int64Array, predicted: Int64Array, n_classes: int) -> Int64Array:
    """Return counts [n_classes, n_classes]; rows are the true class.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def confusion_per_speaker(y: Int64Array, predicted: Int64Array, speakers: Sequence[str], n_classes: int) -> dict[str, Int64Array]:
    """Return each speaker's confusion matrix [n_classes, n_classes], in the order of their names."""
    names, who = np.unique(np.asarray(speakers), return_inverse=True)
    return {str(name): confusion_matrix(y[who == i], predicted[who == i], n_classes) for i, name in enumerate(names)}


def unweighted_accuracy(confusion: AnyArray) -> Float64Array:
    """Return UA, the mean recall over the classes that occur; ``confusion`` is [..., n, n], the result [...]."""
    support = confusion.sum(axis=-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    recall = np.divide(hits, support, out=np.zeros(support.shape), where=support > 0)
    ua: Float64Array = recall.sum(axis=-1) / (support > 0).sum(axis=-1)
    return ua


def weighted_accuracy(confusion: AnyArray) -> Float64Array:
    """Return WA, the share of clips answered right; ``confusion`` is [..., n, n], the result [...]."""
    wa: Float64Array = np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))
    return wa


def macro_f1(confusion: AnyArray) -> Float64Array:
    """Return the mean F1 over the classes that occur; ``confusion`` is [..., n, n], the result [...]."""
    support = confusion.sum(axis=-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    f1 = 2 * hits / np.maximum(support + confusion.sum(axis=-2), 1)
    mean: Float64Array = np.where(support > 0, f1, 0).sum(axis=-1) / (support > 0).sum(axis=-1)
    return mean


def paired_change(
    y: Int64Array, before: Int64Array, after: Int64Array, speakers: Sequence[str], n_classes: int
) -> tuple[float, tuple[float, float]]:
    """Return by how much UA rises from the answers ``before`` to those ``after``, both [n], and its 95 % interval.

    Both are drawn with the same speakers.
    """
    (whole, drawn), (whole_before, drawn_before) = (
        (unweighted_accuracy(of.sum(axis=0)), unweighted_accuracy(of[draws(len(of))].sum(axis=1)))
        for of in (np.stack(list(confusion_per_speaker(y, p, speakers, n_classes).values())) for p in (after, before))
    )
    return float(whole - whole_before), bounds(drawn - drawn_before)


def expected_calibration_error(probabilities: Float64Array, y: Int64Array, n_bins: int = 15) -> float:
    """Return ECE (Guo et al. 2017): the gap between confidence and accuracy, averaged over equal-width confidence bins."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == y
    which = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(which, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(y))


def fit_temperature(logits: AnyArray, y: Int64Array) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017), within 0.05 to 20."""
    from scipy.optimize import minimize_scalar

    def nll(log_temperature: float) -> float:
        p = softmax(logits, float(np.exp(log_temperature)))[np.arange(len(y)), y]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    return float(np.exp(minimize_scalar(nll, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one set of clips; ``*_95`` are 95 % intervals over speakers."""

    n_clips: int
    n_speakers: int
    ua: float
    ua_95: tuple[float, float]
    wa: float
    wa_95: tuple[float, float]
    macro_f1: float
    macro_f1_95: tuple[float, float]
    ece: float
    confusion: list[list[int]]


def score(logits: AnyArray, y: Int64Array, speakers: Sequence[str], temperature: float) -> Scores:
    """Score logits [n, n_classes] against classes y [n]."""
    per_speaker = np.stack(list(confusion_per_speaker(y, logits.argmax(axis=1), speakers, logits.shape[1]).values()))
    total, resampled = per_speaker.sum(axis=0), per_speaker[draws(len(per_speaker))].sum(axis=1)
    return Scores(
        n_clips=len(y),
        n_speakers=len(per_speaker),
        ua=float(unweighted_accuracy(total)),
        ua_95=bounds(unweighted_accuracy(resampled)),
        wa=float(weighted_accuracy(total)),
        wa_95=bounds(weighted_accuracy(resampled)),
        macro_f1=float(macro_f1(total)),
        macro_f1_95=bounds(macro_f1(resampled)),
        ece=expected_calibration_error(softmax(logits, temperature), y),
        confusion=total.tolist(),
    )
