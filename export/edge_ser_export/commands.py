"""The command-line verb of the export side; torch and onnx are imported when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from edge_ser.commands._options import require_apart
from edge_ser.errors import require_extra


@click.command(short_help="Turn a training run into a model file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--int8", is_flag=True, help="Convolutions, GRU and FC in int8; calibrated, verified, refused if it got worse.")
@click.option(
    "--format",
    "formats",
    metavar="NAMES",
    help="onnx, tflite, eser or c, or several: onnx,tflite. Default: by the suffix of --output.",
)
@click.option(
    "--calibration-data",
    type=click.Path(path_type=Path),
    help="With --int8: a folder of recordings to calibrate on instead of the run's training clips.",
)
@click.option("--data", type=click.Path(path_type=Path), help="With --int8: where the run's corpora lie, if they moved.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Model file, for c a folder; with several formats the name without suffix.",
)
@click.option("--profile", type=click.Path(path_type=Path), metavar="FILE", help="With --format c: the person in it, too.")
def export(
    run: Path,
    int8: bool,
    formats: str | None,
    calibration_data: Path | None,
    data: Path | None,
    output: Path,
    profile: Path | None,
) -> None:
    """Write the best weights of RUN as self-describing model files, or as C source, and verify them against the network.

    A file that answers otherwise than the network is not written. Beside the files lies a report, OUTPUT.report.json.
    """
    require_extra("export", "torch", "safetensors", "onnx", "ai_edge_litert")
    from edge_ser.personal.c_source import write_person
    from edge_ser.personal.profile import Profile
    from edge_ser_export.exporter import make_files, time_files
    from edge_ser_export.formats import FORMATS
    from edge_ser_export.material import gather
    from edge_ser_export.report import format_coverage, format_report

    def say(line: str) -> None:
        click.echo(line, err=True)

    if calibration_data and not int8:
        raise click.UsageError("--calibration-data is for --int8; float32 needs no calibration")
    by_suffix = {form.suffix: name for name, form in FORMATS.items() if form.suffix}
    names = formats.split(",") if formats else [by_suffix.get(output.suffix, "onnx")]
    stem = output.with_suffix("") if output.suffix in by_suffix else output
    if len(names) == 1:
        outputs = {names[0]: output}
    else:
        outputs = {name: stem.with_name(stem.name + (FORMATS[name].suffix if name in FORMATS else "")) for name in names}
    if profile is not None and "c" not in outputs:
        raise click.UsageError("--profile goes with --format c; other formats take a profile where they are used")
    person = None if profile is None else Profile.load(profile)
    report = stem.with_name(f"{stem.name}.report.json")
    recordings = calibration_data.rglob("*") if calibration_data else ()
    require_apart([*outputs.values(), report], [*run.glob("*"), *recordings])
    material = gather(run, outputs, say, int8, calibration_data, data)
    reports = make_files(material, outputs, say, report)
    if person is not None:
        size = write_person(person, material.facts, outputs["c"])
        say(f"{outputs['c']}: the person takes {size / 1000:.0f} KB of constants")
    say("measuring how long they take, in turn")
    times = time_files(material, outputs)
    click.echo(format_report(reports, times))
    if int8:
        click.echo(format_coverage(reports))
