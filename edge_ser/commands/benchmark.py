"""``edge-ser benchmark``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_ser.commands._options import Between, require_apart
from edge_ser.errors import ConfigError, MissingExtraError, require_extra
from edge_ser.files import STANDARD_OUTPUT, require_writable
from edge_ser.terminal import columns, complain

if TYPE_CHECKING:
    from edge_ser.diagnose.benchmark.limits import Limit
    from edge_ser.diagnose.benchmark.results import Report


def _numbers(kind: type[int] | type[float], least: float, most: float) -> Callable[..., tuple[float, ...]]:
    """Return a callback that reads one number or several with commas between."""

    def read(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
        try:
            numbers = tuple(kind(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no list of numbers; expected such as 1,3") from None
        if not all(least <= number <= most for number in numbers):
            raise click.BadParameter(f"{value!r}: expected numbers from {least:g} to {most:g}")
        return tuple(dict.fromkeys(numbers))

    return read


def _words(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.split(",")))


def _limits(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[Limit]:
    from edge_ser.diagnose.benchmark.limits import Limit

    try:
        return [Limit.parse(text) for text in value]
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Measure how long answers take on this device.")
@click.argument("models", nargs=-1, metavar="[MODEL]...", type=click.Path(path_type=Path))
@click.option(
    "--backend", "backends", callback=_words, default="auto", metavar="NAME,...", help="auto (by the file), onnx, tflite, native."
)
@click.option("--threads", callback=_numbers(int, 1, 256), default="1", show_default=True, metavar="N,...", help="CPU threads.")
@click.option(
    "--provider", "providers", callback=_words, default="cpu", show_default=True, metavar="NAME,...", help="As predict's."
)
@click.option(
    "--seconds", callback=_numbers(float, 0.1, 600), default="1,3,14", show_default=True, metavar="S,...", help="Clips' lengths."
)
@click.option("--audio", type=click.Path(path_type=Path), metavar="FILE", help="Your own recording instead of speech-like sound.")
@click.option("--runs", type=click.IntRange(1), metavar="N", help="Exactly N rounds.")
@click.option(
    "--duration",
    type=Between(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Without --runs: at most so long.",
)
@click.option("--starts", type=click.IntRange(0), default=5, show_default=True, metavar="N", help="Fresh processes; 0: none.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write everything as JSON.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the histogram.")
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), metavar="A.json B.json", help="Measure nothing; set B beside A."
)
@click.option("--fail-if", "limits", multiple=True, callback=_limits, metavar="LIMIT", help="Exit 1 if so: 'p99>20ms'.")
def command(
    models: tuple[Path, ...],
    backends: tuple[str, ...],
    threads: tuple[int, ...],
    providers: tuple[str, ...],
    seconds: tuple[float, ...],
    audio: Path | None,
    runs: int | None,
    duration: float,
    starts: int,
    json_file: Path | None,
    plot_file: Path | None,
    compare: tuple[Path, Path] | None,
    limits: list[Limit],
) -> None:
    """Measure how long answers take here, per stage and as a whole, for each MODEL (default: the model that ships).

    Several models, backends, thread counts or providers are measured in turn, round by round, so that a machine that is
    now fast, now slow is so to all of them. Rounds go on until every answer's median is known to 2 %, at most for
    --duration, or for exactly --runs.

    \b
    --fail-if 'p99>20ms'               the slowest in a hundred answers; also front_end.p50, network.p99, stream_answer.max ...
    --fail-if 'cold_start.p50>450ms'   also import, load, first_answer; steady_memory>90MB, idle_cpu>0.5%, rtf>0.01, size>1MB
    --fail-if 'p50>1.1x'               with --compare: B's median as a multiple of A's
    """
    require_apart([json_file, plot_file], [*models, audio])
    from edge_ser.diagnose.benchmark.results import Subject, read_report

    reference = None
    if compare:
        from edge_ser.diagnose.benchmark.comparison import format_comparison, matched

        reference = read_report(compare[0])
        report = matched(reference, read_report(compare[1]))
        click.echo(format_comparison(reference, report))
    else:
        if any(limit.unit == "x" for limit in limits):
            raise click.UsageError("a limit in x relates two benchmarks; give --compare A.json B.json")
        from edge_ser.diagnose.benchmark.measurement import Rule, measure

        names: Iterable[str | None] = map(str, models) if models else (None,)
        subjects = [Subject(m, b, t, p) for m in names for b in backends for t in threads for p in providers]
        rule = Rule(runs, duration)
        report = _measured(partial(measure, subjects, seconds, audio, rule, starts), json_file, plot_file)
    broken = [line for limit in limits for line in limit.broken(report, reference)]
    for line in broken:
        complain(ConfigError(f"limit broken: {line}"))
    if broken:
        sys.exit(1)


def _measured(run: Callable[..., Report], json_file: Path | None, plot_file: Path | None) -> Report:
    """Measure, print the table, write the files."""
    from edge_ser.diagnose.benchmark.histogram import draw_histogram
    from edge_ser.diagnose.benchmark.results import write_report
    from edge_ser.diagnose.benchmark.table import format_report

    for file in filter(None, (json_file, plot_file)):
        require_writable(file)
    if plot_file is not None:
        try:
            require_extra("plot", "matplotlib")
        except MissingExtraError as error:
            complain(MissingExtraError(f"{error}; there will be no {plot_file}, only the histogram in text"))
            plot_file = None
    with click.progressbar(length=1000, file=sys.stderr, label="starting", show_percent=True) as shown:

        def progress(what: str, share: float) -> None:
            if shown.label != what:
                shown.label, shown.pos = what, 0
            shown.update(max(0, round(1000 * min(share, 1.0)) - shown.pos))

        report = run(progress=progress)
    click.echo(format_report(report, columns()), err=STANDARD_OUTPUT in (json_file, plot_file))
    if json_file is not None:
        write_report(report, json_file)
    if plot_file is not None:
        draw_histogram(report, plot_file)
    return report
