"""Push hours of speech through one stream as fast as it goes; watch its memory, its pace, and that it does not drift.

python tests/soak.py --hours 24 --data DATA
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.arrays import Int16Array
from edge_ser.frontend.features import frame_count
from edge_ser.geometry import ENCODER_STRIDE
from edge_ser.stream import EXACT_S

RATE_HZ = 16000
ESTIMATE_S = 10


class Checkpoint(NamedTuple):
    """How the stream fares after ``audio_s`` seconds."""

    audio_s: float
    rss_mb: float
    cpu_ms: float
    """Processor time for a second of audio, since the checkpoint before."""
    exact: bool
    """Whether its estimate is, bit for bit, the answer of ``predict`` for what it judges."""


def endless(clips: list[Int16Array], seed: int = 0) -> Iterator[Int16Array]:
    """Yield the clips in random order, with pauses of noise or digital silence between them, in chunks of random length."""
    rng = np.random.default_rng(seed)
    while True:
        for n in rng.permutation(len(clips)):
            pause = np.zeros(int(rng.uniform(0, 3) * RATE_HZ), dtype=np.int16)
            if rng.random() < 0.5:
                pause = rng.integers(-20, 20, len(pause)).astype(np.int16)
            rest = np.concatenate([clips[n], pause])
            while len(rest):
                n_chunk = int(np.exp(rng.uniform(0, 9)))
                yield rest[:n_chunk]
                rest = rest[n_chunk:]


def soak(recognizer: EmotionRecognizer, clips: list[Int16Array], audio_s: float, every_s: float) -> Iterator[Checkpoint]:
    """Stream ``audio_s`` seconds of ``clips`` and yield a checkpoint after every ``every_s``; it is asked in between, too."""
    stream = recognizer.stream(RATE_HZ)
    kept: list[Int16Array] = []  # what predict needs: all while the stream still answers for all, then a little over 14 s
    n_samples = n_kept = 0
    next_s, next_estimate_s, began = every_s, float(ESTIMATE_S), time.process_time()
    for chunk in endless(clips):
        stream.feed(chunk)
        kept.append(chunk)
        n_samples += len(chunk)
        n_kept += len(chunk)
        while n_samples > (EXACT_S + 1) * RATE_HZ and n_kept - len(kept[0]) > 15 * RATE_HZ:
            n_kept -= len(kept.pop(0))
        if stream.duration_s >= next_estimate_s:
            stream.estimate  # noqa: B018 (as an application does)
            next_estimate_s += ESTIMATE_S
        if stream.duration_s >= next_s:
            cpu_ms = 1e3 * (time.process_time() - began) / every_s
            exact = is_exact(recognizer, stream.estimate, np.concatenate(kept), n_samples)
            yield Checkpoint(stream.duration_s, rss_mb(), cpu_ms, exact)
            if next_s >= audio_s:
                return
            next_s, began = next_s + every_s, time.process_time()


def is_exact(recognizer: EmotionRecognizer, estimate: Any, last: Int16Array, n_samples: int) -> bool:
    """Compare an estimate after ``n_samples``, of which ``last`` are kept, with ``predict`` of what the stream judges."""
    front_end = recognizer.manifest.front_end
    n_frames = frame_count(n_samples, front_end)
    if n_frames > EXACT_S * RATE_HZ // front_end.hop_samples:
        start = n_frames - front_end.max_frames
        start += -start % ENCODER_STRIDE
        last = last[start * front_end.hop_samples - (n_samples - len(last)) :]
    offline = recognizer.predict((last, RATE_HZ))
    return bool((estimate.logits == offline.logits).all() and (estimate.embedding == offline.embedding).all())


def rss_mb() -> float:
    """Return the resident memory of this process."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


@click.command()
@click.option("--hours", default=24.0, show_default=True, help="Of audio.")
@click.option("--data", envvar="EDGE_SER_DATA", required=True, type=click.Path(path_type=Path), help="Folder of corpora.")
@click.option("--clips", "n_clips", default=1000, show_default=True, help="Recordings to take of it.")
@click.option("--backend", default="onnx", show_default=True)
def main(hours: float, data: Path, n_clips: int, backend: str) -> None:
    """Print a line for every ten minutes of audio; exit with 1 if an answer is not exact."""
    paths = sorted(data.glob("*/audio/*.flac"))
    if not paths:
        raise click.UsageError(f"no */audio/*.flac below {data}")
    clips = [soundfile.read(path, dtype="int16")[0] for path in paths[:: max(1, len(paths) // n_clips)][:n_clips]]
    click.echo(f"{len(clips)} clips, {sum(map(len, clips)) / RATE_HZ / 60:.1f} minutes; {backend}")
    click.echo("   audio    memory   CPU for 1 s   estimate = predict")
    failed = 0
    for point in soak(EmotionRecognizer(backend=backend), clips, hours * 3600, 600):
        hours_, minutes = divmod(round(point.audio_s / 60), 60)
        click.echo(f"{hours_:>3} h {minutes:02}  {point.rss_mb:5.1f} MB  {point.cpu_ms:9.2f} ms   {point.exact}")
        failed += not point.exact
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
