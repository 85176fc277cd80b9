"""What a labelled archive holds, in numbers: by label, by kind of error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_ser.archive.dataset import batches
from edge_ser.prediction import NO_SPEECH

_KINDS_SHOWN = 10


@dataclass
class Summary:
    """Rows of a labelled archive, counted."""

    rows: Counter[str] = field(default_factory=Counter)
    """Answers by label."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Their length by label."""
    errors: Counter[str] = field(default_factory=Counter)
    """Recordings that could not be answered, by :func:`kind_of`."""
    where: dict[str, str] = field(default_factory=dict)
    """One of them by kind."""
    n_without_speech: int = 0
    """Recordings in which nobody speaks, and sounds answered `no_speech`."""


def summarise(path: Path) -> Summary:
    """Count the dataset in the folder ``path``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    summary = Summary()
    for batch in batches(path, ["file", "label", "duration_s", "error"]):
        rows = pa.Table.from_batches([batch])
        answered = rows.filter(pc.fill_null(pc.not_equal(rows["label"], NO_SPEECH), False))
        counts = answered.group_by("label").aggregate([("duration_s", "sum"), ("duration_s", "count")])
        for found in counts.to_pylist():
            label = found["label"]
            summary.rows[label] += found["duration_s_count"]
            summary.seconds[label] = summary.seconds.get(label, 0.0) + found["duration_s_sum"]
        failed = rows.filter(rows["error"].is_valid())
        for file, error in zip(failed["file"].to_pylist(), failed["error"].to_pylist(), strict=True):
            kind = kind_of(error, file)
            summary.errors[kind] += 1
            summary.where.setdefault(kind, file)
        silent = pc.and_(pc.fill_null(pc.equal(rows["label"], NO_SPEECH), True), rows["error"].is_null())
        summary.n_without_speech += pc.sum(silent).as_py() or 0
    return summary


def kind_of(error: str, file: str) -> str:
    """Return an error without what is of one recording alone.

    >>> kind_of("/a/b.wav is truncated: its header announces 3.20 s, only 1.00 s can be decoded", "/a/b.wav")
    'is truncated: its header announces … s, only … s can be decoded'
    >>> kind_of("cannot open /a/b.wav: No such file or directory; expected an audio file", "/a/b.wav")
    'cannot open: No such file or directory'
    """
    bare = error.removeprefix(file).lstrip(": ").replace(f" {file}", "")
    return re.sub(r"\d+(\.\d+)?", "…", bare).partition(";")[0]


def _printable(line: str) -> str:
    r"""Return a line with what is not printable escaped: a name may hold the end of a line, or move a terminal's cursor.

    >>> _printable("a\nb.wav")
    'a\\nb.wav'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def lines(summary: Summary) -> Iterator[str]:
    """Yield the summary as the command line prints it."""
    total = sum(summary.rows.values())
    if total:
        yield f"{'label':<12}{'answers':>12}{'share':>8}{'minutes':>12}"
    for label, n in summary.rows.most_common():
        yield f"{label:<12}{n:>12,}{n / total:>8.1%}{summary.seconds[label] / 60:>12,.1f}"
    if summary.n_without_speech:
        yield f"without speech: {summary.n_without_speech:,}"
    kinds = summary.errors.most_common()
    for kind, n in kinds[:_KINDS_SHOWN]:
        yield _printable(f"error, {n:,}: {kind} (such as {summary.where[kind]})")
    if len(kinds) > _KINDS_SHOWN:
        yield f"error, {sum(n for _, n in kinds[_KINDS_SHOWN:]):,} of {len(kinds) - _KINDS_SHOWN} other kinds"
