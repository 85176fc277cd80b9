"""What the report shows, counted in one pass over a labelled archive, however large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.archive.dataset import batches
from edge_ser.arrays import Float64Array
from edge_ser.prediction import NO_SPEECH

LISTENED = 20
"""Recordings to listen to."""
N_BINS = 20
"""Of the confidence."""
_N_TIMES = 48

_COLUMNS = ("file", "start_s", "stop_s", "duration_s", "label", "confidence", "modified")


@dataclass
class Counts:
    """Seconds of answers by label, and where they are."""

    edges: list[datetime] = field(default_factory=list)
    """Of equal stretches of time; empty where all recordings are of one moment, or of none."""
    by_time: dict[str, Float64Array] = field(default_factory=dict)
    """By label, [stretch]: when the recordings were last changed."""
    by_place: dict[str, Float64Array] = field(default_factory=dict)
    """By label, [minute]: where in its recording an answer begins."""
    by_folder: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    """By folder and label."""
    by_confidence: Float64Array = field(default_factory=lambda: np.zeros(N_BINS))
    """Answers, [bin]."""
    unsure: list[dict[str, Any]] = field(default_factory=list)
    """The rows of the least certain answers."""


def count(path: Path) -> Counts:
    """Count the dataset in the folder ``path``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts = Counts(_edges(path))
    unsure = None
    for batch in batches(path, list(_COLUMNS)):
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pc.fill_null(pc.not_equal(rows["label"], NO_SPEECH), False))
        if rows.num_rows == 0:
            continue
        folders = pc.replace_substring_regex(rows["file"], "/[^/]*$", "")
        groups = pa.table([folders, rows["label"], rows["duration_s"]], ["folder", "label", "s"])
        for group in groups.group_by(["folder", "label"]).aggregate([("s", "sum")]).to_pylist():
            counts.by_folder[group["folder"]][group["label"]] += group["s_sum"]
        counts.by_confidence += np.histogram(rows["confidence"].to_numpy(), N_BINS, (0, 1))[0]
        for label, these in _by_label(rows):
            seconds = these["duration_s"].to_numpy()
            _add(counts.by_place, label, (these["start_s"].to_numpy() // 60).astype(int), seconds)
            if counts.edges:
                known = these.filter(these["modified"].is_valid())
                at = np.searchsorted([e.timestamp() for e in counts.edges], _timestamps(known), side="right") - 1
                _add(counts.by_time, label, at.clip(0, _N_TIMES - 1), known["duration_s"].to_numpy())
        unsure = _least_certain(unsure, rows)
    counts.unsure = [] if unsure is None else unsure.to_pylist()
    return counts


def _edges(path: Path) -> list[datetime]:
    import pyarrow.compute as pc

    found = [pc.min_max(batch["modified"]).as_py() for batch in batches(path, ["modified"])]
    firsts, lasts = ([times[name] for times in found if times[name] is not None] for name in ("min", "max"))
    if not firsts or min(firsts) == max(lasts):
        return []
    step = (max(lasts) - min(firsts)) / _N_TIMES
    return [min(firsts) + i * step for i in range(_N_TIMES + 1)]


def _timestamps(rows: Any) -> Float64Array:
    import pyarrow as pa

    seconds: Float64Array = rows["modified"].cast(pa.int64()).to_numpy() / 1e6
    return seconds


def _by_label(rows: Any) -> Iterator[tuple[str, Any]]:
    import pyarrow.compute as pc

    for label in pc.unique(rows["label"]).to_pylist():
        yield label, rows.filter(pc.equal(rows["label"], label))


def _add(bins: dict[str, Float64Array], label: str, at: Any, seconds: Float64Array) -> None:
    sums = np.bincount(at, seconds)
    known = bins.get(label, np.zeros(0))
    total = np.zeros(max(len(known), len(sums)))
    total[: len(known)] += known
    total[: len(sums)] += sums
    bins[label] = total


def _least_certain(best: Any, rows: Any) -> Any:
    """Return the least certain rows of both tables."""
    import pyarrow as pa
    import pyarrow.compute as pc

    both = rows if best is None else pa.concat_tables([best, rows])
    return both.take(pc.select_k_unstable(both, LISTENED, [("confidence", "ascending")]))
