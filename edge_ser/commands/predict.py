"""``edge-ser predict``: the emotion in recordings, whole or utterance by utterance."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from edge_ser.commands._options import (
    backend_option,
    configured,
    min_confidence_option,
    min_speech_option,
    model_option,
    print_note,
    profile_option,
    provider_option,
    require_apart,
    threads_option,
)
from edge_ser.errors import AudioError, EdgeSerError, require_extra
from edge_ser.files import STANDARD_OUTPUT
from edge_ser.processes import cores, each
from edge_ser.terminal import FULL, Layout, bar, columns, complain

if TYPE_CHECKING:
    from edge_ser.prediction import Prediction
    from edge_ser.recognizer import EmotionRecognizer

_WORTH_A_PROCESS = 64  # recordings: a process takes as long to start as these to answer


@click.command(short_help="Recognise the emotion in recordings.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@model_option
@backend_option
@threads_option
@provider_option
@min_confidence_option
@min_speech_option
@profile_option
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes for many recordings; default: the cores.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of the table.")
@click.option("--embedding", is_flag=True, help="With --json: add the 64-d embedding.")
@click.option("--segments", is_flag=True, help="A timeline: every utterance in the recording on its own.")
@click.option(
    "--format", "form", type=click.Choice(["table", "jsonl", "csv", "audacity", "rttm"]), help="With --segments; default: table."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="With --segments: write there.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="With --segments: draw the timeline of one FILE.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="With --segments: as `listen --set`.")
def command(
    files: tuple[str, ...],
    model: Path | None,
    backend: str,
    threads: int,
    provider: str,
    min_confidence: float,
    min_speech: float | None,
    profile: Path | None,
    jobs: int | None,
    as_json: bool,
    embedding: bool,
    segments: bool,
    form: str | None,
    output: Path | None,
    plot: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Recognise the emotion in each FILE: a recording, a folder of recordings, or - for a recording on standard input.

    Noise, tones, music or clicks, in which there probably is no speech, are answered `no_speech`.

    A file that cannot be answered is named on standard error, the others are still answered, and the exit status is 1.
    """
    if embedding and not as_json:
        raise click.UsageError("--embedding goes with --json")
    if not segments and (form or output or plot or settings):
        raise click.UsageError("--format, --output, --plot and --set go with --segments")
    if segments and as_json:
        raise click.UsageError("--json is of whole recordings; of --segments it is --format jsonl")
    recordings, failed = _recordings(files)
    if len(recordings) > 1 and (plot or form == "audacity"):
        raise click.UsageError(f"a plot, or a label track, is of one recording; {len(recordings)} were given")
    if segments:
        require_apart([output or STANDARD_OUTPUT, plot], [*recordings, model, profile])
        output = None if output == STANDARD_OUTPUT else output
        from edge_ser.live.segmenter import SegmenterConfig

        segmenter: SegmenterConfig = configured(settings, SegmenterConfig)[0]
        if plot:
            require_extra("plot", "matplotlib")
    from edge_ser.recognizer import EmotionRecognizer

    recognizer = EmotionRecognizer(
        model,
        backend=backend,
        threads=threads,
        provider=provider,
        min_confidence=min_confidence,
        min_speech=min_speech,
        profile=profile,
    )
    most = 1 if provider != "cpu" or "-" in recordings else jobs or max(1, cores() // threads)
    if segments:
        from edge_ser.timeline.segments import print_segments

        sources = [(name, _standard_input() if name == "-" else name) for name in recordings]
        processes = min(most, len(recordings))
        sys.exit(1 if print_segments(recognizer, sources, segmenter, form or "table", output, plot, processes) or failed else 0)
    layout = Layout.of(min(48, max(map(len, ["file", *recordings]))), len(recognizer.labels), columns(otherwise=FULL))
    headed = as_json
    front_end = recognizer.manifest.front_end
    # A frame more than are judged.
    long_s = (front_end.max_frames * front_end.hop_samples + front_end.frame_samples) / front_end.rate_hz
    cut = 0
    with _progress(recordings) as names:
        processes = min(most, -(-len(recordings) // (1 if jobs else _WORTH_A_PROCESS)))
        for name, prediction in zip(names, each(_predicted, recognizer, recordings, processes), strict=True):
            if isinstance(prediction, EdgeSerError):
                complain(prediction)
                failed += 1
                continue
            is_cut = prediction.duration_s >= long_s
            cut += is_cut
            if not headed:
                click.echo(layout.row("file", "emotion", "confidence", recognizer.labels, "length"))
                headed = True
            if as_json:
                click.echo(_json_line(name, prediction, embedding))
            else:
                confidence = f"{bar(prediction.confidence)} {prediction.confidence:4.0%}"
                shares = [f"{p:.0%}" for p in prediction.probabilities.values()]
                note = "  middle" * is_cut
                click.echo(layout.row(name, prediction.label, confidence, shares, f"{prediction.duration_s:.2f} s", note))
    if cut:
        judged_s = front_end.max_frames * front_end.hop_samples / front_end.rate_hz
        of = f" of each of {cut} recordings" if cut > 1 else ""
        click.echo(f"edge-ser: the middle {judged_s:g} s{of} were judged; --segments answers for every utterance", err=True)
    if failed:
        sys.exit(1)


def _predicted(recognizer: EmotionRecognizer, name: str) -> Prediction:
    return recognizer.predict(_standard_input() if name == "-" else name)


def _recordings(names: Iterable[str]) -> tuple[list[str], int]:
    """Expand folders into the recordings below them, sorted; also return how many folders held none.

    What is skipped there, because it is not decoded, is told.
    """
    from edge_ser.frontend.audio import AUDIO_SUFFIXES, recordings_below
    from edge_ser.frontend.containers import FOREIGN_SUFFIXES, skipped

    recordings: list[str] = []
    foreign: list[Path] = []
    empty = 0
    for name in names:
        if not os.path.isdir(name):
            recordings.append(name)
            continue
        below = recordings_below(Path(name), AUDIO_SUFFIXES + FOREIGN_SUFFIXES)
        found = [path for path in below if path.suffix.lower() in AUDIO_SUFFIXES]
        foreign += [path for path in below if path.suffix.lower() in FOREIGN_SUFFIXES]
        if not found:
            complain(AudioError(f"no recordings below the folder {name}; expected files in {', '.join(AUDIO_SUFFIXES)}"))
            empty += 1
        recordings += map(str, found)
    if foreign:
        print_note(skipped(len(foreign), str(foreign[0])))
    return recordings, empty


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise AudioError("standard input is closed; expected a recording")
    return sys.stdin.buffer


def _progress(names: list[str]) -> Any:
    """Return a context manager over ``names``: a progress bar where the answers themselves are not on the screen."""
    bar_helps = len(names) > 1 and sys.stderr.isatty() and not sys.stdout.isatty()
    if not bar_helps:
        return contextlib.nullcontext(names)
    began = time.monotonic()

    def speed(name: str | None) -> str:
        return f"{shown.pos / max(1e-3, time.monotonic() - began):.0f} files/s"

    shown = click.progressbar(names, file=sys.stderr, label="recognising", show_pos=True, item_show_func=speed)
    return shown


def _json_line(name: str, prediction: Prediction, embedding: bool) -> str:
    record = {"file": name, **prediction.record()}
    if embedding:
        record["embedding"] = [float(f"{v:.6g}") for v in prediction.embedding]
    return json.dumps(record, ensure_ascii=False, allow_nan=False)
