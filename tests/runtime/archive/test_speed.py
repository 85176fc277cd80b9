"""A hundred thousand recordings, and what the work around the model costs."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import time
from collections.abc import Callable
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
from tests.commanding import COMMAND
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
def test_a_hundred_thousand_recordings(make_tiny: Callable[[int], Path], tmp_path: Path) -> None:
    from pyarrow import parquet

    top, out = make_tiny(100_000), tmp_path / "out"
    with subprocess.Popen([*COMMAND, "label", str(top), "-o", str(out), "--jobs", "2"], stderr=subprocess.DEVNULL) as process:
        while len(list(out.glob("*.parquet"))) < 10 and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    done = label(top, "-o", out, "--jobs", 2)
    again = re.search(r"labelled ([\d,]+) of ([\d,]+) files", done.stderr)
    assert again is not None
    assert again[1] == again[2] != "100,000"
    rows = parquet.read_table(out, columns=["file", "label", "confidence", "error"]).to_pylist()
    assert sorted(row["file"] for row in rows) == sorted(map(str, recordings_below(top)))
    recognizer = EmotionRecognizer()
    answers = [recognizer.predict((top / f"{i}.content").read_bytes()) for i in range(N_CONTENTS)]
    for row in rows:
        answer = answers[int(Path(row["file"]).stem) % N_CONTENTS]
        assert (row["error"], row["label"], row["confidence"]) == (None, answer.label, answer.confidence)


@pytest.mark.timing
def test_a_hundred_thousand_recordings_are_listed_in_a_second(make_tiny: Callable[[int], Path]) -> None:
    top = make_tiny(100_000)

    def seconds() -> float:
        started = time.perf_counter()
        assert listing([str(top)]).recordings.num_rows == 100_000
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.timing
def test_tiny_recordings_take_little_more_than_the_recogniser(make_tiny: Callable[[int], Path], tmp_path: Path) -> None:
    top, recognizer = make_tiny(4000), EmotionRecognizer()
    recordings = recordings_below(top)
    recognizer.predict(recordings[0])
    started = time.process_time()
    for recording in recordings:
        recognizer.predict(recording)
    pure_s = time.process_time() - started
    assert labelling_s(top, tmp_path / "out", jobs=1)[1] < 1.3 * pure_s


@pytest.mark.timing
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_two_processes_share_the_work_of_one(make_tiny: Callable[[int], Path], tmp_path: Path) -> None:
    # Of the processors' time, which other work on the machine does not take.
    top = make_tiny(8000)
    one, two = (min(labelling_s(top, tmp_path / f"{jobs}{i}", jobs)[1] for i in range(2)) for jobs in (1, 2))
    assert two < 1.25 * one


def labelling_s(top: Path, out: Path, jobs: int) -> tuple[float, float]:
    """Return the time it takes to label a folder, and that of all processors, without the start of the processes."""
    plan = Plan.of(listing([str(top)]), out, EmotionRecognizer())
    with plan.dataset.labelling(), LocalPool(jobs, plan.labeller, plan.dataset) as pool:
        while pool.n_free < jobs:
            assert pool.answers() == []
        started = time.perf_counter(), processors_s()
        outcomes = list(run(units(plan.left(), jobs), pool, plan.dataset))
        assert sum(outcome.n_files for outcome in outcomes) == len(recordings_below(top))
        return time.perf_counter() - started[0], processors_s() - started[1]


def processors_s() -> float:
    """Return the processors' time of this process and its children."""
    ticks = [
        int(field)
        for child in multiprocessing.active_children()
        for field in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    ]
    return time.process_time() + sum(ticks) / os.sysconf("SC_CLK_TCK")
