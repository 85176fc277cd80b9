"""Measure what the README states: front-end speed, time to an answer, import time, memory. One thread; medians of many runs.

python tests/bench.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_ser import EmotionRecognizer
from edge_ser.features import extract

SPEECH = Path(__file__).parent / "golden" / "synthetic_speech.flac"


def timed(call: Callable[[], object], runs: int) -> list[float]:
    """Return the sorted times of ``runs`` calls, in seconds, after a warm-up of ten."""
    times = []
    for run in range(runs + 10):
        start = time.perf_counter()
        call()
        if run >= 10:
            times.append(time.perf_counter() - start)
    return sorted(times)


def fresh_process(code: str) -> list[float]:
    """Run ``code`` seven times in a new interpreter; it prints seconds and MB. Return the medians."""
    before = "import time; start = time.perf_counter()"
    # Not getrusage: its peak survives exec, and would be this process's.
    after = (
        "seconds = time.perf_counter() - start\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(seconds, int(peak.split()[1]) / 1000)"
    )
    code = f"{before}\n{code}\n{after}"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True) for _ in range(7)]
    return [statistics.median(column) for column in zip(*(map(float, r.stdout.split()) for r in runs), strict=True)]


def main() -> None:
    recognizer = EmotionRecognizer()
    rng = np.random.default_rng(0)
    print("audio      front end (real time factor, best tenth)      whole answer")
    for seconds in (1, 3, 14):
        samples = (0.1 * rng.standard_normal(16000 * seconds)).astype(np.float32)
        features = timed(lambda x=samples: extract(x), 400)  # type: ignore[misc]
        answer = timed(lambda x=samples: recognizer.predict((x, 16000)), 100)  # type: ignore[misc]
        median, fast = statistics.median(features), features[len(features) // 10]
        print(
            f"{seconds:>4} s  {median * 1e3:9.2f} ms  {seconds / median:8,.0f} x  {seconds / fast:8,.0f} x"
            f"   {statistics.median(answer) * 1e3:14.1f} ms"
        )
    seconds_, megabytes = fresh_process("import edge_ser")
    print(f"import edge_ser:                {seconds_:.2f} s, {megabytes:.0f} MB resident at most")
    seconds_, megabytes = fresh_process(f"from edge_ser import EmotionRecognizer; EmotionRecognizer().predict({str(SPEECH)!r})")
    print(f"import + load + first answer:   {seconds_:.2f} s, {megabytes:.0f} MB resident at most")


if __name__ == "__main__":
    main()
