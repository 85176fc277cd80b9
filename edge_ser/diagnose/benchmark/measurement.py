"""What is measured, and how.

A round times every subject once on every clip, and begins with another subject each time: a machine that slows down for a
second slows all of them. Rounds go on until every median is known to 2 %, or for as long as was asked. Nothing is
switched off (garbage collection included) and no run is left out: outliers are counted and shown.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import edge_ser
from edge_ser.diagnose.benchmark.clips import Clip, read_clip, write_clips
from edge_ser.diagnose.benchmark.results import STAGES, START_SERIES, Case, Report, Result, Start, Subject, Timing
from edge_ser.diagnose.machine import installed_version, memory_mb, read_condition, read_machine
from edge_ser.engines import BACKENDS, ENGINE_PACKAGES
from edge_ser.errors import BackendError, ConfigError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import extract_blocks
from edge_ser.prediction import decide
from edge_ser.recognizer import EmotionRecognizer

CHUNK_S = 0.02
"""Length of the chunks that a stream is fed with: what microphones give."""
TYPICAL_S = 3.0
"""Fresh processes answer about the clip that comes nearest to this length."""
WARM_UP_ROUNDS = 5
MIN_ROUNDS = 30
PRECISION = 0.02
"""Rounds stop once the 95 % interval of every answer's median is within this of it, up and down."""
_STEADY_ANSWERS = 20


@dataclass(frozen=True)
class Rule:
    """When to stop: after ``rounds``, or, if that is None, once medians are known, at the latest after ``duration_s``."""

    rounds: int | None = None
    duration_s: float = 30.0


class _Runner:
    """One loaded subject and the times it took so far."""

    def __init__(self, asked: Subject, clips: Sequence[Clip]) -> None:
        self.recognizer = EmotionRecognizer(asked.model, backend=asked.backend, threads=asked.threads, provider=asked.provider)
        if self.recognizer.provider != asked.provider:
            raise BackendError(f"provider {asked.provider} is not there to be measured; `edge-ser doctor` says what is")
        self.subject = _described(self.recognizer, asked)
        self.times: list[dict[str, list[float]]] = [{} for _ in clips]

    def run(self, clip: Clip, times: dict[str, list[float]]) -> None:
        """Answer once about ``clip``, whole, in stages and as a stream, and append how long each took, in ms."""
        recognizer, manifest = self.recognizer, self.recognizer.manifest
        backend, front_end = recognizer._backend, manifest.front_end
        cpu = time.process_time()
        marks = [time.perf_counter()]

        def mark() -> None:
            marks.append(time.perf_counter())

        recognizer.predict(clip.path)
        mark()
        times.setdefault("answer_cpu", []).append((time.process_time() - cpu) * 1000)
        with AudioReader(clip.path, front_end.rate_hz) as reader:
            blocks = list(reader.blocks())
        mark()
        features = extract_blocks(blocks, reader.n_samples, front_end, backend.transform)
        mark()
        answer = backend.run(features)
        mark()
        decide(answer.logits, answer.embedding, backend.statistics(answer.encoded), manifest, reader.duration_s)
        mark()
        names = ["answer", *STAGES]
        if front_end.streamable:
            n_chunk = round(CHUNK_S * clip.rate_hz)
            chunks = [clip.samples[i : i + n_chunk] for i in range(0, len(clip.samples), n_chunk)]
            with recognizer.stream(clip.rate_hz) as stream:
                mark()
                for chunk in chunks[:-1]:
                    stream.feed(chunk)
                mark()
                stream.feed(chunks[-1])
                stream.finish()
                mark()
            names += ["stream_open", "stream_feed", "stream_answer"]
        for name, (start, end) in zip(names, itertools.pairwise(marks), strict=True):
            times.setdefault(name, []).append((end - start) * 1000)

    def case(self, clip: Clip, times: dict[str, list[float]], warm_up: int) -> Case:
        timing = {name: Timing(tuple(t[1 + warm_up :]), t[0]) for name, t in times.items()}
        stages = {name: timing[name] for name in STAGES}
        streamed = timing.get("stream_answer"), timing.get("stream_feed")
        return Case(clip.seconds, timing["answer"], timing["answer_cpu"], stages, *streamed)


def _described(recognizer: EmotionRecognizer, asked: Subject) -> Subject:
    quantization = recognizer.manifest.quantization
    backend = next(name for name, suffix in BACKENDS.items() if suffix == recognizer.path.suffix)
    packages = ENGINE_PACKAGES[backend]
    engine = next((f"{name} {v}" for name in packages if (v := installed_version(name))), packages[0])
    kernel = recognizer._backend.kernel
    return Subject(
        model=str(recognizer.path),
        backend=backend,
        threads=asked.threads,
        provider=recognizer.provider,
        name=recognizer.path.name,
        engine=f"{engine} ({kernel})" if kernel else engine,
        bytes=recognizer.path.stat().st_size,
        scheme=quantization["scheme"],
        weights_int8_percent=quantization["weights_int8_percent"],
        macs_int8_percent=quantization["macs_int8_percent"],
        graph_sha256=recognizer.manifest.graph_sha256,
    )


Progress = Callable[[str, float], None]
"""Told what goes on, and the share of it that is done."""


def measure(
    subjects: Sequence[Subject],
    lengths_s: Sequence[float] = (1, 3, 14),
    recording: Path | None = None,
    rule: Rule = Rule(),
    starts: int = 5,
    idle_s: float = 2.0,
    progress: Progress = lambda what, share: None,
) -> Report:
    """Measure every subject on speech-like clips of ``lengths_s``, or on ``recording``.

    ``starts``: processes that are started for each subject, in turn; 0: none. Raises BackendError for a provider that is not
    there (a recogniser would answer on the CPU), and what EmotionRecognizer raises.
    """
    before = read_condition()
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder), lengths_s) if recording is None else [read_clip(recording)]
        runners = [_Runner(subject, clips) for subject in subjects]
        typical = min(clips, key=lambda clip: abs(clip.seconds - TYPICAL_S))
        begun = _start_all([r.subject for r in runners], typical, starts, idle_s, progress)
        rounds, warm_up, why = _rounds(runners, clips, rule, progress)
        results = [
            Result(r.subject, tuple(r.case(clip, times, warm_up) for clip, times in zip(clips, r.times, strict=True)), start)
            for r, start in zip(runners, begun, strict=True)
        ]
    return Report(edge_ser.__version__, read_machine(), before, read_condition(), warm_up, rounds, why, tuple(results))


def _rounds(runners: list[_Runner], clips: list[Clip], rule: Rule, progress: Progress) -> tuple[int, int, str]:
    """Run the first answers, the warm-up and then rounds until ``rule`` ends them; return both counts and what ended it."""
    for n in range(1 + WARM_UP_ROUNDS):
        _round(runners, clips, n)
    began, n = time.perf_counter(), 0
    while True:
        n += 1
        _round(runners, clips, n)
        spent = time.perf_counter() - began
        if rule.rounds is not None:
            progress("answering", n / rule.rounds)
            if n < rule.rounds:
                continue
            return n, WARM_UP_ROUNDS, "as many as were asked for"
        over = spent >= rule.duration_s
        progress("answering", spent / rule.duration_s)
        if not over and (n < MIN_ROUNDS or n % 10):
            continue
        worst = max(Timing(tuple(t["answer"][1 + WARM_UP_ROUNDS :]), 0.0).uncertainty() for r in runners for t in r.times)
        if n >= MIN_ROUNDS and worst <= PRECISION:
            return n, WARM_UP_ROUNDS, f"until every answer's median was known to ±{100 * PRECISION:g} % (95 %)"
        if over:
            known = f"medians are known to ±{100 * worst:.0f} % or better" if math.isfinite(worst) else "too few to know a median"
            return n, WARM_UP_ROUNDS, f"until {rule.duration_s:g} s were over; {known} (95 %)"


def _round(runners: list[_Runner], clips: list[Clip], n: int) -> None:
    for i, clip in enumerate(clips):
        for k in range(len(runners)):
            runner = runners[(n + k) % len(runners)]
            runner.run(clip, runner.times[i])


_LIFE = """
import time
born = time.perf_counter()
import sys
import edge_ser
imported = time.perf_counter()
_, model, backend, threads, provider, clip, answers, idle_s = sys.argv
recognizer = edge_ser.EmotionRecognizer(model, backend=backend, threads=int(threads), provider=provider)
loaded = time.perf_counter()
recognizer.predict(clip)
print(born, imported, loaded, time.perf_counter(), flush=True)
if float(idle_s):
    from edge_ser.frontend.audio import AudioReader
    for _ in range(int(answers) - 1):
        recognizer.predict(clip)
    print("steady", flush=True)
    sys.stdin.readline()
    with recognizer.stream() as stream, AudioReader(clip) as reader:
        stream.feed(reader.samples())
        stream.estimate
        time.sleep(0.1)
        cpu, began = time.process_time(), time.perf_counter()
        time.sleep(float(idle_s))
        print(100 * (time.process_time() - cpu) / (time.perf_counter() - began))
"""
"""What a fresh process does: import, load, answer once; and then, if it is to idle, answer on and wait with an open stream."""


def _start_all(subjects: list[Subject], clip: Clip, starts: int, idle_s: float, progress: Progress) -> list[Start | None]:
    """Start ``starts`` processes of every subject in turn; one before them fills the disk cache, and one after them idles."""
    if starts == 0:
        return [None for _ in subjects]
    laps: list[list[tuple[float, ...]]] = [[] for _ in subjects]
    for _ in range(1 + starts):
        for subject, of in zip(subjects, laps, strict=True):
            of.append(_start(subject, clip)[0])
            progress("starting", len(of) / (2 + starts))
    begun: list[Start | None] = []
    for subject, of in zip(subjects, laps, strict=True):
        _, memory, idle_cpu_percent = _start(subject, clip, idle_s)
        series = {name: Timing(times[1:], times[0]) for name, times in zip(START_SERIES, zip(*of, strict=True), strict=True)}
        steady_mb, peak_mb = memory or (None, None)
        begun.append(Start(clip.seconds, series, steady_mb, peak_mb, idle_cpu_percent))
    progress("starting", 1.0)
    return begun


def _start(subject: Subject, clip: Clip, idle_s: float = 0.0) -> tuple[tuple[float, ...], tuple[float, float] | None, float]:
    """Live one life of a process; return its laps in ms, as START_SERIES names them, its memory and its idle share."""
    asked = (subject.model, subject.backend, subject.threads, subject.provider, clip.path, _STEADY_ANSWERS, idle_s)
    command = [sys.executable, "-c", _LIFE, *map(str, asked)]
    memory = None
    began = time.perf_counter()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        answered = time.perf_counter()
        if idle_s and process.stdout.readline():
            memory = memory_mb(process.pid)  # asked from here: what the child imported for it would count
        rest, errors = process.communicate("\n")
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"a fresh process with {subject.name} failed: {last}")
    born, imported, loaded, done = map(float, first.split())
    laps = (answered - began, imported - born, loaded - imported, done - loaded)
    return tuple(1000 * lap for lap in laps), memory, float(rest or 0)
