"""Draw the pictures of the README and the site: python docs/pictures/make.py DATA.

They show recordings of CREMA-D's test actors (DATA/cremad), joined with pauses: ``timeline.png`` is what
`edge-ser predict --segments --plot` draws, ``live.png`` the screen of `edge-ser listen`. Needs the extras docs, plot and vad.
"""

from __future__ import annotations

import csv
import os
import pty
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyte
import soundfile
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RATE_HZ = 16000
COLUMNS, LINES = 114, 18
PAUSE_S = 1.2
EMOTIONS = ("neutral", "angry", "neutral", "sad", "happy", "angry", "neutral", "happy")
"""What is said in turn, by one test actor after another: the first recording of each, no other choice."""


def talk(data: Path) -> np.ndarray:
    """Return the joined recordings, float32 at 16 kHz; between them lies the quiet end of the recording before."""
    with (data / "cremad" / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    speakers = sorted({row["speaker"] for row in rows})
    parts = []
    for i, emotion in enumerate(EMOTIONS):
        of = next(row for row in rows if row["speaker"] == speakers[i // 2 % len(speakers)] and row["emotion"] == emotion)
        samples, _ = soundfile.read(data / "cremad" / of["file"], dtype="float32")
        floor = samples[-RATE_HZ // 10 :]
        parts += [samples, np.resize(np.concatenate([floor, floor[::-1]]), int(PAUSE_S * RATE_HZ))]
    return np.concatenate(parts)


def last_screen(command: list[str]) -> list[str]:
    """Run ``command`` in a terminal of COLUMNS x LINES and return what stands there when it ends."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        while True:
            try:
                stream.feed(os.read(ours, 65536))
            except OSError:  # Linux says so when the program has closed the terminal
                break
    os.close(ours)
    return [line.rstrip() for line in screen.display]


def draw_screen(lines: list[str], path: Path) -> None:
    """Draw lines of a terminal as a PNG."""
    while lines and not lines[-1]:
        lines.pop()
    figure = Figure(figsize=(11.6, 0.21 * len(lines) + 0.3), dpi=120, facecolor="#20242b")
    for i, line in enumerate(lines):
        at = 1 - (i + 0.9) / (len(lines) + 1)
        figure.text(0.015, at, line, family="DejaVu Sans Mono", fontsize=9.6, color="#e8eaed", va="center")
    figure.savefig(path, facecolor=figure.get_facecolor())


def main(data: Path) -> None:
    """Write live.png and timeline.png beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "talk.wav"
        soundfile.write(recording, talk(data), RATE_HZ)
        edge_ser = str(Path(sys.executable).parent / "edge-ser")
        plot = [edge_ser, "predict", str(recording), "--segments", "--plot", str(HERE / "timeline.png")]
        subprocess.run(plot, check=True, stdout=subprocess.DEVNULL)
        draw_screen(last_screen([edge_ser, "listen", "--realtime", str(recording)]), HERE / "live.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
