"""Draw the pictures of the README and the site: python docs/pictures/make.py DATA.

They show recordings of CREMA-D's test actors (DATA/cremad), joined with pauses: ``timeline.png`` is what
`edge-ser predict --segments --plot` draws, ``live.png`` the screen of `edge-ser listen`. What `edge-ser adapt --record` shows
when one of them speaks is written into personalise.md. Needs the extras docs, plot and vad.
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
GUIDE_COLUMNS, GUIDE_LINES = 80, 60
GUIDED = HERE.parent / "personalise.md"
_BEGIN, _END = "<!-- written by python docs/pictures/make.py -->\n", "<!-- end -->"
PAUSE_S = 1.2
EMOTIONS = ("neutral", "angry", "neutral", "sad", "happy", "angry", "neutral", "happy")
"""What is said in turn, by one test actor after another: the first recording of each, no other choice."""


def of_test_actors(data: Path) -> list[dict[str, str]]:
    """Return the rows of CREMA-D's test actors."""
    with (data / "cremad" / "labels.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def is_take(samples: np.ndarray) -> bool:
    """Return whether a recording is one utterance, with enough of speech to learn from."""
    from edge_ser.live.guide import LEAST_S
    from edge_ser.live.segmenter import Segmenter, SpeechEnd, SpeechStart

    segmenter = Segmenter(RATE_HZ)
    events = [*segmenter.feed(np.concatenate([samples, pause(samples)])), *segmenter.finish()]
    starts = [event.start for event in events if isinstance(event, SpeechStart)]
    stops = [event.speech_stop for event in events if isinstance(event, SpeechEnd)]
    return len(stops) == 1 and stops[0] - starts[0] > (LEAST_S + 0.5) * RATE_HZ


def takes(data: Path) -> np.ndarray:
    """Return two takes of every emotion by one test actor, the first good ones, with pauses; float32 at 16 kHz."""
    rows = [row for row in of_test_actors(data) if row["speaker"] == of_test_actors(data)[0]["speaker"]]
    of: dict[str, list[np.ndarray]] = {"neutral": [], "angry": [], "happy": [], "sad": []}
    for row in rows:
        if row["emotion"] in of and len(of[row["emotion"]]) < 2:
            samples, _ = soundfile.read(data / "cremad" / row["file"], dtype="float32")
            of[row["emotion"]] += [samples] * is_take(samples)
    in_turn = zip(*of.values(), strict=True)
    return np.concatenate([part for sentence in in_turn for samples in sentence for part in (samples, pause(samples))])


def talk(data: Path) -> np.ndarray:
    """Return the joined recordings, float32 at 16 kHz; between them lies the quiet end of the recording before."""
    rows = of_test_actors(data)
    speakers = sorted({row["speaker"] for row in rows})
    parts = []
    for i, emotion in enumerate(EMOTIONS):
        of = next(row for row in rows if row["speaker"] == speakers[i // 2 % len(speakers)] and row["emotion"] == emotion)
        samples, _ = soundfile.read(data / "cremad" / of["file"], dtype="float32")
        parts += [samples, pause(samples)]
    return np.concatenate(parts)


def pause(samples: np.ndarray) -> np.ndarray:
    """Return a pause that sounds as the end of a recording does."""
    floor = samples[-RATE_HZ // 10 :]
    return np.resize(np.concatenate([floor, floor[::-1]]), int(PAUSE_S * RATE_HZ))


def last_screen(command: list[str], columns: int = COLUMNS, lines: int = LINES, folder: str | None = None) -> list[str]:
    """Run ``command`` in ``folder``, in a terminal of so many columns and lines; return what stands there when it ends."""
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=folder):
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


def write_guide(data: Path) -> None:
    """Write what `edge-ser adapt --record` shows into personalise.md."""
    with tempfile.TemporaryDirectory() as folder:
        soundfile.write(Path(folder) / "takes.wav", takes(data), RATE_HZ)
        options = ["adapt", "--record", "--source", "takes.wav", "--profile", "me.json"]
        lines = last_screen([str(Path(sys.executable).parent / "edge-ser"), *options], GUIDE_COLUMNS, GUIDE_LINES, folder)
    shown = "\n".join(lines).strip()
    page = GUIDED.read_text(encoding="utf-8")
    before, rest = page.split(_BEGIN)
    behind = rest.split(_END, 1)[1]
    GUIDED.write_text(f"{before}{_BEGIN}```text\n{shown}\n```\n{_END}{behind}", encoding="utf-8")


def main(data: Path) -> None:
    """Write live.png and timeline.png beside this file, and the transcript."""
    write_guide(data)
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "talk.wav"
        soundfile.write(recording, talk(data), RATE_HZ)
        edge_ser = str(Path(sys.executable).parent / "edge-ser")
        plot = [edge_ser, "predict", str(recording), "--segments", "--plot", str(HERE / "timeline.png")]
        subprocess.run(plot, check=True, stdout=subprocess.DEVNULL)
        draw_screen(last_screen([edge_ser, "listen", "--realtime", str(recording)]), HERE / "live.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
