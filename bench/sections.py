"""The tables of BENCHMARKS.md: each is measured here and returned as rows of Markdown. What is compared is run in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import attainable
import numpy as np
import peers
import scaling

from edge_ser import EmotionRecognizer
from edge_ser.arrays import Float32Array
from edge_ser.diagnose.benchmark.clips import RATE_HZ, speech_like
from edge_ser.diagnose.benchmark.measurement import Rule, measure
from edge_ser.diagnose.benchmark.results import Report, Subject, Timing
from edge_ser.diagnose.machine import installed_version
from edge_ser.engines import clib
from edge_ser.engines.native import NativeBackend
from edge_ser.figures import new_figure
from edge_ser.files import writing
from edge_ser.frontend.features import extract
from edge_ser.model.manifest import read_model_file, shipped_model_path

LENGTHS_S = (1, 2, 3, 4, 6, 8, 10, 12, 14)
HOURS = (0.25, 1.0, 2.0)
STREAMS = (16, 64, 128, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
OURS = "edge-ser, "
"""What the names of the recognizers begin with that use other kernels than those of this processor."""
LATE_MS = 20.0
"""A stream keeps up while 99 of 100 chunks are taken before the next one is due."""


def samples_of(seconds: float) -> Float32Array:
    """Return speech-like samples, float32 [n]."""
    samples: Float32Array = speech_like(seconds) * np.float32(2**-15)
    return samples


class Times(NamedTuple):
    """Times of one call, in ms."""

    wall: list[float]
    cpu: list[float]
    """Processor time: on one thread the same, but for what other work on the machine takes."""


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time each call three times a round, every round beginning with another call; two rounds of warm-up are left out.

    Three times, so that most of them find the caches as they left them themselves.
    """
    names = list(calls)
    times = {name: Times([], []) for name in names}
    for n in range(rounds + 2):
        for k in range(len(names)):
            name = names[(n + k) % len(names)]
            for _ in range(3):
                cpu, wall = time.process_time(), time.perf_counter()
                calls[name]()
                if n >= 2:
                    times[name].wall.append(1000 * (time.perf_counter() - wall))
                    times[name].cpu.append(1000 * (time.process_time() - cpu))
    return times


def slower_kernels() -> list[str]:
    """Return the names of the vector kernels that this processor runs and that are slower than those in use, fastest first."""
    if not clib.is_there():
        return []
    names = clib.kernels()
    return names[max(names.index(clib.kernel_in_use()[1]) - 1, 0) : 0 : -1]


def native_of(kernel: str) -> NativeBackend:
    """Return the shipped model in the C library, which uses these kernels."""
    with patch.dict(os.environ, {clib.KERNEL_VARIABLE: kernel}):
        return NativeBackend(read_model_file(shipped_model_path(".eser")))


def ours(subjects: Sequence[Subject], duration_s: float, starts: int) -> tuple[Report, list[str]]:
    """Measure the models with what ``edge-ser benchmark`` is made of; return that, and the rows of a table."""
    report = measure(subjects, rule=Rule(duration_s=duration_s), starts=starts)
    names = [f"{r.subject.name}, {r.subject.engine}" for r in report.results]
    rows = [f"| median, one thread | {' | '.join(names)} |", "|---|" + "---|" * len(names)]

    def row(name: str, cells: Sequence[str]) -> None:
        rows.append(f"| {name} | {' | '.join(cells)} |")

    for i, case in enumerate(report.results[0].cases):
        cases = [r.cases[i] for r in report.results]
        row(f"{case.seconds:g} s, file to answer", [f"{_p50(c.answer.times_ms):.2f} ms" for c in cases])
        for stage in case.stages:
            row(f"... {stage.replace('_', ' ')}", [f"{_p50(c.stages[stage].times_ms):.2f} ms" for c in cases])
        row("... of it on a processor", [f"{_p50(c.answer_cpu.times_ms):.2f} ms" for c in cases])
        row("... 99th percentile", [f"{c.answer.statistics()['p99']:.2f} ms" for c in cases])
        row(
            f"{case.seconds:g} s, end of speech to answer",
            ["-" if c.stream_answer is None else f"{_p50(c.stream_answer.times_ms):.2f} ms" for c in cases],
        )
    starts_of = [r.start for r in report.results if r.start is not None]
    if len(starts_of) == len(report.results):
        for name in ("import", "load", "first_answer", "cold_start"):
            row(name.replace("_", " "), [f"{_p50(s.series[name].times_ms) / 1000:.3f} s" for s in starts_of])
        row("memory, steady", [f"{s.steady_mb or 0:.0f} MB" for s in starts_of])
        row("idle, a stream open", [f"{s.idle_cpu_percent:.2f} % of a core" for s in starts_of])
    row("file", [f"{r.subject.bytes / 1e6:.3f} MB" for r in report.results])
    row("int8: weights, operations", [_coverage(r.subject) for r in report.results])
    return report, rows


def _coverage(subject: Subject) -> str:
    return f"{subject.weights_int8_percent:.1f} %, {subject.macs_int8_percent:.1f} %"


def against_peers(rounds: int, folder: Path) -> tuple[list[str], dict[str, float]]:
    """Return a table of the time for 3 s of speech, samples to answer, features included; and the peers' ratios."""
    samples = samples_of(3)
    recognizer = EmotionRecognizer()
    held = {}
    for kernel in slower_kernels():
        with patch.dict(os.environ, {clib.KERNEL_VARIABLE: kernel}):
            held[OURS + kernel] = EmotionRecognizer(backend="native")
    wav2vec2, size = peers.wav2vec2_int8(len(samples), folder)
    smile = peers.opensmile_egemaps()
    calls: dict[str, Callable[[], object]] = {
        "edge-ser": lambda: recognizer.predict((samples, RATE_HZ)),
        **{name: partial(of.predict, (samples, RATE_HZ)) for name, of in held.items()},
        "openSMILE": lambda: smile(samples),
        "wav2vec2": lambda: wav2vec2(samples),
    }
    times = in_turn(calls, rounds)
    described = {
        "edge-ser": f"the shipped int8 model, {recognizer.path.stat().st_size / 1e6:.2f} MB",
        **{name: f"the same, kernels `{of._backend.kernel}`" for name, of in held.items()},
        "openSMILE": f"eGeMAPSv02 functionals, opensmile {installed_version('opensmile')}; no classifier",
        "wav2vec2": f"wav2vec2-base classifier, ONNX Runtime, dynamic int8, {size / 1e6:.0f} MB; random weights",
    }
    rows = [
        "| 3 s of samples to an answer | median | processor time, median | times edge-ser's (middle half of the rounds) |",
        "|---|---|---|---|",
    ]
    ratios = {}
    for name, of in times.items():
        each = np.array(of.cpu) / np.array(times["edge-ser"].cpu)
        ratios[name] = _p50(of.cpu) / _p50(times["edge-ser"].cpu)
        low, high = np.percentile(each, [25, 75])
        shown = "1" if name == "edge-ser" else f"{ratios[name]:.1f} ({low:.1f} to {high:.1f})"
        rows.append(f"| {described[name]} | {_p50(of.wall):.2f} ms | {_p50(of.cpu):.2f} ms | {shown} |")
    return rows, ratios


def against_the_machine(rounds: int, folder: Path) -> tuple[list[str], float]:
    """Return a table of the encoders' rates beside the fastest large int8 convolution's, and the ratio of ONNX Runtime's."""
    features = extract(samples_of(3))
    macs = {"encoder, ONNX Runtime": attainable.encoder_macs(*features.shape)}
    calls = {"encoder, ONNX Runtime": attainable.encoder(shipped_model_path(), folder, features)}
    for kernel in [clib.kernel_in_use()[1], *slower_kernels()] if clib.is_there() else []:
        own, direct = native_of(kernel), native_of(kernel)
        direct._model.winograd[:] = (None, None)  # every convolution directly
        for backend, how in ((own, ""), (direct, " without Winograd")):
            if backend is own or any(len(weights) for weights in direct._winograd):
                name = f"encoder, the C library's `{kernel}`{how}, the GRU's input products included"
                macs[name], calls[name] = macs["encoder, ONNX Runtime"], partial(backend.encode, features)
    for shape in attainable.SHAPES:
        name = f"one QLinearConv, {shape[0]} to {shape[1]} channels, 3x3, {shape[2]} x {shape[3]}"
        calls[name], macs[name] = attainable.single_convolution(*shape)
    times = in_turn(calls, rounds)
    rates = {name: macs[name] / _p50(of.cpu) / 1e6 for name, of in times.items()}
    fastest = {name: macs[name] / min(of.wall) / 1e6 for name, of in times.items()}
    best = max(rate for name, rate in rates.items() if not name.startswith("encoder"))
    rows = [
        "| one thread, int8 | multiply-accumulates | rate (median processor time) | rate (fastest run) |",
        "|---|---|---|---|",
    ]
    for name in calls:
        rows.append(f"| {name} | {macs[name] / 1e6:.0f} M | {rates[name]:.1f} GMAC/s | {fastest[name]:.1f} GMAC/s |")
    return rows, rates["encoder, ONNX Runtime"] / best


def lengths(rounds: int, plot: Path) -> list[str]:
    """Return a table of time against length, and draw it."""
    times = scaling.lengths(LENGTHS_S, rounds)
    x, y = np.array(list(times)), np.array(list(times.values()))
    slope, offset = np.polyfit(x, y, 1)
    rows = ["| audio | answer | of it, a second of audio |", "|---|---|---|"]
    rows += [f"| {s:g} s | {ms:.2f} ms | {ms / s:.2f} ms |" for s, ms in times.items()]
    figure = new_figure(figsize=(6, 3.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, "o", label="measured (medians, in turn)")
    axes.plot(x, offset + slope * x, label=f"{offset:.2f} ms + {slope:.2f} ms a second")
    axes.set(xlabel="audio, s", ylabel="samples to answer, ms", xlim=(0, None), ylim=(0, None))
    axes.legend()
    with writing(plot, "the plot") as file:
        figure.savefig(file)
    residual = float(np.abs(offset + slope * x - y).max() / y.max())
    rows += [
        "",
        f"The line is {offset:.2f} ms + {slope:.2f} ms a second; no point lies farther off than {residual:.1%} of the longest.",
    ]
    return rows


def hours(folder: Path, longest: float) -> list[str]:
    """Return a table of what recordings of hours cost."""
    rows = [
        "| recording (16 kHz WAV) | answer | memory, peak | `--segments` | of it, an hour | utterances | memory, peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in (h for h in HOURS if h <= longest):
        whole, every = scaling.long_recording(length, folder)
        cells = [f"{whole['s']:.2f} s", f"{whole['peak_mb']:.0f} MB", f"{every['s']:.1f} s", f"{every['s'] / length:.1f} s"]
        cells += [f"{every['utterances']:.0f}", f"{every['peak_mb']:.0f} MB"]
        rows.append(f"| {length:g} h | {' | '.join(cells)} |")
    return rows


def many_clips(folder: Path, n: int, cores: int, rounds: int) -> tuple[list[str], float]:
    """Return a table of what a folder of ``n`` clips takes one process and one a core, in turn, and how much sooner those end."""
    seconds: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(rounds):
        for jobs, of in seconds.items():
            of.append(scaling.folder_of_clips(folder, n, jobs))
    rows = [f"| {n} clips of 3 s | seconds, median | clips a second |", "|---|---|---|"]
    rows += [f"| `--jobs {jobs}` | {_p50(of):.2f} | {n / _p50(of):.0f} |" for jobs, of in seconds.items()]
    return rows, _p50(seconds[1]) / _p50(seconds[cores])


def one_stream(rounds: int) -> list[str]:
    """Return a table of what one stream costs, and how many of them that is a core."""
    found = scaling.one_stream(rounds)
    return [
        "| one stream, chunks of 20 ms, an answer every 3 s | |",
        "|---|---|",
        f"| processor time a second of audio, median | {found['cpu_ms']:.2f} ms |",
        f"| which fills a core with | {1000 / found['cpu_ms']:.0f} streams |",
        f"| memory, after 3 s | {found['kb']:.0f} kB |",
    ]


def parallel_streams(seconds: float, cores: int) -> tuple[list[str], int]:
    """Return a table of streams in real time, and the most of them that kept up."""
    rows = [
        "| streams | chunk late, 99th percentile | at most | end of speech to answer, median | 99th |",
        "|---|---|---|---|---|",
    ]
    most = 0
    for n in STREAMS:
        found = scaling.streams(n, seconds, cores)
        cells = [f"{found[key]:.1f} ms" for key in ("late_p99", "late_max", "answer_p50", "answer_p99")]
        rows.append(f"| {n} | {' | '.join(cells)} |")
        if found["late_p99"] > LATE_MS:
            break
        most = n
    return rows, most


def _p50(times: Sequence[float]) -> float:
    return float(np.median(times))


def goals(
    report: Report, ratios: dict[str, float], encoder_share: float, most_streams: int, sooner: float, cores: int
) -> Iterator[str]:
    """Yield a table of what was aimed at and what was measured, for the first model."""
    first = report.results[0]
    by_length = {case.seconds: case for case in first.cases}
    three, longest = by_length[3.0], by_length[14.0]
    front_end = min(three.stages["front_end"].times_ms) / min(three.answer.times_ms)

    def seconds(timing: Timing) -> str:
        return f"{_p50(timing.times_ms) / 1000:.3f} s (fastest {min(timing.times_ms) / 1000:.3f})"

    yield "| aim | measured |"
    yield "|---|---|"
    for aim, peer in (
        ("3 s of speech in at most 1/25 of openSMILE eGeMAPSv02's time", "openSMILE"),
        ("and 1/100 of a wav2vec2-base classifier's, int8", "wav2vec2"),
    ):
        held = [f"`{k.removeprefix(OURS)}` 1/{ratios[peer] / of:.1f}" for k, of in ratios.items() if k.startswith(OURS)]
        yield f"| {aim} | {'; '.join([f'1/{ratios[peer]:.1f}', *held])} |"
    yield f"| encoder at 60 % or more of the attainable int8 convolution rate | {encoder_share:.0%} |"
    yield f"| front end at most 30 % of the whole (3 s, the fastest runs) | {front_end:.0%} |"
    if longest.stream_answer is not None:
        end = longest.stream_answer.times_ms
        yield f"| 14 s: end of speech to answer within 0.5 ms | {_p50(end):.2f} ms (fastest {min(end):.2f}) |"
    if first.start is not None:
        series = first.start.series
        yield f"| `import edge_ser` within 0.15 s | {seconds(series['import'])} |"
        yield f"| a new process to its first answer within 0.15 s | {seconds(series['cold_start'])} |"
        yield f"| steady memory at most 40 MB | {first.start.steady_mb or 0:.0f} MB |"
        yield f"| at most 0.5 % of a core while idle, a stream open | {first.start.idle_cpu_percent:.2f} % |"
    yield f"| 1000 streams in real time on two cores | {most_streams} keep up on {cores} |"
    yield f"| a folder, {cores} processes: 1.8 times as soon as one, on two cores | {sooner:.2f} times |"
