"""How much sound without speech is answered `no_speech`, and how much speech."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Float32Array, Float64Array
from edge_ser.engines.statistics import statistics_of_vectors
from edge_ser.errors import AudioWarning
from edge_ser.frontend.features import extract
from edge_ser.model.manifest import FLOAT_STEP
from edge_ser.prediction import speech_probability
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import progress
from edge_ser_train.corpora.tables import select
from edge_ser_train.evaluate.conditions import RATE_HZ, command, random_of
from edge_ser_train.evaluate.evaluation import open_run_or_model
from edge_ser_train.evaluate.nonspeech import SOUNDS, made_sounds
from edge_ser_train.evaluate.robustness import samples_of
from edge_ser_train.metrics import area_under_roc


def rejection(path: Path, data: Path, corpus: str, split: str) -> list[dict[str, Any]]:
    """Return what is answered `no_speech`, and how well the probability of speech parts sound from these clips.

    A row each for the clips as recorded and as commands; for every kind of made sound and all of them; and for every other
    corpus below ``data``, whatever is felt in it.
    """
    subject, recognizer = open_run_or_model(path), None if path.is_dir() else EmotionRecognizer(path)

    def measured(name: str, sounds: list[Float32Array]) -> Float64Array:
        """Return the probability of speech of each sound."""
        if recognizer is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AudioWarning)  # they are made to be quiet
                return np.array([recognizer.predict((x, RATE_HZ)).speech for x in progress(sounds, name)])
        vectors = subject.encode([extract(x, subject.front_end) for x in progress(sounds, name)])
        return np.array([speech_probability(statistics_of_vectors(v, FLOAT_STEP), subject.speech, FLOAT_STEP) for v in vectors])

    def row(name: str, p: Float64Array) -> dict[str, Any]:
        no_speech = float(np.mean(p < subject.speech["threshold"]))
        return {"corpus": corpus, "split": split, "sound": name, "n": len(p), "no_speech": no_speech}

    clips = select(subject.training.read(data, corpus), split, subject.labels)
    recorded = [samples_of(clip, RATE_HZ) for clip in clips]
    known = measured(f"{corpus} {split}", recorded)
    short = measured("commands", [command(x, random_of(c.key)) for x, c in zip(recorded, clips, strict=True)])
    made = {kind: measured(kind, made_sounds(kind)) for kind in SOUNDS}
    rows = [row("speech as recorded", known), row("speech as commands", short)]
    for kind, p in (*made.items(), ("all of these sounds", np.concatenate(list(made.values())))):
        rows.append(row(kind, p) | {"auc": area_under_roc(-p, -known)})
    others = sorted(folder.name for folder in data.iterdir() if (folder / "labels.csv").is_file() and folder.name != corpus)
    for name in others:
        spoken = [samples_of(clip, RATE_HZ) for clip in subject.training.read(data, name)]
        rows.append(row(f"speech of {name}", measured(name, spoken)))
    return rows


def format_rejection(rows: list[dict[str, Any]]) -> str:
    """Return what :func:`rejection` found as a table."""
    lines = [f"{'':<24} {'n':>5}  {'no_speech':>9}  area under the ROC curve"]
    for row in rows:
        area = f"{row['auc']:>24.1%}" if "auc" in row else ""
        lines.append(f"{row['sound']:<24} {row['n']:>5}  {row['no_speech']:>9.1%}  {area}".rstrip())
    return "\n".join(lines)
