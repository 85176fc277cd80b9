"""What calibration to a microphone brings, to speakers and corpora a model was not trained on.

Every clip is judged by itself, tuned by other clips alone: what a device heard before it. It is the runtime's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.errors import CorpusError
from edge_ser.personal.microphone import MIN_SPEECH_S, Encoder, Speech, SpeechStatistics
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import ORDINARY, Clip
from edge_ser_train.corpora.tables import select
from edge_ser_train.evaluate.evaluation import Subject, open_run_or_model

MINUTE_S = 60.0
"""Audio that a calibration hears, in seconds, or what there is."""


def leave_corpus_out(path: Path, data: Path, cache_dir: Path | None) -> list[dict[str, Any]]:
    """Score on every corpus below ``data`` that was not trained on, as :func:`calibration` does on one.

    Raises CorpusError when every corpus was trained on.
    """
    subject = open_run_or_model(path)
    results = []
    for corpus in sorted(p.parent.name for p in data.glob("*/labels.csv")):
        if corpus in subject.training.corpora + subject.training.earlier:
            continue
        heard = subject.training.read(data, corpus)
        if any(c.emotion in subject.labels for c in heard):
            results += _calibrated(subject, heard, "all", cache_dir)
    if not results:
        raise CorpusError(f"{data} holds no corpus that {path} was not trained on; expected one at least to leave out")
    return results


def calibration(path: Path, data: Path, corpus: str, split: str, cache_dir: Path | None) -> list[dict[str, Any]]:
    """Score without and with a calibrated microphone.

    A clip's calibration hears a minute of other clips, without their labels: of the same speaker or of others, ordinary speech
    or every emotion. Where there are not ten seconds of such speech, the clip stays uncalibrated, as it would on a device.
    """
    subject = open_run_or_model(path)
    clips = subject.training.read(data, corpus)
    select(clips, split, subject.labels)  # says what is wrong with the split
    return _calibrated(subject, [c for c in clips if split in ("all", c.split)], split, cache_dir)


def _calibrated(subject: Subject, heard: Sequence[Clip], split: str, cache_dir: Path | None) -> list[dict[str, Any]]:
    from edge_ser_train.method.dataset import default_cache_dir, load_features

    judged = [i for i, c in enumerate(heard) if c.emotion in subject.labels]
    features = load_features(heard, subject.front_end, cache_dir or default_cache_dir())
    clips, inputs = [heard[i] for i in judged], [features[i] for i in judged]
    plain = subject.answer(inputs).probabilities
    results = [subject.score_answers(clips, split, plain) | {"calibration": "none"}]
    encoder = Encoder(subject.front_end, subject.weights_sha256, len(subject.speech_vector), lambda x: subject.encode([x])[0])
    of_clip = [SpeechStatistics(encoder) for _ in heard]
    for statistics, x, encoded in zip(of_clip, features, subject.encode(features), strict=True):
        statistics.add(x, encoded)
    for speech in get_args(Speech):
        for who in ("others", "the speaker"):
            name = f"a minute of {who}, {speech}"
            indexes = progress(judged, f"{heard[0].corpus}, {name}")
            offsets = [_offset(subject, heard, features, of_clip, i, speech, who == "others") for i in indexes]
            shifted = subject.answer(inputs, offsets).probabilities
            results.append(subject.score_change(clips, split, plain, shifted) | {"calibration": name})
    return results


def _offset(
    subject: Subject, clips: Sequence[Clip], features: Sequence[Float32Array], of_clip: Sequence[SpeechStatistics], judged: int,
    speech: Speech, others: bool,
) -> Float32Array:  # fmt: skip
    """Return the offset for clip number ``judged`` through a microphone measured on a minute of other clips."""
    statistics = SpeechStatistics(of_clip[judged].encoder)
    seconds_per_frame = subject.front_end.hop_samples / subject.front_end.rate_hz
    seconds = 0.0
    for i in np.random.default_rng(judged).permutation(len(clips)):
        fits = speech == "mixed" or clips[i].emotion in ORDINARY
        if i == judged or not fits or (clips[i].speaker != clips[judged].speaker) is not others:
            continue
        statistics.include(of_clip[i])
        seconds += len(features[i]) * seconds_per_frame
        if seconds >= MINUTE_S:
            break
    if statistics.vector_s < MIN_SPEECH_S:
        return np.zeros_like(subject.speech_vector)
    return statistics.result(speech).offset(subject.speech_vector, subject.ordinary_vector)
