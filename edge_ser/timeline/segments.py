"""``edge-ser predict --segments``: timelines of recordings, printed or written to a file, and drawn."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edge_ser.errors import AudioError
from edge_ser.files import replacing, require_writable
from edge_ser.frontend.audio import AudioReader
from edge_ser.live.segmenter import SegmenterConfig
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import columns, complain, utterance_header, utterance_row
from edge_ser.timeline.formats import Envelope, Float32Array, Segment, audacity, csv_header, csv_rows, jsonl, rttm, timeline

FORMATS: dict[str, Callable[[str, Sequence[Segment]], str]] = {
    "table": lambda name, segments: "".join(
        f"{utterance_row(s.start_s, s.stop_s, s.prediction, s.cut, width=columns())}\n" for s in segments
    ),
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
) -> int:
    """Write the timelines of ``recordings``, (name, source) each, in the format ``form``; return how many have none.

    To ``output``, or standard output; of a recording that cannot be read to its end, nothing but the reason on standard error.
    Where all of them fail, ``output`` stays as it was. The picture ``plot`` is of the last one. ConfigError when a file cannot
    be written, before the work if that can be known.
    """
    texts: list[str] = []  # of a file, which is written when all is known

    def write(text: str) -> None:
        if output is None:
            click.echo(text, nl=False)
        else:
            texts.append(text)

    for path in filter(None, (output, plot)):
        require_writable(path)
    failed = 0
    if form == "csv":
        write(csv_header(recognizer.labels))
    elif form == "table":
        write(utterance_header(recognizer.labels, columns()) + "\n")
    for name, source in recordings:
        try:
            with AudioReader(source) as reader:
                envelope = Envelope(reader.n_samples)
                segments = _segments(recognizer, reader, config, envelope)
        except AudioError as error:
            complain(error)
            failed += 1
            continue
        if form == "table" and len(recordings) > 1:
            write(f"{name}\n")
        write(FORMATS[form](name, segments))
        if not segments:
            click.echo(f"edge-ser: {name}: no speech was found", err=True)
        if plot is not None:
            from edge_ser.timeline.plot import draw_timeline

            title = f"{Path(name).name}, {len(segments)} utterance{'s' * (len(segments) != 1)}"
            with replacing(plot) as partial:
                draw_timeline(partial, title, reader.duration_s, envelope, segments, recognizer.labels)
    if output is not None and failed < len(recordings):
        with replacing(output) as partial:
            partial.write_text("".join(texts), encoding="utf-8")
    return failed


def _segments(recognizer: EmotionRecognizer, reader: AudioReader, config: SegmenterConfig, envelope: Envelope) -> list[Segment]:
    """Return the timeline of an open recording, with a progress bar where somebody may see it."""
    with contextlib.ExitStack() as shown:
        progress = None
        if sys.stderr.isatty():
            name = Path(reader.name).name
            progress = shown.enter_context(click.progressbar(length=reader.n_samples, file=sys.stderr, label=name))

        def heard(block: Float32Array) -> None:
            envelope.add(block)
            if progress is not None:
                progress.update(len(block))

        return list(timeline(recognizer, reader, config, heard))
