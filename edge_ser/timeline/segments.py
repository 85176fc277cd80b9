"""``edge-ser predict --segments``: timelines of recordings, printed or written to a file, and drawn."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from edge_ser.arrays import Float32Array
from edge_ser.errors import AudioError, EdgeSerError
from edge_ser.files import is_stream, require_writable, writing
from edge_ser.frontend.audio import AudioReader
from edge_ser.live.segmenter import SegmenterConfig
from edge_ser.processes import each
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import FULL, columns, complain, progress, utterance_header, utterance_row
from edge_ser.timeline.formats import Envelope, Segment, audacity, csv_header, csv_rows, jsonl, rttm, timeline


def _table(name: str, segments: Sequence[Segment], width: int = FULL) -> str:
    return "".join(f"{utterance_row(s.start_s, s.stop_s, s.prediction, s.cut, width=width)}\n" for s in segments)


FORMATS: dict[str, Callable[[str, Sequence[Segment]], str]] = {
    "table": _table,
    "jsonl": jsonl,
    "csv": csv_rows,
    "audacity": audacity,
    "rttm": rttm,
}
"""How a recording's segments are written; `table` and `audacity` do not say which recording it is."""


def print_segments(
    recognizer: EmotionRecognizer,
    recordings: Sequence[tuple[str, Any]],
    config: SegmenterConfig,
    form: str,
    output: Path | None,
    plot: Path | None,
    jobs: int = 1,
) -> int:
    """Write the timelines of ``recordings``, (name, source) each, in the format ``form``; return how many have none.

    On standard output, or in ``output`` where that is a pipe or a device, every utterance stands as soon as it is found. A
    regular file is written in the end, without the recordings that cannot be read to theirs; where all of them fail, it stays
    as it was. The picture ``plot`` is of the last one. More than one of ``jobs`` is as many processes, a recording each, whose
    utterances then come together. ConfigError when a file cannot be written, before the work if that can
    be known.
    """
    for path in filter(None, (output, plot)):
        require_writable(path)
    texts: list[str] = []  # of a regular file
    failed, n_recordings = 0, len(recordings)
    width = columns(otherwise=FULL) if output is None else FULL
    formatted = partial(_table, width=width) if form == "table" else FORMATS[form]
    with contextlib.ExitStack() as opened:
        stream = opened.enter_context(writing(output)) if output is not None and is_stream(output) else None

        def write(text: str) -> None:
            if stream is not None:
                stream.write(text.encode())
                stream.flush()
            elif output is None:
                click.echo(text, nl=False)
            else:
                texts.append(text)

        if form == "csv":
            write(csv_header(recognizer.labels))
        elif form == "table":
            write(utterance_header(recognizer.labels, width=width) + "\n")
        if jobs > 1:
            names = [name for name, _ in recordings]
            for name, found in zip(
                progress(names, "recordings"), each(_segments, (recognizer, config), names, jobs), strict=True
            ):
                if isinstance(found, EdgeSerError):
                    complain(found)
                    failed += 1
                    continue
                write((f"{name}\n" if form == "table" else "") + formatted(name, found))
                if not found:
                    _say_silent(name)
            recordings = ()
        for name, source in recordings:
            before = len(texts)
            try:
                with AudioReader(source) as reader, _progress(reader, shares_screen=output is None) as shown:
                    if form == "table" and len(recordings) > 1:
                        shown.clear()
                        write(f"{name}\n")
                    envelope, segments, n = Envelope(reader.n_samples), list[Segment](), 0

                    def heard(block: Float32Array, envelope: Envelope = envelope, shown: _Progress = shown) -> None:
                        envelope.add(block)
                        shown.advance(len(block))

                    for segment in timeline(recognizer, reader, config, heard):
                        shown.clear()
                        write(formatted(name, [segment]))
                        n += 1
                        if plot is not None:
                            segments.append(segment)
            except AudioError as error:
                complain(error)
                failed += 1
                del texts[before:]
                continue
            if n == 0:
                _say_silent(name)
            if plot is not None:
                from edge_ser.timeline.plot import draw_timeline

                title = f"{Path(name).name}, {n} utterance{'s' * (n != 1)}"
                with writing(plot) as file:
                    draw_timeline(file, title, reader.duration_s, envelope, segments, recognizer.labels)
    if output is not None and stream is None and failed < n_recordings:
        with writing(output) as file:
            file.write("".join(texts).encode())
    return failed


def _segments(shared: tuple[EmotionRecognizer, SegmenterConfig], name: str) -> list[Segment]:
    recognizer, config = shared
    with AudioReader(name) as reader:
        return list(timeline(recognizer, reader, config))


def _say_silent(name: str) -> None:
    click.echo(f"edge-ser: {name}: no speech was found", err=True)


class _Progress:
    """A progress bar on standard error, where somebody may see it: ``bar`` is None where nobody does."""

    def __init__(self, bar: Any = None, shares_screen: bool = False) -> None:
        self._bar, self._shares_screen = bar, shares_screen

    def advance(self, n_samples: int) -> None:
        """Tell that so many samples more were heard."""
        if self._bar is not None:
            self._bar.update(n_samples)

    def clear(self) -> None:
        """Make room for a row on the same screen; the bar comes back below it."""
        if self._bar is not None and self._shares_screen:
            click.echo("\r\x1b[K", nl=False, err=True)


@contextlib.contextmanager
def _progress(reader: AudioReader, shares_screen: bool) -> Iterator[_Progress]:
    if not sys.stderr.isatty():
        yield _Progress()
        return
    with click.progressbar(length=reader.n_samples, file=sys.stderr, label=Path(reader.name).name) as bar:
        yield _Progress(bar, shares_screen and sys.stdout.isatty())
