"""What a run is about: the recordings, the dataset, what is left to do, and how long that would take."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_ser.archive.dataset import Dataset, Terms
from edge_ser.archive.listing import OWN_COLUMNS, Listing, Table, listing, texts
from edge_ser.archive.units import Labeller
from edge_ser.live.segmenter import SegmenterConfig
from edge_ser.processes import cores
from edge_ser.recognizer import EmotionRecognizer

_SAMPLE, _SAMPLE_S = 24, 10.0
_FILE_BYTES = 20_000  # what a recording costs beyond its length, in bytes of it


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the work."""

    listed: Listing
    labeller: Labeller
    dataset: Dataset

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        output: Path,
        recognizer: EmotionRecognizer,
        segments: SegmenterConfig | None = None,
        profile: Path | None = None,
    ) -> Plan:
        """List what ``names`` lead to, for rows in the folder ``output``; ConfigError where they cannot be put there."""
        import pyarrow as pa

        listed = listing(names)
        settings = {
            "segments": segments is not None,
            "min_confidence": recognizer.min_confidence,
            "profile_sha256": None if profile is None else hashlib.sha256(profile.read_bytes()).hexdigest(),
            **({} if segments is None else asdict(segments)),
        }
        carried = pa.schema([field for field in listed.recordings.schema if field.name not in OWN_COLUMNS])
        terms = Terms(recognizer.model_sha256, json.dumps(settings), recognizer.labels, carried)
        terms.schema()
        dataset = Dataset(output, terms)
        dataset.require()
        return cls(listed, Labeller(recognizer, listed.storage, segments), dataset)

    def left(self) -> Table:
        """Return the recordings that have no rows yet."""
        import pyarrow.compute as pc

        every = self.listed.recordings
        done = self.dataset.finished()
        if not len(done):
            return every
        return every.filter(pc.invert(pc.is_in(texts(every["file"].combine_chunks()), value_set=done)))


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return cores()


def cpu_seconds(plan: Plan, left: Table) -> tuple[float, int]:
    """Return how long one CPU would take for the recordings ``left``, and on how many of them that was measured."""
    import pyarrow.compute as pc

    n = left.num_rows
    sample = left.take(sorted({i * n // _SAMPLE for i in range(_SAMPLE)})).to_pylist()
    plan.labeller.rows(sample[0]["file"])  # what is loaded with the first is no matter of the others
    started, weight, measured = time.perf_counter(), 0, 0
    for recording in sample:
        plan.labeller.rows(recording["file"])
        weight += recording["n_bytes"] + _FILE_BYTES
        measured += 1
        if time.perf_counter() - started > _SAMPLE_S:
            break
    total = pc.sum(left["n_bytes"]).as_py() + n * _FILE_BYTES
    return (time.perf_counter() - started) * total / weight, measured
