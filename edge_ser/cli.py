"""The ``edge-ser`` command. Verbs of the training and export packages join through the entry points ``edge_ser.commands``."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from edge_ser import verbs
from edge_ser.errors import AudioError, EdgeSerError
from edge_ser.terminal import (
    BAR_WIDTH,
    backend_option,
    bar,
    complain,
    configured,
    min_confidence_option,
    model_option,
    profile_option,
    provider_option,
    require_extra,
    threads_option,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from edge_ser.decision import Prediction
    from edge_ser.model_file import ModelFile

_KEY_WIDTH, _CARD_WIDTH = 16, 100


def _announced() -> EntryPoints:
    from importlib.metadata import entry_points  # slower to import than all the rest here, and the own verbs need none

    return entry_points(group="edge_ser.commands")


class _Commands(click.Group):
    """The verbs below, those of edge_ser.verbs and those that installed packages announce; imported on use or for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = (module.name for module in pkgutil.iter_modules(verbs.__path__))
        announced = (point.name for point in _announced())
        return sorted({*super().list_commands(ctx), *own, *announced})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name in (module.name for module in pkgutil.iter_modules(verbs.__path__)):
            verb: click.Command = importlib.import_module(f"edge_ser.verbs.{cmd_name}").command
            return verb
        for point in _announced().select(name=cmd_name):
            command: click.Command = point.load()
            return command
        return None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-ser")
def cli() -> None:
    """Tell how a person sounds: speech emotion recognition on the device, offline.

    It infers how speech sounds, not what a person feels.
    """


def main() -> None:
    """Run the command line; every EdgeSerError becomes one line on standard error and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without our characters is no reason to stop
    warnings.formatwarning = lambda message, *_, **__: f"edge-ser: warning: {message}\n"
    try:
        cli(prog_name="edge-ser")
    except (EdgeSerError, OSError) as error:
        complain(error)
        sys.exit(1)


@cli.command(short_help="Recognise the emotion in recordings.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@model_option
@backend_option
@threads_option
@provider_option
@click.option("--spinning", is_flag=True, help="Let waiting threads spin (faster with several threads, busy when idle).")
@min_confidence_option
@profile_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of the table.")
@click.option("--embedding", is_flag=True, help="With --json: add the 64-d embedding.")
@click.option("--segments", is_flag=True, help="A timeline: every utterance in the recording on its own.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv", "audacity", "rttm"]),
    help="With --segments; default: table.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="With --segments: write there.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="With --segments: draw the timeline of one FILE.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="With --segments: as `listen --set`.")
def predict(
    files: tuple[str, ...],
    model: Path | None,
    backend: str,
    threads: int,
    provider: str,
    spinning: bool,
    min_confidence: float,
    profile: Path | None,
    as_json: bool,
    embedding: bool,
    segments: bool,
    form: str | None,
    output: Path | None,
    plot: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Recognise the emotion in each FILE: a recording, a folder of recordings, or - for a recording on standard input.

    An answer marked `novel` is about speech farther from what the model knows than 99 % of the speech its confidence was
    fitted on: trust it less.

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
        from edge_ser.utterances import SegmenterConfig

        segmenter: SegmenterConfig = configured(settings, SegmenterConfig)[0]
        if plot:
            require_extra("plot", "matplotlib")
    from edge_ser.recognizer import EmotionRecognizer

    recognizer = EmotionRecognizer(
        model,
        backend=backend,
        threads=threads,
        provider=provider,
        spinning=spinning,
        min_confidence=min_confidence,
        profile=profile,
    )
    if segments:
        from edge_ser.segments import print_segments

        sources = [(name, _standard_input() if name == "-" else name) for name in recordings]
        sys.exit(1 if print_segments(recognizer, sources, segmenter, form or "table", output, plot) or failed else 0)
    width = min(48, max(map(len, ["file", *recordings])))
    headed = as_json
    with _progress(recordings) as names:
        for name in names:
            try:
                prediction = recognizer.predict(_standard_input() if name == "-" else name)
            except AudioError as error:
                complain(error)
                failed += 1
                continue
            if not headed:
                _row("file", "emotion", "confidence", recognizer.labels, "length", width)
                headed = True
            if as_json:
                click.echo(_json_line(name, prediction, embedding))
            else:
                confidence = f"{bar(prediction.confidence)} {prediction.confidence:4.0%}"
                shares = [f"{p:.0%}" for p in prediction.probabilities.values()]
                note = "  novel" if prediction.is_novel else ""
                _row(name, prediction.label, confidence, shares, f"{prediction.duration_s:.2f} s", width, note)
    if failed:
        sys.exit(1)


def _recordings(names: Iterable[str]) -> tuple[list[str], int]:
    """Expand folders into the recordings below them, sorted; also return how many folders held none."""
    from edge_ser.audio import AUDIO_SUFFIXES

    recordings: list[str] = []
    empty = 0
    for name in names:
        if not os.path.isdir(name):
            recordings.append(name)
            continue
        found = sorted(p for p in Path(name).rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        if not found:
            complain(AudioError(f"no recordings below the folder {name}; expected files in {', '.join(AUDIO_SUFFIXES)}"))
            empty += 1
        recordings += map(str, found)
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
    return click.progressbar(names, file=sys.stderr, label="recognising", show_pos=True)


def _row(name: str, label: str, confidence: str, shares: Iterable[str], length: str, width: int, note: str = "") -> None:
    shown = name if len(name) <= width else "…" + name[1 - width :]
    columns = "".join(f"{share:>9}" for share in shares)
    click.echo(f"{shown:<{width}}  {label:<9} {confidence:<{BAR_WIDTH + 5}} {columns} {length:>10}{note}")


def _json_line(name: str, prediction: Prediction, embedding: bool) -> str:
    record = {"file": name, **prediction.record()}
    if embedding:
        record["embedding"] = [float(f"{v:.6g}") for v in prediction.embedding]
    return json.dumps(record, ensure_ascii=False)


@cli.command(short_help="Print the model card.")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def info(model: Path | None, as_json: bool) -> None:
    """Print the model card of MODEL (default: the model that ships), from the manifest in the file."""
    from edge_ser.backends import BACKENDS, shipped_backend
    from edge_ser.model_file import read_model_file, shipped_model_path

    file = read_model_file(model or shipped_model_path(BACKENDS[shipped_backend()]))
    manifest = file.manifest
    if as_json:
        click.echo(json.dumps(json.loads(manifest.to_json()), indent=2, ensure_ascii=False))
        return
    for key, text in _card(file):
        # A path stays whole: it is there to be copied.
        lines = textwrap.wrap(text, _CARD_WIDTH - _KEY_WIDTH, break_long_words=False, break_on_hyphens=False)
        click.echo(f"{key:<{_KEY_WIDTH}}{lines[0]}")
        for line in lines[1:]:
            click.echo(" " * _KEY_WIDTH + line)


def _card(file: ModelFile) -> Iterator[tuple[str, str]]:
    """Yield the model card, line by line: what it is about and what the manifest says; an empty key goes on."""
    manifest = file.manifest
    front_end, training, quantization = manifest.front_end, manifest.training, manifest.quantization
    yield "model", str(file.path)
    yield "size", f"{len(file.content) / 1e6:.2f} MB, {quantization['scheme']}"
    weights, macs = quantization["weights_int8_percent"], quantization["macs_int8_percent"]
    yield "int8", f"{weights:.0f} % of weights, {macs:.0f} % of operations"
    yield "meant for", manifest.intended_use
    yield "not meant for", manifest.excluded_use
    yield "labels", ", ".join(manifest.labels)
    yield "front end", f"{front_end.name}: {front_end.rate_hz} Hz, {front_end.n_bins} bins"
    yield "embedding", f"{manifest.embedding_size} values, {len(manifest.centres)} class centres"
    yield "temperature", f"{manifest.temperature:.3f} (fitted on {training['dev_speakers']} dev speakers)"
    yield "novel speech", f"farther than {manifest.novelty_distance:.2f} from every class centre, as 1 % of the dev clips are"
    yield (
        "trained with",
        f"preset {training['preset']}, lambda {training['lambda_center']:g}, seed {training['seed']}, "
        f"step {training['best_step']} of {training['steps']}",
    )
    yield "trained on", f"{training['train_clips']} clips of {training['train_speakers']} speakers; {training['speech']}"
    for corpus in training["corpora"]:
        earlier = " (of what it builds on)" if corpus.get("earlier") else ""
        yield "", f"{corpus['name']}: {corpus['train_clips']} clips{earlier}, {corpus['licence']}; {corpus['citation']}"
    for score in manifest.scores:
        low, high = score["ua_95"]
        yield (
            f"{score['corpus']} {score['split']}",
            f"UA {score['ua']:.1%} [{low:.1%}, {high:.1%}], WA {score['wa']:.1%}, macro-F1 {score['macro_f1']:.1%}, "
            f"ECE {score['ece']:.3f}",
        )
        yield "", f"{score['n_clips']} clips, {score['n_speakers']} speakers; {score['protocol']}"
        if score["by_gender"]:
            genders = score["by_gender"].items()
            yield "", ", ".join(f"{gender}: UA {of['ua']:.1%} on {of['n_clips']} clips" for gender, of in genders)
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.created_with.items())
