"""A recording of a corpus, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edge_ser.arrays import Int64Array
from edge_ser.errors import CorpusError

PARTS = ("train", "dev", "test")
ORDINARY = ("neutral", "calm")
"""Emotions whose clips stand for ordinary speech."""


@dataclass(frozen=True)
class Clip:
    """One recording of a corpus."""

    corpus: str
    """Name of the corpus, also its folder's name."""
    path: Path
    """The audio file."""
    speaker: str
    """Who speaks; splits and intervals go by it."""
    emotion: str
    """The corpus' label."""
    split: str
    """``train``, ``dev``, ``test``, or empty where the corpus fixes none."""
    name: str = ""
    """Path below the corpus' folder, with forward slashes."""
    fold: str = ""
    """Published fold, where there is one."""
    gender: str = ""
    """``female``, ``male`` or empty."""
    session: str = ""
    """Recording session, where speakers come in pairs (IEMOCAP)."""
    dialogue: str = ""
    """Conversation the clip was cut from."""
    scenario: str = ""
    """``improvised``, ``scripted`` or empty."""
    text: str = ""
    """Name of the sentence that is said, or empty."""

    @property
    def key(self) -> str:
        """What the clip is called in split files: corpus and name."""
        return f"{self.corpus}/{self.name}"


Report: TypeAlias = Callable[[str], object]
"""Takes one line on something wrong in a corpus: :func:`refuse` stops there, a check collects."""


def refuse(problem: str) -> None:
    """Raise CorpusError."""
    raise CorpusError(problem) from None


NO_CLASS = -1
"""In place of a class' number, for what none is right for."""


def class_numbers(clips: Sequence[Clip], labels: Sequence[str]) -> Int64Array:
    """Return each clip's class, int64 [n]."""
    return np.array([labels.index(c.emotion) for c in clips], dtype=np.int64)
