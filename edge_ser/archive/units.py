"""The work cut into units, and what is done with one: :func:`label_unit`, the same in every engine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_ser._version import __version__
from edge_ser.archive.dataset import Dataset
from edge_ser.archive.listing import Table, text
from edge_ser.archive.storage import Storage
from edge_ser.errors import AudioError, AudioWarning, StorageError, first_line
from edge_ser.frontend.audio import AudioReader
from edge_ser.live.segmenter import SegmenterConfig
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.timeline.formats import timeline

FEWEST_FILES, MOST_FILES = 64, 512
"""Short recordings in a unit."""
MOST_BYTES = 16_000_000
"""No unit is larger, unless it is one recording."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Recordings that are labelled together and become one part."""

    recordings: Table
    """Rows of a :class:`~edge_ser.archive.listing.Listing`."""
    deaths: int = 0
    """How many processes ended while they were at it alone."""

    @property
    def files(self) -> list[bytes]:
        """Their names."""
        names: list[bytes] = self.recordings["file"].to_pylist()
        return names

    def halves(self) -> tuple[Unit, Unit]:
        """Return two units that are this one together."""
        n = self.recordings.num_rows
        return _unit(self.recordings, 0, n // 2), _unit(self.recordings, n // 2, n)


@dataclass(frozen=True)
class Outcome:
    """What was done."""

    n_files: int
    n_bytes: int
    audio_s: float = 0.0
    """Length of the recordings that were answered."""
    n_errors: int = 0


def units(recordings: Table, jobs: int, most_files: int | None = None) -> Iterator[Unit]:
    """Cut a listing, in order, into units: of so many files that every job has several, or ``most_files``."""
    n = recordings.num_rows
    most_files = most_files or min(MOST_FILES, max(FEWEST_FILES, n // (8 * jobs)))
    start = held = 0
    for batch_start in range(0, n, 2**16):
        for i, n_bytes in enumerate(recordings["n_bytes"].slice(batch_start, 2**16).to_pylist(), batch_start):
            if i > start and (i - start == most_files or held + n_bytes > MOST_BYTES):
                yield _unit(recordings, start, i)
                start, held = i, 0
            held += n_bytes
    if n:
        yield _unit(recordings, start, n)


def _unit(recordings: Table, start: int, stop: int) -> Unit:
    return Unit(recordings.take(np.arange(start, stop)))  # a slice would travel with all the rest


@dataclass(frozen=True)
class Labeller:
    """What labels recordings; pickled, it does so in another process."""

    recognizer: EmotionRecognizer
    storage: Storage
    segments: SegmenterConfig | None = None
    """How recordings are cut into utterances; None: they are judged whole."""

    def rows(self, file: bytes) -> tuple[list[dict[str, Any]], float]:
        """Return the rows of one recording, one at least, and its length in seconds, 0 where it cannot be answered.

        StorageError where no recording is to blame.
        """
        try:
            source = self.storage.recording(file)
            return self._whole(source) if self.segments is None else self._utterances(source, self.segments)
        except AudioError as error:
            return [{"error": str(error)}], 0.0
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # one recording in ten million, and all others are to be answered
            return [{"error": f"{type(error).__name__}: {first_line(error)}"}], 0.0

    def _whole(self, source: Any) -> tuple[list[dict[str, Any]], float]:
        answer = self.recognizer.predict(source)
        front_end = self.recognizer.manifest.front_end
        # A frame more than are judged.
        long_s = (front_end.max_frames * front_end.hop_samples + front_end.frame_samples) / front_end.rate_hz
        return [_row(0.0, answer.duration_s, answer.duration_s >= long_s, answer)], answer.duration_s

    def _utterances(self, source: Any, config: SegmenterConfig) -> tuple[list[dict[str, Any]], float]:
        with AudioReader(source) as reader:
            found = timeline(self.recognizer, reader, config)
            rows = [_row(segment.start_s, segment.stop_s, segment.cut, segment.prediction) for segment in found]
            return rows or [{"start_s": 0.0, "stop_s": reader.duration_s, "duration_s": reader.duration_s}], reader.duration_s


def label_unit(labeller: Labeller, unit: Unit, dataset: Dataset) -> Outcome:
    """Label the recordings of a unit and write its part; StorageError or ConfigError where that is not to be done now."""
    warnings.simplefilter("ignore", AudioWarning)  # of millions
    rows: list[dict[str, Any]] = []
    origins: list[int] = []
    audio_s = 0.0
    for i, file in enumerate(unit.files):
        found, length_s = labeller.rows(file)
        rows += found
        origins += [i] * len(found)
        audio_s += length_s
    dataset.write(dataset.part(unit.files), _table(rows, origins, unit, dataset))
    n_errors = sum("error" in row for row in rows)
    return Outcome(len(unit.files), n_bytes(unit), audio_s, n_errors)


def write_error(unit: Unit, error: str, dataset: Dataset) -> Outcome:
    """Write the part of a unit of one recording that has no answer."""
    dataset.write(dataset.part(unit.files), _table([{"error": f"{os.fsdecode(unit.files[0])}: {error}"}], [0], unit, dataset))
    return Outcome(1, n_bytes(unit), n_errors=1)


def n_bytes(unit: Unit) -> int:
    """Return the size of a unit's recordings."""
    return sum(unit.recordings["n_bytes"].to_pylist())


def _row(start_s: float, stop_s: float, cut: bool, answer: Prediction) -> dict[str, Any]:
    return {
        "start_s": start_s,
        "stop_s": stop_s,
        "duration_s": answer.duration_s,
        "label": answer.label,
        "confidence": answer.confidence,
        "probabilities": answer.probabilities,
        "embedding": answer.embedding,
        "speech": answer.speech,
        "cut": cut,
    }


def _table(rows: list[dict[str, Any]], origins: list[int], unit: Unit, dataset: Dataset) -> Any:
    """Return the rows as ``pyarrow.Table``; ``origins`` says of which recording each of them is."""
    import pyarrow as pa

    terms = dataset.terms
    same = {"model_sha256": terms.model_sha256, "edge_ser_version": __version__, "settings": terms.settings}
    # Lists, because to take rows of a table costs a process 13 MB, once. Python has no room for every value of carried columns.
    listed = {
        "file": list(map(text, unit.files)),
        # As numbers: a datetime takes longer to make than all other values of a row.
        "modified": unit.recordings["modified"].combine_chunks().view(pa.int64()).to_pylist(),
    }

    def column(field: Any) -> Any:
        name = field.name
        if name in terms.carried.names:
            return unit.recordings[name].combine_chunks().take(pa.array(origins, pa.int64()))
        if name in same:
            values: list[Any] = [same[name]] * len(rows)
        else:
            values = [listed[name][i] for i in origins] if name in listed else [row.get(name) for row in rows]
        if name == "error":  # it may hold a name
            values = [None if value is None else text(os.fsencode(value)) for value in values]
        return pa.array(values, field.type)

    schema = terms.schema()
    return pa.table([column(field) for field in schema], schema=schema)
