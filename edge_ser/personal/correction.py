"""What a person's utterances change about the network's answer: a linear correction, learnt in milliseconds, kept in integers.

    x = (statistics - mean of the person's) / spread / sqrt(960)        what the encoder has not forgotten of the voice
    scores = logits / T + e(z) + A x + b                                 e: evidence of the moved class centres (eq. 4), or none
    minimise  sum of cross-entropies + lambda / 2 |A|² + 1/4 |b|²        convex; A = B'X, so Newton's method in few unknowns

Several such fits, of other lambdas, with and without e, and with x as it is and seen through what a label's utterances differ by
(:class:`Within`), are mixed by how well each tells an utterance that it did not hear (leave one out, by one step of Newton's
method). One of them is the network as it is, so whoever sounds as the training's speakers did keeps its answers. An utterance
whose label all others contradict counts less: somebody may have been mistaken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from edge_ser.arrays import AnyArray, Float64Array, Int16Array, Int32Array, Int64Array, UInt16Array
from edge_ser.errors import ConfigError
from edge_ser.model.manifest import Manifest
from edge_ser.personal.person import EVIDENCE, Q16, Heard, Person, moved_centres
from edge_ser.personal.within import HANDICAP, Within

LAMBDAS = (0.01, 0.05, 0.2)
BIAS = 0.5
SPREAD = 0.66
"""Spread within a speaker's emotion, as a part of the mean encoder value of speech; CREMA-D's training actors have it."""
MISTAKEN = 0.1
"""Share of labels that may be anything, where fits are compared."""
_TEMPERATURES = np.exp(np.linspace(-0.7, 1.1, 37))
_BITS = 15
_RIGHT = 0.8


@dataclass(frozen=True)
class Learnt:
    """What a correction is learnt from besides the person."""

    labels: tuple[str, ...]
    temperature: float
    centres: Float64Array
    step: float
    """Unit of the statistics."""
    spread: float
    """Divides them."""
    encoder_size: int

    @classmethod
    def of(cls, manifest: Manifest) -> Learnt:
        """Return what a model file states."""
        spread = SPREAD * max(float(np.mean(manifest.speech_vector)), 1e-3)
        step, size = manifest.statistics_step, manifest.encoder_size
        return cls(manifest.labels, manifest.temperature, np.array(manifest.centres), step, spread, size)


@dataclass(frozen=True, eq=False)
class Correction:
    """What is added to the network's logits, in integers: the same scores on every target."""

    labels: tuple[str, ...]
    """Names of the scores."""
    source: tuple[int, ...]
    """The network's logit that each begins with, or -1 for a word of the person's own."""
    statistics: Int16Array
    """[n_labels, 2 · encoder_size], channel-major."""
    embedding: Int16Array
    """[n_labels, embedding_size]"""
    bias: Int32Array
    """[n_labels], in 1/65536."""
    shifts: tuple[int, int]
    """Products of ``statistics`` with an utterance's, shifted down by so many bits, are in 1/65536; likewise of ``embedding``."""
    temperature: float
    """Divides the scores before the softmax."""
    loo: Float64Array
    """Probabilities of every utterance of the person by the others, [m, n_labels]."""

    def scores(self, heard: Heard) -> Int64Array:
        """Return the corrected logits in 1/65536, [n_labels]."""
        start = np.array([0 if s < 0 else heard.logits[s] for s in self.source], dtype=np.int64)
        found: Int64Array = start + self.bias
        for product, shift in zip(
            (
                self.statistics.astype(np.int64) @ heard.statistics.astype(np.int64),
                self.embedding.astype(np.int64) @ heard.embedding.astype(np.int64),
            ),
            self.shifts,
            strict=True,
        ):
            found += (product + (1 << shift >> 1)) >> shift
        return found.clip(-(2**29), 2**29)


class _View(NamedTuple):
    """The utterances in as many coordinates as there are of them, of whose rows every A is a combination."""

    design: Float64Array
    """[m, rank + 1], the last column of ones."""
    to_x: Float64Array
    """[size, rank]: makes weights of x of the weights of coordinates."""
    handicap: float


class _Fit(NamedTuple):
    loss: float
    prior: float
    view: int
    """Number of the view; -1 for the network as it is."""
    solution: Float64Array
    """[rank + 1, n], the last row the bias."""
    left_out: Float64Array


def heard_of(label: str, statistics: UInt16Array, embedding: AnyArray, logits: AnyArray) -> Heard:
    """Return an answer as an utterance of ``label``; embedding and logits are the network's, float32."""
    z, o = (np.rint(v.astype(np.float64) * Q16).clip(-(2**29), 2**29).astype(np.int32) for v in (embedding, logits))
    return Heard(label, statistics, z, o)


def learn(person: Person, model: Learnt) -> Correction | None:
    """Return a person's correction, None while nothing can be learnt: fewer than two labels were heard.

    Raises ConfigError for utterances of another size than the model's.
    """
    heard, counts = person.utterances, person.counts
    if len(counts) < 2:
        return None
    size = (heard[0].statistics.size, heard[0].embedding.size, heard[0].logits.size)
    if size != (2 * model.encoder_size, model.centres.shape[1], len(model.labels)):
        raise ConfigError("person: its utterances are of another model's size; the file was edited")
    labels = person.labels(model.labels)
    source = tuple(model.labels.index(label) if label in model.labels else -1 for label in labels)
    y = np.array([labels.index(h.label) for h in heard])
    given = np.unique(y)
    z = np.stack([h.embedding for h in heard]) / Q16
    logits = np.stack([h.logits for h in heard]) / Q16 / model.temperature
    start = np.stack([np.zeros(len(heard)) if s < 0 else logits[:, s] for s in source], axis=1)
    raw = np.stack([h.statistics for h in heard]).astype(np.float64)
    means = np.mean([raw[y == c].mean(axis=0) for c in given], axis=0)
    unit = model.step / model.spread / np.sqrt(raw.shape[1])
    x = (raw - means) * unit
    n_of = np.array([(y == c).sum() for c in y])
    weights = np.minimum(len(y) / (len(given) * n_of), 1.5)  # every label counts alike, as far as few utterances can
    own = -1 in source
    (slope, constant), without = _evidence(person, model, z, [h.label for h in heard], source)
    target = np.eye(len(labels))[y][:, given]
    views = _views(x, y)
    fits = []
    for prior in (0.0, 1.0):
        offset = (start + prior * without)[:, given]
        if not own and not person.only:
            fits.append(_Fit(_loss(offset, target, weights), prior, -1, np.zeros((1, len(given))), offset))
        for i, view in enumerate(views):
            fits += _fits(view, i, prior, offset, target, weights, is_doubting=not own)
    losses = np.array([f.loss for f in fits])
    share = np.exp(losses.min() - losses)
    share /= share.sum()
    # Less is known of those who gave some labels only.
    share *= 1.0 if own or person.only else (len(given) - 1) / (len(labels) - 1)
    a, b, c = np.zeros((x.shape[1], len(labels))), np.zeros(len(labels)), 0.0
    left_out = start * (1 - share.sum())
    weight = [np.zeros((view.to_x.shape[1], len(given))) for view in views]
    for s, f in zip(share, fits, strict=True):
        b[given] += s * f.solution[-1]
        c += s * f.prior
        part = start + f.prior * without
        part[:, given] = f.left_out
        left_out += s * part
        if f.view >= 0:
            weight[f.view] += s * f.solution[:-1]
    for view, of_view in zip(views, weight, strict=True):
        a[:, given] += view.to_x @ of_view
    temperature = _temperature(left_out, y, len(heard))
    weight_x = a.T * unit
    bias = b - weight_x @ means + c * constant
    return _quantised(
        labels, source, model.temperature * weight_x, model.temperature * c * slope, model.temperature * bias,
        model.temperature * temperature, _softmax(left_out / temperature),
    )  # fmt: skip


def _views(x: Float64Array, y: AnyArray) -> list[_View]:
    """Return the utterances [m, size] as they are and, where a label has two that differ, as :class:`Within` sees them."""
    within = Within(x, y)
    views = [_view(x, 0.0)]
    if within.is_there:
        seen = _view(within.of(x), HANDICAP)
        views.append(seen._replace(to_x=within.of(seen.to_x.T).T))
    return views


def _view(x: Float64Array, handicap: float) -> _View:
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    keep = eigenvalues > 1e-9 * max(eigenvalues[-1], 1e-9)
    roots, vectors = np.sqrt(eigenvalues[keep]), vectors[:, keep]
    return _View(np.hstack([vectors * roots, np.ones((len(x), 1))]), x.T @ (vectors / roots), handicap)


def _fits(
    view: _View, number: int, prior: float, offset: Float64Array, target: Float64Array, weights: Float64Array, is_doubting: bool
) -> list[_Fit]:
    """Return a fit of every lambda; ``is_doubting`` lets an utterance whose label all others contradict count less."""
    design = view.design
    ridges = [np.append(np.full(design.shape[1] - 1, strength), BIAS) for strength in LAMBDAS]
    solution, believed = None, weights
    if is_doubting:
        solution, left_out = _fit(design, offset, target, weights, ridges[0])
        right = (_softmax(left_out) * target).sum(axis=1)
        believed = weights * np.minimum(1, right * target.shape[1] * _RIGHT)
    found: list[_Fit] = []
    for ridge in ridges:  # each begins where the one before ended, which is near
        solution, left_out = _fit(design, offset, target, believed, ridge, solution)
        found.append(_Fit(_loss(left_out, target, weights) + view.handicap, prior, number, solution, left_out))
    return found


def _evidence(
    person: Person, model: Learnt, z: Float64Array, words: list[str], source: tuple[int, ...]
) -> tuple[tuple[Float64Array, Float64Array], Float64Array]:
    """Return the evidence's slope and constant, and every utterance's evidence by the others.

    EVIDENCE · (|z - c|² - |z - c'|²) / s², linear in z: the log ratio of two Gaussians, around the person's centre c' and the
    model's c; s² is the mean squared distance of the model's centres from their middle.
    """
    known = model.centres
    strength = EVIDENCE / np.square(known - known.mean(axis=0)).sum(axis=1).mean()

    def line(left_out: int | None) -> tuple[Float64Array, Float64Array]:
        of = {}
        for label in set(words) & set(model.labels):
            rows = [i for i, word in enumerate(words) if word == label and i != left_out]
            if rows:
                of[label] = (len(rows), z[rows].mean(axis=0))
        moved = moved_centres(model.labels, known, of)
        slope = 2 * strength * (moved - known)
        constant = strength * (np.square(known) - np.square(moved)).sum(axis=1)
        pick = np.array(source)
        own = pick < 0
        slope, constant = slope[pick], constant[pick]
        slope[own], constant[own] = 0, 0
        return slope, constant

    without = np.empty((len(z), len(source)))
    for i, row in enumerate(z):
        slope, constant = line(i)
        without[i] = slope @ row + constant
    return line(None), without


def _fit(
    design: Float64Array, offset: Float64Array, target: Float64Array, weights: Float64Array, ridge: Float64Array,
    start: Float64Array | None = None,
) -> tuple[Float64Array, Float64Array]:  # fmt: skip
    """Return the solution [rank + 1, n] by Newton's method, and every utterance's scores by the others [m, n].

    What is added to all n scores alike changes no probability, so the ridge makes every row of the solution sum to 0: Newton's
    method goes through the k = n - 1 contrasts that are left, and its matrices have half as many numbers for four labels.
    """
    p, n = design.shape[1], target.shape[1]
    contrasts = np.linalg.qr(np.eye(n)[:, :-1] - 1 / n)[0]
    solution = np.zeros((p, n - 1)) if start is None else start @ contrasts

    def at(solution: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        """Return the objective, the scores and their softmax."""
        scores = offset + design @ solution @ contrasts.T
        highest = scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores - highest)
        total = exponentials.sum(axis=1, keepdims=True)
        surprise = (highest + np.log(total))[:, 0] - (scores * target).sum(axis=1)
        return float(weights @ surprise + 0.5 * (ridge[:, None] * solution**2).sum()), scores, exponentials / total

    loss, scores, probabilities = at(solution)
    for _ in range(20):
        gradient = design.T @ (weights[:, None] * (probabilities - target)) @ contrasts + ridge[:, None] * solution
        hessian = _hessian(design, _curvature(probabilities, weights, contrasts), ridge)
        step = np.linalg.solve(hessian, gradient.T.reshape(-1)).reshape(n - 1, p).T
        length = 1.0
        while (found := at(solution - length * step))[0] > loss and length > 1e-4:
            length /= 2
        if found[0] > loss:
            break
        solution = solution - length * step
        gain, (loss, scores, probabilities) = loss - found[0], found
        if gain < 1e-5:
            break
    own = _curvature(probabilities, weights, contrasts)
    inverse = np.linalg.inv(_hessian(design, own, ridge)).reshape(n - 1, p, -1)
    # [m, k, k]: how far an utterance's scores follow its own gradient; leaving it out takes that back.
    followed = (design @ inverse).reshape(n - 1, len(design), n - 1, p)
    reach = np.einsum("aibp,ip->iab", followed, design)
    taken = np.linalg.solve(np.eye(n - 1) - own @ reach, (weights[:, None] * (probabilities - target) @ contrasts)[..., None])
    return solution @ contrasts.T, scores + (reach @ taken)[..., 0] @ contrasts.T


def _curvature(probabilities: Float64Array, weights: Float64Array, contrasts: Float64Array) -> Float64Array:
    """Return the second derivatives of every utterance's cross-entropy by the contrasts of its scores, [m, k, k]."""
    n, k = contrasts.shape
    products = (contrasts[:, :, None] * contrasts[:, None, :]).reshape(n, k * k)
    mean = probabilities @ contrasts
    found: Float64Array = (probabilities @ products).reshape(-1, k, k) - mean[:, :, None] * mean[:, None, :]
    return weights[:, None, None] * found


def _hessian(design: Float64Array, curvature: Float64Array, ridge: Float64Array) -> Float64Array:
    (m, p), k = design.shape, curvature.shape[1]
    a, b = _pairs(k)
    blocks = (design.T @ (curvature[:, a, b, None] * design[:, None, :]).reshape(m, -1)).reshape(p, len(a), p).transpose(1, 0, 2)
    found = np.empty((k, p, k, p))
    found[a, :, b] = found[b, :, a] = blocks
    flat = found.reshape(k * p, k * p)
    flat.reshape(-1)[:: k * p + 1] += np.concatenate([ridge] * k)
    return flat


_pairs = lru_cache(np.triu_indices)


def _softmax(scores: Float64Array) -> Float64Array:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: Float64Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return found


def _loss(scores: Float64Array, target: Float64Array, weights: Float64Array) -> float:
    right = (_softmax(scores) * target).sum(axis=1)
    return float(-(weights * np.log((1 - MISTAKEN) * right + MISTAKEN / target.shape[1])).sum())


def _temperature(left_out: Float64Array, y: AnyArray, m: int) -> float:
    """Return what makes the confidence of answers to utterances left out mean frequency; 1 where there are few of them."""
    right = _softmax(left_out / _TEMPERATURES[:, None, None])[:, np.arange(m), y]
    losses = -np.log(0.98 * right + 0.02 / left_out.shape[1]).sum(axis=1) + 2 * np.log(_TEMPERATURES) ** 2
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _quantised(
    labels: tuple[str, ...], source: tuple[int, ...], weight_x: Float64Array, weight_z: Float64Array, bias: Float64Array,
    temperature: float, loo: Float64Array,
) -> Correction:  # fmt: skip
    """Return the integers of a correction; ``weight_x`` is logits a step, ``weight_z`` logits a unit of z."""
    integers, shifts = [], []
    for weight in (weight_x * Q16, weight_z):
        largest = float(np.abs(weight).max())
        shift = 0 if largest == 0 else int(np.clip(_BITS - 1 - np.ceil(np.log2(largest)), 0, 40))
        integers.append(np.rint(weight * 2.0**shift).clip(-32767, 32767).astype(np.int16))
        shifts.append(shift)
    limited = np.rint(bias * Q16).clip(-(2**29), 2**29).astype(np.int32)
    return Correction(labels, source, integers[0], integers[1], limited, (shifts[0], shifts[1]), temperature, loo)
