"""A person: utterances of theirs, each with the label they gave it, as a model's encoder, embedding and logits saw them.

    encoder vectors of an utterance -> mean and standard deviation over time, in whole units -> Heard -> Person, in a profile
    Person + what the model file states -> edge_ser.personal.correction: what to add to the network's logits

Everything is kept in integers, so that a profile read back is the profile written and every target learns and answers alike.
No audio is kept, and none can be made of it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import AnyArray, Float64Array, Int32Array, UInt16Array
from edge_ser.errors import ConfigError

SHARED = 4.0
"""Utterances of a person that weigh as much as the assumption that all their emotions lie where the model has them."""
OWN = 8.0
"""Utterances of an emotion that weigh as much as the assumption that it moves as the person's other emotions do."""
EVIDENCE = 1.5
"""How much the move of a centre counts, in natural logarithms a mean squared distance of the model's centres from their middle.

These three were chosen on CREMA-D's dev actors, as recorded and through simulated microphones; any near them do as well."""

MAX_UTTERANCES = 400
"""A person's utterances, at most: more would make learning slow, and 40 tell nearly as much."""
MAX_LABELS = 16
"""Labels of a person, the model's included: as many as the C library has room for."""
MAX_LABEL = 40
"""Characters of a label."""
Q16 = 65536
"""Embedding and logits are kept in 1/65536, as the C library has them."""
_LIMIT = 2**29


@dataclass(frozen=True, eq=False)
class Heard:
    """One utterance."""

    label: str
    """What its speaker says it was."""
    statistics: UInt16Array
    """Mean and standard deviation over time of every number of the encoder vectors, in the model's steps, [2 · encoder_size]."""
    embedding: Int32Array
    """z in 1/65536, [embedding_size]."""
    logits: Int32Array
    """The network's, in 1/65536, [n_labels of the model]."""

    def __post_init__(self) -> None:
        require_word(self.label)
        if min(self.embedding.min(initial=0), self.logits.min(initial=0)) < -_LIMIT or (
            max(self.embedding.max(initial=0), self.logits.max(initial=0)) > _LIMIT
        ):
            raise ConfigError(f"person: an utterance of {self.label!r} has numbers beyond any model's; the file was edited")

    def same(self, other: Heard) -> bool:
        """Return whether it is the same utterance with the same label."""
        return (
            self.label == other.label
            and np.array_equal(self.statistics, other.statistics)
            and np.array_equal(self.embedding, other.embedding)
            and np.array_equal(self.logits, other.logits)
        )


def require_word(label: object) -> None:
    """Raise ConfigError unless ``label`` is a word that answers can be named by.

    >>> require_word("tired")
    """
    if not isinstance(label, str) or not label.strip() or label != label.strip() or not label.isprintable():
        raise ConfigError(f"label is {label!a:.60}; expected a word, such as happy or tired")
    if len(label) > MAX_LABEL or _folded(label) in ("uncertain", "no_speech"):
        raise ConfigError(
            f"label is {label[:MAX_LABEL]!r}; expected at most {MAX_LABEL} characters, not the answer uncertain or no_speech"
        )


def word_meant(label: object, known: Iterable[str]) -> str:
    """Return the one of ``known`` that ``label`` differs from by case and surrounding blanks alone, or the word itself.

    Raises ConfigError for what is no word.

    >>> word_meant(" Happy", ["sad", "happy"]), word_meant("tired ", ["sad", "happy"])
    ('happy', 'tired')
    """
    word = label.strip() if isinstance(label, str) else label
    require_word(word)
    assert isinstance(word, str)
    return next((other for other in known if _folded(other) == _folded(word)), word)


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()


@dataclass(frozen=True, eq=False)
class Person:
    """How a person sounds to one model; grows by :meth:`hear`, never changes in place.

    >>> person = Person("the model's weights")
    >>> heard = Heard("glad", np.zeros(960, np.uint16), np.zeros(64, np.int32), np.zeros(4, np.int32))
    >>> person.hear(heard).hear(heard).counts
    {'glad': 2}
    """

    weights_sha256: str
    """SHA-256 of the trained weights that heard them: all files exported from those can use the person."""
    utterances: tuple[Heard, ...] = ()
    """In the order they came."""
    only: bool = False
    """Whether answers are given among the labels that were heard alone, instead of the model's and those."""

    def __post_init__(self) -> None:
        if len(self.utterances) > MAX_UTTERANCES:
            raise ConfigError(
                f"the profile would hold {len(self.utterances)} utterances of the person; expected at most {MAX_UTTERANCES}: "
                "take some back with edge-ser adapt --forget"
            )
        if len(self.counts) > MAX_LABELS:
            raise ConfigError(f"the profile would hold {len(self.counts)} labels; expected at most {MAX_LABELS}")
        sizes = {(len(h.statistics), len(h.embedding), len(h.logits)) for h in self.utterances}
        if len(sizes) > 1:
            raise ConfigError("person: its utterances differ in length; the file was edited")

    @property
    def counts(self) -> dict[str, int]:
        """How many utterances of every label there are, in the order they came."""
        return dict(Counter(h.label for h in self.utterances))

    def hear(self, *heard: Heard) -> Person:
        """Return the person after some more utterances."""
        return replace(self, utterances=(*self.utterances, *heard))

    def merge(self, other: Person) -> Person:
        """Return the person with another profile's utterances of theirs; those known already come once, by the labels here."""
        other.require(self.weights_sha256)
        renamed = [replace(h, label=word_meant(h.label, self.counts)) for h in other.utterances]
        return self.hear(*(h for h in renamed if not any(h.same(known) for known in self.utterances)))

    def forget(self, number: int) -> Person:
        """Return the person without utterance ``number``, counted from 1."""
        if not 1 <= number <= len(self.utterances):
            raise ConfigError(f"there is no utterance {number}; expected 1 to {len(self.utterances)}, as --show lists them")
        return replace(self, utterances=self.utterances[: number - 1] + self.utterances[number:])

    def require(self, weights_sha256: str) -> None:
        """Raise ConfigError unless the model with these weights is the one the person spoke to."""
        if weights_sha256 != self.weights_sha256:
            raise ConfigError(
                f"the profile learnt a person with another model (weights {self.weights_sha256[:12]}…, this model's are "
                f"{weights_sha256[:12]}…); adapt this model to the person anew"
            )

    def labels(self, known: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of this person's answers: those the model knows, and words of their own.

        A word of one's own is answered once a second label was heard, for there is nothing to tell it from before.
        """
        counts = self.counts
        if len(counts) < 2:
            return tuple(known)
        own = tuple(label for label in counts if label not in known)
        found = (*(label for label in known if not self.only or label in counts), *own)
        if len(found) > MAX_LABELS:
            raise ConfigError(f"the model and the person have {len(found)} labels; expected at most {MAX_LABELS}")
        return found


def moved_centres(
    labels: Sequence[str], centres: npt.NDArray[np.floating], of: Mapping[str, tuple[float, AnyArray]]
) -> Float64Array:
    """Return a person's class centres, float64 [n_labels, embedding_size], from the model's ``centres``.

    ``of`` has the number of utterances and their mean z by label; labels the model does not have move nothing. Every emotion
    has moved by what all share, plus what is its own. Both are the most probable values (MAP) where moves are Gaussian around
    none: the mean displacement, drawn towards zero as by ``SHARED`` and ``OWN`` more utterances that show none. The last step is
    eq. 4 of Dai et al., ICASSP 2019, c <- (1 - alpha) c + alpha · mean z, with alpha = n / (n + OWN).

    >>> centres = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> moved_centres(("calm", "glad"), centres, {"glad": (2, np.array([2.0, 2.0]))}).round(2).tolist()
    [[0.29, 0.57], [1.43, 0.86]]
    """
    moved = np.array(centres, dtype=np.float64)
    n = np.zeros((len(labels), 1))
    displacement = np.zeros_like(moved)
    for i, label in enumerate(labels):
        if label in of:
            n[i], displacement[i] = of[label][0], of[label][1] - moved[i]
    weight = n * OWN / (n + OWN)  # an emotion heard often tells little more about what all share
    shared = (weight * displacement).sum(axis=0) / (weight.sum() + SHARED)
    moved += shared + n / (n + OWN) * (displacement - shared)
    return moved
