"""What a run is about: the recordings, the dataset, what is left to do, and how long that would take."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_ser.archive.dataset import Dataset, Terms
from edge_ser.archive.listing import OWN_COLUMNS, Listing, Table, texts
from edge_ser.archive.units import Labeller
from edge_ser.errors import AudioWarning
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
        listed: Listing,
        output: Path,
        recognizer: EmotionRecognizer,
        segments: SegmenterConfig | None = None,
        profile: Path | None = None,
    ) -> Plan:
        """Plan rows of what is ``listed`` in the folder ``output``; ConfigError where they cannot be put there."""
        import pyarrow as pa

        settings = {
            "segments": segments is not None,
            "min_confidence": recognizer.min_confidence,
            "min_speech": recognizer.min_speech,
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


def cpu_seconds(plan: Plan, left: Table) -> tuple[float, int] | None:
    """Return how long one CPU would take for the recordings ``left``, and on how many of them that was measured.

    It is measured in a process of its own, as the work is done; None where a recording ended that.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    import pyarrow.compute as pc

    n = left.num_rows
    sample = left.take(sorted({i * n // _SAMPLE for i in range(_SAMPLE)}))
    files, sizes = sample["file"].to_pylist(), sample["n_bytes"].to_pylist()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            seconds, measured = pool.submit(_measured, plan.labeller, files).result()
        except BrokenProcessPool:
            return None
    total = pc.sum(left["n_bytes"]).as_py() + n * _FILE_BYTES
    return seconds * total / (sum(sizes[:measured]) + measured * _FILE_BYTES), measured


def _measured(labeller: Labeller, files: Sequence[bytes]) -> tuple[float, int]:
    """Return the time for the first of ``files``, in seconds, and how many of them that was enough for."""
    warnings.simplefilter("ignore", AudioWarning)
    labeller.rows(files[0])  # what is loaded with the first is no matter of the others
    started, measured = time.perf_counter(), 0
    while measured < len(files) and time.perf_counter() - started <= _SAMPLE_S:
        labeller.rows(files[measured])
        measured += 1
    return time.perf_counter() - started, measured
