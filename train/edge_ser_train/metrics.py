"""Scores of a classifier: UA, WA, macro-F1, confusion, calibration, and intervals over speakers. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from edge_ser.arrays import AnyArray, Float64Array, Int64Array
from edge_ser.prediction import softmax
from edge_ser_train.bootstrap import bounds, resampled


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


IntervalOver: TypeAlias = Literal["speakers", "clips"]
"""What is drawn again for an interval."""


def interval_over(speakers: Sequence[str]) -> IntervalOver:
    """Return ``speakers``, or ``clips`` where all are one speaker's: of one person, or of a corpus that names nobody.

    >>> interval_over(["a", "a", "b"]), interval_over(["a", "a"])
    ('speakers', 'clips')
    """
    return "speakers" if len(set(speakers)) > 1 else "clips"


def _confusions(y: Int64Array, predicted: Int64Array, speakers: Sequence[str], n_classes: int) -> Int64Array:
    """Return the confusion matrices of what an interval draws, [n, n_classes, n_classes]."""
    drawn = speakers if interval_over(speakers) == "speakers" else [f"{i:09}" for i in range(len(y))]
    return np.stack(list(confusion_per_speaker(y, predicted, drawn, n_classes).values()))


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
        (unweighted_accuracy(of.sum(axis=0)), unweighted_accuracy(resampled(of)))
        for of in (_confusions(y, answers, speakers, n_classes) for answers in (after, before))
    )
    return float(whole - whole_before), bounds(drawn - drawn_before)


def reliability(probabilities: Float64Array, y: Int64Array, n_bins: int = 15) -> list[tuple[int, float, float]]:
    """Return clips, mean confidence and share answered right for each equal-width bin of confidence; zeros where it is empty."""
    confidence = probabilities.max(axis=1)
    which = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    n, sure, right = (
        np.bincount(which, weights=weights, minlength=n_bins)
        for weights in (np.ones(len(y)), confidence, probabilities.argmax(axis=1) == y)
    )
    some = np.maximum(1, n)
    return list(zip(n.astype(int).tolist(), (sure / some).tolist(), (right / some).tolist(), strict=True))


def expected_calibration_error(probabilities: Float64Array, y: Int64Array, n_bins: int = 15) -> float:
    """Return ECE (Guo et al. 2017): the gap between confidence and accuracy, averaged over equal-width confidence bins."""
    return sum(n * abs(right - sure) for n, sure, right in reliability(probabilities, y, n_bins)) / len(y)


def fit_temperature(logits: AnyArray, y: Int64Array) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017), within 0.05 to 20."""
    from scipy.optimize import minimize_scalar

    def nll(log_temperature: float) -> float:
        p = softmax(logits, float(np.exp(log_temperature)))[np.arange(len(y)), y]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    return float(np.exp(minimize_scalar(nll, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one set of clips; ``*_95`` are 95 % intervals, UA and macro-F1 over the classes that occur."""

    n_clips: int
    n_speakers: int
    interval_over: IntervalOver
    ua: float
    ua_95: tuple[float, float]
    wa: float
    wa_95: tuple[float, float]
    macro_f1: float
    macro_f1_95: tuple[float, float]
    ece: float
    reliability: list[tuple[int, float, float]]
    """See :func:`reliability`."""
    confusion: list[list[int]]


def score(probabilities: Float64Array, y: Int64Array, speakers: Sequence[str]) -> Scores:
    """Score probabilities [n, n_classes] against classes y [n]."""
    each = _confusions(y, probabilities.argmax(axis=1), speakers, probabilities.shape[1])
    total, drawn = each.sum(axis=0), resampled(each)
    return Scores(
        n_clips=len(y),
        n_speakers=len(set(speakers)),
        interval_over=interval_over(speakers),
        ua=float(unweighted_accuracy(total)),
        ua_95=bounds(unweighted_accuracy(drawn)),
        wa=float(weighted_accuracy(total)),
        wa_95=bounds(weighted_accuracy(drawn)),
        macro_f1=float(macro_f1(total)),
        macro_f1_95=bounds(macro_f1(drawn)),
        ece=expected_calibration_error(probabilities, y),
        reliability=reliability(probabilities, y),
        confusion=total.tolist(),
    )


def area_under_roc(positive: Float64Array, negative: Float64Array) -> float:
    """Return how often one of ``positive`` exceeds one of ``negative``, ties counting half (Mann-Whitney).

    >>> area_under_roc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))
