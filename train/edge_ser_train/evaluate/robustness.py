"""Scores of the same clips under every condition, of a training run or of an exported file through the runtime."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Float32Array, Float64Array
from edge_ser.errors import AudioError, AudioWarning, CorpusError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import extract
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.tables import select
from edge_ser_train.evaluate.conditions import AS_RECORDED, under_conditions
from edge_ser_train.evaluate.evaluation import open_run_or_model


def robustness(path: Path, data: Path, corpus: str, split: str) -> list[dict[str, Any]]:
    """Score the same clips under every condition of :mod:`edge_ser_train.evaluate.conditions`, applied to the samples.

    A run answers in torch, a model file through the runtime, samples to answer. Babble is made of clips of the training part.
    """
    subject, recognizer = open_run_or_model(path), None if path.is_dir() else EmotionRecognizer(path)
    rate_hz = subject.front_end.rate_hz
    corpus_clips = subject.training.read(data, corpus)
    clips = select(corpus_clips, split, subject.labels)
    voices = _voices([c for c in corpus_clips if c.split == "train"] or corpus_clips, rate_hz)
    answers: dict[str, list[Float64Array]] = defaultdict(list)
    for clip in progress(clips, f"{corpus} {split}"):
        others = [voice for key, voice in voices.items() if key != clip.key] or list(voices.values())
        heard = under_conditions(samples_of(clip, rate_hz), clip.key, others)
        if recognizer is None:
            found = subject.answer([extract(samples, subject.front_end) for samples in heard.values()]).probabilities
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AudioWarning)  # they are made to be quiet
                predictions = [recognizer.predict((samples, rate_hz)) for samples in heard.values()]
            found = np.array([list(prediction.probabilities.values()) for prediction in predictions])
        for name, of in zip(heard, found, strict=True):
            answers[name].append(of)
    changed = {name: np.stack(of) for name, of in answers.items()}
    recorded = changed.pop(AS_RECORDED)
    return [
        subject.score_answers(clips, split, recorded) | {"condition": AS_RECORDED},
        *(subject.score_change(clips, split, recorded, after) | {"condition": name} for name, after in changed.items()),
    ]


def _voices(clips: Sequence[Clip], rate_hz: int) -> dict[str, Float32Array]:
    """Return the samples of up to 100 clips by key, always the same of the same clips."""
    chosen = np.random.default_rng(0).permutation(len(clips))[:100]
    return {clips[i].key: samples_of(clips[i], rate_hz) for i in chosen}


def samples_of(clip: Clip, rate_hz: int) -> Float32Array:
    """Return a clip's samples [n]; CorpusError where they cannot be read."""
    try:
        with AudioReader(clip.path, rate_hz) as reader:
            return reader.samples()
    except AudioError as error:
        raise CorpusError(f"{clip.corpus}: {error}") from None
