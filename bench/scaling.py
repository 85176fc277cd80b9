"""How time grows with the length of the audio, and how many streams the machine carries; each in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser import EmotionRecognizer
from edge_ser.arrays import Int16Array
from edge_ser.diagnose.benchmark.clips import RATE_HZ, speech_like
from edge_ser.diagnose.machine import memory_mb

SPEECH = Path(__file__).parents[1] / "tests" / "golden" / "synthetic_speech.flac"
CHUNK_MS = 20
UTTERANCE_S = 3.0
EDGE_SER = [sys.executable, "-c", "from edge_ser.cli import main; main()"]


def lengths(seconds: Sequence[float], rounds: int) -> dict[float, float]:
    """Return the median time, in ms, of an answer about so many seconds of samples, measured in turn."""
    recognizer = EmotionRecognizer()
    clips = {s: speech_like(s) for s in seconds}
    times: dict[float, list[float]] = {s: [] for s in seconds}
    for n in range(rounds + 1):
        for s, clip in clips.items():
            start = time.perf_counter()
            recognizer.predict((clip, RATE_HZ))
            if n:
                times[s].append(1000 * (time.perf_counter() - start))
    return {s: float(np.median(of)) for s, of in times.items()}


def long_recording(hours: float, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return what one answer about a WAV file of so many hours takes a process, and what ``--segments`` takes: s, peak_mb."""
    import soundfile

    path = folder / f"{hours:g}h.wav"
    utterance, _ = soundfile.read(SPEECH, dtype="int16")
    spoken = np.concatenate([utterance, np.zeros(RATE_HZ, dtype=np.int16)])
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
        for _ in range(round(3600 * hours * RATE_HZ / len(spoken))):
            file.write(spoken)
    found = _child("recording", str(path)), _child("segments", str(path))
    path.unlink()
    return found


def folder_of_clips(folder: Path, n: int, jobs: int) -> float:
    """Return the seconds that ``predict FOLDER --jobs`` takes for ``n`` clips of three seconds, its start included."""
    import soundfile

    clips = folder / "clips"
    if not clips.is_dir():
        clips.mkdir()
        soundfile.write(clips / "00000.wav", speech_like(3), RATE_HZ)
        for i in range(1, n):
            os.link(clips / "00000.wav", clips / f"{i:05}.wav")
    command = [*EDGE_SER, "predict", str(clips), "--jobs", str(jobs)]
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def streams(n: int, seconds: float, cores: int) -> dict[str, float]:
    """Run ``n`` streams in real time, spread over a process a core; return how late chunks and answers were, in ms.

    Every stream is fed a chunk of 20 ms when its time has come, ends after 3 s of speech, answers and begins anew; no two
    begin together. ``late``: from when a chunk was due until it was taken; ``answer``: from when the last chunk was due until
    the answer.
    """
    shares = [n // cores + (i < n % cores) for i in range(cores)]
    command = [sys.executable, __file__, "streams"]
    begin = str(time.time() + 3)  # all are loaded by then
    running = [
        subprocess.Popen([*command, str(share), str(seconds), begin], stdout=subprocess.PIPE, text=True)
        for share in shares
        if share
    ]
    late: list[float] = []
    answers: list[float] = []
    for process in running:
        text, _ = process.communicate()
        found = json.loads(text)
        late += found["late"]
        answers += found["answers"]
    return {
        "late_p99": float(np.percentile(late, 99)),
        "late_max": max(late),
        "answer_p50": float(np.median(answers)),
        "answer_p99": float(np.percentile(answers, 99)),
    }


def one_stream(rounds: int) -> dict[str, float]:
    """Return what a stream costs a process of its own: ``cpu_ms`` a second of audio, the answer included, median; ``kb`` kept."""
    found: dict[str, float] = _child("stream", str(rounds))
    return found


def _child(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _recording(path: str) -> dict[str, float]:
    recognizer = EmotionRecognizer()
    recognizer.predict((speech_like(14), RATE_HZ))
    start = time.perf_counter()
    recognizer.predict(path)
    return {"s": time.perf_counter() - start, "peak_mb": (memory_mb() or (0.0, 0.0))[1]}


def _segments(path: str) -> dict[str, float]:
    lines = Path(path).with_suffix(".jsonl")
    command = [*EDGE_SER, "predict", path, "--segments", "--format", "jsonl", "-o", str(lines)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    utterances = len(lines.read_text(encoding="utf-8").splitlines())
    return {"s": time.perf_counter() - start, "peak_mb": used.ru_maxrss * 1024 / 1e6, "utterances": utterances}


def _chunks() -> list[Int16Array]:
    """Return an utterance as a microphone gives it."""
    speech, size = speech_like(UTTERANCE_S), RATE_HZ * CHUNK_MS // 1000
    return [speech[i : i + size] for i in range(0, len(speech), size)]


def _one_stream(rounds: int) -> dict[str, float]:
    recognizer, chunks = EmotionRecognizer(), _chunks()
    times = []
    stream = recognizer.stream()
    for _ in range(20 * rounds):
        start = time.process_time()
        for chunk in chunks:
            stream.feed(chunk)
        stream.finish()
        times.append(1000 * (time.process_time() - start) / UTTERANCE_S)
        stream.reset()
    before, _ = memory_mb() or (0.0, 0.0)
    kept = [recognizer.stream() for _ in range(500)]
    for other in kept:
        for chunk in chunks:
            other.feed(chunk)
    after, _ = memory_mb() or (0.0, 0.0)
    return {"cpu_ms": float(np.median(times)), "kb": 1000 * (after - before) / len(kept)}


def _streams(n: int, seconds: float, begin: float) -> dict[str, list[float]]:
    recognizer, chunks = EmotionRecognizer(), _chunks()
    running = [recognizer.stream() for _ in range(n)]
    position = [i * len(chunks) // n for i in range(n)]
    late, answers = [], []
    for stream, at in zip(running, position, strict=True):
        for chunk in chunks[:at]:
            stream.feed(chunk)
    time.sleep(max(0.0, begin - time.time()))
    start = time.perf_counter()
    for tick in range(round(1000 * seconds / CHUNK_MS)):
        for i, stream in enumerate(running):
            due = start + (tick + i / n) * CHUNK_MS / 1000
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            stream.feed(chunks[position[i]])
            late.append(1000 * (time.perf_counter() - due))
            position[i] += 1
            if position[i] == len(chunks):
                stream.finish()
                answers.append(1000 * (time.perf_counter() - due))
                stream.reset()
                position[i] = 0
    return {"late": late, "answers": answers}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    if sys.argv[1] in ("recording", "segments"):
        print(json.dumps((_recording if sys.argv[1] == "recording" else _segments)(sys.argv[2])))
    elif sys.argv[1] == "stream":
        print(json.dumps(_one_stream(int(sys.argv[2]))))
    else:
        print(json.dumps(_streams(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))))
