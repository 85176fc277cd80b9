"""A person: a few utterances of theirs, each with the emotion they say it has, move the class centres to where they speak.

    embedding z of an utterance + label -> Person, kept in a profile
    Person + the model's class centres -> centres of this person (eq. 4 of Dai et al., ICASSP 2019)
    logits / T + evidence(z) -> softmax: what the network says, and what the move of the centres changes about it

The network stays as it is: without utterances the centres stand still, the evidence is zero and the answer the network's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edge_ser.arrays import Float64Array, FloatArray
from edge_ser.errors import ConfigError, did_you_mean

SHARED = 4.0
"""Utterances of a person that weigh as much as the assumption that all their emotions lie where the model has them."""
OWN = 8.0
"""Utterances of an emotion that weigh as much as the assumption that it moves as the person's other emotions do."""
EVIDENCE = 1.5
"""How much the move of a centre counts, in natural logarithms a squared distance of the model's novelty distance.

These three were chosen on CREMA-D's dev actors, as recorded and through simulated microphones; any near them do as well."""

_MAX_EMBEDDING = 1e4  # an embedding's numbers are of the order of 1


@dataclass(frozen=True, eq=False)
class Heard:
    """The utterances of one emotion."""

    n: int
    """How many."""
    embedding: Float64Array
    """Their mean z, float64 [embedding_size]."""

    def __post_init__(self) -> None:
        if type(self.n) is not int or self.n < 1:
            raise ConfigError(f"person: n is {self.n!r}; expected how many utterances were heard")
        if self.embedding.ndim != 1 or not (np.abs(self.embedding) <= _MAX_EMBEDDING).all():  # also true of NaN
            raise ConfigError("person: an embedding is not one row of finite numbers near 1")


@dataclass(frozen=True, eq=False)
class Person:
    """How a person sounds to one model, by emotion; grows by :meth:`hear`, never changes in place.

    >>> centres = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> person = Person("the model's weights")
    >>> np.array_equal(person.centres(("calm", "glad"), centres), centres)
    True
    >>> for z in ([2.0, 1.0], [2.0, 3.0]):
    ...     person = person.hear("glad", np.array(z))
    >>> person.utterances["glad"].n, person.utterances["glad"].embedding.tolist()
    (2, [2.0, 2.0])
    >>> person.centres(("calm", "glad"), centres).round(2).tolist()  # both move, the one that was heard further
    [[0.29, 0.57], [1.43, 0.86]]
    """

    weights_sha256: str
    """SHA-256 of the trained weights that gave the embeddings: all files exported from them can use the person."""
    utterances: Mapping[str, Heard] = field(default_factory=dict)
    """What was heard, by label."""

    def hear(self, label: str, embedding: FloatArray) -> Person:
        """Return the person after one more utterance, of emotion ``label`` and embedding z [embedding_size]."""
        z = embedding.astype(np.float64)
        before = self.utterances.get(label)
        heard = Heard(1, z) if before is None else Heard(before.n + 1, before.embedding + (z - before.embedding) / (before.n + 1))
        return replace(self, utterances={**self.utterances, label: heard})

    def require(self, weights_sha256: str) -> None:
        """Raise ConfigError unless the model with these weights is the one the person spoke to."""
        if weights_sha256 != self.weights_sha256:
            raise ConfigError(
                f"the profile learnt a person with another model (weights {self.weights_sha256[:12]}…, this model's are "
                f"{weights_sha256[:12]}…); adapt this model to the person anew"
            )

    def centres(self, labels: Sequence[str], centres: FloatArray) -> Float64Array:
        """Return this person's class centres, float64 [n_labels, embedding_size], from the model's ``centres``.

        Every emotion has moved by what all share, plus what is its own. Both are the most probable values (MAP) where moves
        are Gaussian around none: the mean displacement, drawn towards zero as by ``SHARED`` and ``OWN`` more utterances that
        show none. The last step is eq. 4 of the paper, c <- (1 - alpha) c + alpha · mean z, with alpha = n / (n + OWN).

        Raises ConfigError for an emotion that the model has no label for, or embeddings of another length.
        """
        moved = np.array(centres, dtype=np.float64)
        n = np.zeros((len(labels), 1))
        displacement = np.zeros_like(moved)
        for label, heard in self.utterances.items():
            require_label(label, labels)
            if heard.embedding.shape != moved.shape[1:]:
                raise ConfigError(
                    f"person: {label} has {len(heard.embedding)} numbers; the model's embedding has {moved.shape[1]}"
                )
            i = list(labels).index(label)
            n[i], displacement[i] = heard.n, heard.embedding - moved[i]
        weight = n * OWN / (n + OWN)  # an emotion heard often tells little more about what all share
        shared = (weight * displacement).sum(axis=0) / (weight.sum() + SHARED)
        moved += shared + n / (n + OWN) * (displacement - shared)
        return moved


def require_label(label: str, labels: Sequence[str]) -> None:
    """Raise ConfigError unless ``label`` is one of ``labels``."""
    if label not in labels:
        raise ConfigError(f"label is {label!r}{did_you_mean(str(label), labels)}; expected one of {', '.join(labels)}")


def evidence(embedding: FloatArray, centres: FloatArray, moved: Float64Array, novelty_distance: float) -> Float64Array:
    """Return what the move of the centres says for each label, float64 [..., n_labels], to be added to logits / T.

    EVIDENCE · (|z - c|² - |z - c'|²) / novelty_distance²: the log ratio of two Gaussians, one around the person's centre c'
    and one around the model's c, as wide as the model's clips lie around theirs. ``embedding`` is [..., embedding_size].

    >>> centres = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> evidence(np.array([0.5, 0.5]), centres, centres + [0.0, 0.5], novelty_distance=1.0).tolist()
    [0.375, 0.375]
    """
    z = np.asarray(embedding, dtype=np.float64)[..., None, :]
    nearer: Float64Array = np.square(z - centres).sum(axis=-1) - np.square(z - moved).sum(axis=-1)
    return EVIDENCE / novelty_distance**2 * nearer
