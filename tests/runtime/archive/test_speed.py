"""A hundred thousand recordings, and what the work around the model costs."""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("pyarrow")

from edge_ser import EmotionRecognizer
from edge_ser.archive.listing import listing
from edge_ser.archive.plan import Plan
from edge_ser.archive.pool import LocalPool
from edge_ser.archive.run import run
from edge_ser.archive.units import units
from edge_ser.frontend.audio import recordings_below
from tests.commanding import COMMAND, ending
from tests.runtime.archive.conftest import label

N_CONTENTS = 50


@pytest.fixture(scope="module")
def make_tiny(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Callable[[int], Path]:
    """A function that makes a folder of ``n`` recordings of half a second, a thousand a folder, of fifty contents."""
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    def make(n: int) -> Path:
        top = tmp_path_factory.mktemp("tiny")
        for i in range(N_CONTENTS):
            soundfile.write(top / f"{i}.content", samples[1000 * i :][: rate_hz // 2], rate_hz, format="WAV")
        for i in range(n):
            folder = top / f"{i // 1000:03}"
            if i % 1000 == 0:
                folder.mkdir()
            os.link(top / f"{i % N_CONTENTS}.content", folder / f"{i:06}.wav")
        return top

    return make


@pytest.mark.slow
def test_twenty_thousand_recordings(make_tiny: Callable[[int], Path], tmp_path: Path) -> None:
    from pyarrow import parquet

    top, out = make_tiny(20_000), tmp_path / "out"
    process = subprocess.Popen([*COMMAND, "label", str(top), "-o", str(out), "--jobs", "2"], stderr=subprocess.DEVNULL)
    with ending(process):
        while len(list(out.glob("*.parquet"))) < 10 and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    done = label(top, "-o", out, "--jobs", 2)
    again = re.search(r"labelled ([\d,]+) of ([\d,]+) files", done.stderr)
    assert again is not None
    assert again[1] == again[2] != "20,000"
    rows = parquet.read_table(out, columns=["file", "label", "confidence", "error"]).to_pylist()
    assert sorted(row["file"] for row in rows) == sorted(map(str, recordings_below(top)))
    recognizer = EmotionRecognizer()
    answers = [recognizer.predict((top / f"{i}.content").read_bytes()) for i in range(N_CONTENTS)]
    for row in rows:
        answer = answers[int(Path(row["file"]).stem) % N_CONTENTS]
        assert (row["error"], row["label"], row["confidence"]) == (None, answer.label, answer.confidence)


def median_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the median of the second over the first: what another program takes meanwhile moves few pairs, or both sides."""
    return statistics.median(second / first for first, second in pairs)


@pytest.mark.timing
def test_a_hundred_thousand_recordings_are_listed_as_fast_as_the_system_names_them(make_tiny: Callable[[int], Path]) -> None:
    top = make_tiny(100_000)

    def bare_s() -> float:
        """Ask for the size and time of every file, and do nothing with them."""
        started = time.process_time()
        found = [entry.stat().st_size for folder in os.scandir(top) if folder.is_dir() for entry in os.scandir(folder)]
        assert len(found) == 100_000
        return time.process_time() - started

    def listing_s() -> float:
        started = time.process_time()
        assert listing([str(top)]).recordings.num_rows == 100_000
        return time.process_time() - started

    pairs = [(bare_s(), listing_s()) for _ in range(5)]
    assert median_ratio(pairs) < 3


@pytest.mark.timing
def test_tiny_recordings_take_little_more_than_the_recogniser(make_tiny: Callable[[int], Path], tmp_path: Path) -> None:
    """Unit by unit, each beside the recogniser alone on the same recordings."""
    top, recognizer = make_tiny(4000), EmotionRecognizer()
    recordings, pairs = iter(recordings_below(top)), []
    with labelling(top, tmp_path / "out", jobs=1) as units_s:
        for n_files, unit_s in units_s:
            started = time.process_time()
            for recording in islice(recordings, n_files):
                recognizer.predict(recording)
            pairs.append((time.process_time() - started, unit_s))
    assert median_ratio(pairs) < 1.3


@pytest.mark.timing
def test_two_processes_share_the_work_of_one(make_tiny: Callable[[int], Path], tmp_path: Path) -> None:
    """Of the processors' time, on one of them: two that are the halves of one core slow each other down."""
    top, cpus = make_tiny(2000), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        pairs = [(labelling_s(top, tmp_path / f"one{i}", 1), labelling_s(top, tmp_path / f"two{i}", 2)) for i in range(3)]
    finally:
        os.sched_setaffinity(0, cpus)
    assert median_ratio(pairs) < 1.25


@contextmanager
def labelling(top: Path, out: Path, jobs: int) -> Iterator[Iterator[tuple[int, float]]]:
    """Label a folder; give, a unit at a time, the number of its recordings and the processors' time since the unit before.

    The start of the processes is not in it. Where there is one process, it waits while the caller looks at a unit.
    """
    plan = Plan.of(listing([str(top)]), out, EmotionRecognizer())
    with plan.dataset.labelling(), LocalPool(jobs, plan.labeller, plan.dataset) as pool:
        while pool.n_free < jobs:
            assert pool.answers() == []

        def done() -> Iterator[tuple[int, float]]:
            before = processors_s()
            for outcome in run(units(plan.left(), jobs), pool, plan.dataset):
                yield outcome.n_files, processors_s() - before
                before = processors_s()

        yield done()


def labelling_s(top: Path, out: Path, jobs: int) -> float:
    """Return the processors' time that labelling a folder takes."""
    with labelling(top, out, jobs) as units_s:
        done = list(units_s)
    assert sum(n_files for n_files, _ in done) == len(recordings_below(top))
    return sum(unit_s for _, unit_s in done)


def processors_s() -> float:
    """Return the processors' time of this process and its children, in the kernel's own resolution: /proc has ticks of 10 ms."""
    children = (time.clock_gettime(~child.pid << 3 | 2) for child in multiprocessing.active_children() if child.pid)
    return time.process_time() + sum(children)
