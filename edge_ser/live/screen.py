"""What `edge-ser listen` shows: a row an utterance and, on a terminal, a panel below that moves at most ten times a second."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TextIO

from edge_ser.live.listener import Event, Listener, Overrun, ToneChanged, UtteranceAnswered
from edge_ser.terminal import FULL, bar, clock_time, columns, utterance_header, utterance_row

_FRAME_S = 0.1
_METER_WIDTH = 24  # at most
_BESIDE_METER = 30  # columns of a row of the panel, and one that stays free
_METER_DB = (-60.0, 0.0)
_WIDE = 80  # from here on the tone's row holds more than the tone
_SMALLEST = (36, 12)  # columns and lines a panel needs below it


class Screen:
    """The listener's view of things, written to ``out``; :meth:`show` takes its events, :meth:`heard` every piece of audio.

    ``is_live`` draws the panel, for which ``out`` must be a terminal that understands ANSI sequences.
    """

    def __init__(self, listener: Listener, out: TextIO, is_live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener, self._out, self._is_live, self._clock = listener, out, is_live, clock
        self._labels = listener.recognizer.labels
        self._drawn = 0  # lines of the panel that stand on the screen
        self._next_frame = -1.0
        self._last_answer: UtteranceAnswered | None = None
        self._notes: deque[str] = deque()

    def __enter__(self) -> Screen:
        self._head()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            self._out.write("\x1b[?25h")  # the panel stays, as the last thing seen; the cursor comes back
            self._out.flush()
            self._drawn = 0

    def show(self, event: Event) -> None:
        """Print what is worth a line."""
        if isinstance(event, UtteranceAnswered):
            self._last_answer = event
            if self._labels != tuple(event.prediction.probabilities):  # a word was learnt
                self._labels = tuple(event.prediction.probabilities)
                self._head()
            after = f"  {event.latency_ms:7.0f} ms"
            self._print(utterance_row(event.start_s, event.stop_s, event.prediction, event.cut, after, columns(otherwise=FULL)))
        elif isinstance(event, ToneChanged) and not self._is_live:
            self._print(f"{clock_time(event.time_s):>9} tone: {event.label}")
        elif isinstance(event, Overrun) and not self._is_live:
            self._print(f"{clock_time(event.time_s):>9} audio was lost: overrun {event.overruns}")

    def note(self, line: str) -> None:
        """Have a line printed with the next piece of audio; may be called from any thread."""
        self._notes.append(line)

    def heard(self) -> None:
        """Print the notes, and draw the panel anew if it is time to."""
        while self._notes:
            self._print(f"{'':>9} {self._notes.popleft()}")
        now = self._clock()
        if self._is_live and now >= self._next_frame:
            self._next_frame = now + _FRAME_S
            self._draw(self._panel(shutil.get_terminal_size().columns))

    def _head(self) -> None:
        self._print(utterance_header(self._labels, f"{'after':>12}", columns(otherwise=FULL)))

    def _print(self, line: str) -> None:
        """Print a line above the panel."""
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0
        self._out.write(line + "\n")
        self._next_frame = -1.0
        self._out.flush()

    def _draw(self, lines: Iterable[str]) -> None:
        columns, rows = shutil.get_terminal_size()
        shown = [line[: columns - 1] for line in lines]
        if columns < _SMALLEST[0] or rows < _SMALLEST[1]:
            shown = shown[1:2]
        above = f"\x1b[{self._drawn}A" if self._drawn else "\x1b[?25l"
        # In one piece, so that no half of a frame is seen.
        self._out.write(above + "\x1b[J" + "".join(line + "\n" for line in shown))
        self._out.flush()
        self._drawn = len(shown)

    def _panel(self, width: int) -> Iterable[str]:
        meter_width = max(1, min(_METER_WIDTH, width - _BESIDE_METER))
        segmenter, tracker = self._listener.segmenter, self._listener.tracker
        low, high = _METER_DB
        level = min(high, max(low, segmenter.level_db))
        meter = bar((level - low) / (high - low), meter_width)
        state = "● speech" if segmenter.speaking else "○ silence"
        yield ""
        yield f"{clock_time(self._listener.time_s):>9} {state:<10} {meter} {level:4.0f} dB"
        for label in self._labels:
            p = tracker.probabilities.get(label, 0.0)
            yield f"{'':>9} {label:<10} {bar(p, meter_width)} {p:4.0%}"
        tone = "" if tracker.tone is None else tracker.tone.label
        answer = self._last_answer
        took = f"answer computed in {answer.compute_ms:.0f} ms" if answer else ""
        lost = f"{self._listener.overruns} overruns" if self._listener.overruns else ""
        told = filter(None, (took, lost))
        if width >= _WIDE:
            yield f"{'':>9} {'tone':<10} {tone:<{_METER_WIDTH}}  " + ", ".join(told)
        else:
            yield f"{'':>9} {'tone':<10} {tone}"
            yield from (f"{'':>9} {line}" for line in told)
