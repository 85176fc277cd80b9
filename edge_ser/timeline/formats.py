"""A long recording as a timeline: its utterances, how each of them sounds, and the ways to write that down.

    AudioReader (blocks of 10 s) -> utterances -> predict -> Segment ...

One utterance and one block are in memory at a time, whatever the length of the recording.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.frontend.audio import AudioReader
from edge_ser.live.segmenter import RATE_HZ, SegmenterConfig, SpeechDetector, utterances
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer


@dataclass(frozen=True)
class Segment:
    """One utterance of a recording."""

    start_s: float
    """Where it begins, in seconds from the beginning of the recording."""
    stop_s: float
    """Where it ends."""
    cut: bool
    """Whether it was cut at the longest length and the speech goes on in the next one."""
    prediction: Prediction
    """How it sounds: what ``predict`` answers for its samples alone."""


def timeline(
    recognizer: EmotionRecognizer,
    reader: AudioReader,
    config: SegmenterConfig | None = None,
    heard: Callable[[Float32Array], None] = lambda block: None,
    detector: SpeechDetector | None = None,
) -> Iterator[Segment]:
    """Yield the utterances of an open recording in order; ``heard`` gets its samples on the way, block by block.

    AudioError when the recording turns out to be damaged.
    """

    def blocks() -> Iterator[Float32Array]:
        for block in reader.blocks():
            heard(block)
            yield block

    for utterance in utterances(blocks(), RATE_HZ, config, detector):
        yield Segment(utterance.start_s, utterance.stop_s, utterance.is_cut, recognizer.predict(utterance.audio))


class Envelope:
    """The lowest and the highest sample in each of ``n_bins`` equal parts of ``n_samples`` samples that come in blocks.

    >>> envelope = Envelope(8, n_bins=2)
    >>> for block in (np.float32([0, 1, -2]), np.float32([0, 3, 0, -4, 0])):
    ...     envelope.add(block)
    >>> envelope.low.tolist(), envelope.high.tolist()
    ([-2.0, -4.0], [1.0, 3.0])
    """

    def __init__(self, n_samples: int, n_bins: int = 2000) -> None:
        n_bins = min(n_bins, n_samples)
        self.low = np.zeros(n_bins, dtype=np.float32)
        self.high = np.zeros(n_bins, dtype=np.float32)
        self._n_samples, self._position = n_samples, 0

    def add(self, block: Float32Array) -> None:
        """Take the next samples."""
        if len(block):
            bins = np.arange(self._position, self._position + len(block)) * len(self.low) // self._n_samples
            firsts = np.flatnonzero(np.diff(bins, prepend=-1))
            into = bins[firsts]
            self.low[into] = np.minimum(self.low[into], np.minimum.reduceat(block, firsts))
            self.high[into] = np.maximum(self.high[into], np.maximum.reduceat(block, firsts))
            self._position += len(block)


def jsonl(name: str, segments: Iterable[Segment]) -> str:
    """Return one JSON object a line: file, start_s, stop_s, cut, and the keys of `predict --json`."""
    records = ({"file": name, **_span(s), **s.prediction.record()} for s in segments)
    return "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)


def csv_rows(name: str, segments: Iterable[Segment]) -> str:
    """Return one line of comma-separated values a segment, without a header; see :func:`csv_header`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for segment in segments:
        record = segment.prediction.record()
        shares = record.pop("probabilities").values()
        values = [name, *_span(segment).values(), *record.values(), *shares]
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in values])
    return out.getvalue()


def csv_header(labels: Iterable[str]) -> str:
    """Return the header of :func:`csv_rows`."""
    return ",".join(["file", "start_s", "stop_s", "cut", "label", "confidence", "speech", "duration_s", *labels]) + "\n"


def audacity(name: str, segments: Iterable[Segment]) -> str:
    """Return an Audacity label track: start, end and text, tabs between (File > Import > Labels)."""
    return "".join(f"{s.start_s:.6f}\t{s.stop_s:.6f}\t{s.prediction.label} {s.prediction.confidence:.0%}\n" for s in segments)


def rttm(name: str, segments: Iterable[Segment]) -> str:
    """Return NIST's Rich Transcription Time Marks, the emotion in the place of the speaker's name.

    The recording is known by its name without folder and ending, as these files want it; blanks become underscores.
    """
    known = "_".join(PurePath(name).stem.split()) or "audio"
    return "".join(
        f"SPEAKER {known} 1 {s.start_s:.3f} {s.stop_s - s.start_s:.3f} <NA> <NA> {'_'.join(s.prediction.label.split())} "
        f"{s.prediction.confidence:.3f} <NA>\n"
        for s in segments
    )


def _span(segment: Segment) -> dict[str, Any]:
    return {"start_s": round(segment.start_s, 6), "stop_s": round(segment.stop_s, 6), "cut": segment.cut}
