"""Measure everything that BENCHMARKS.md states, and write it: edge-ser itself, its peers, its limits, its scaling.

python bench/benchmarks.py -o BENCHMARKS.md

The page has a section for every kind of processor it was run on; this one's is written anew, the others stay.

Needs ``pip install '.[bench]'``. One thread; what is compared is run in turn. About ten minutes on a quiet machine.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
# What pip installs is compiled already; a checkout must be let to, or every start would compile it anew.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""

import re
import tempfile
from pathlib import Path

import click
import sections

from edge_ser import EmotionRecognizer
from edge_ser.commands._options import require_apart
from edge_ser.diagnose.benchmark.results import Subject
from edge_ser.diagnose.benchmark.table import condition_lines, machine_lines
from edge_ser.diagnose.machine import installed_version, read_condition, read_machine
from edge_ser.engines import shipped_backend
from edge_ser.engines.clib import KERNEL_VARIABLE
from edge_ser_train.method.run import write_atomic

_PREFACE = """# Benchmarks

One thread unless it says otherwise; what stands in one table was run in turn, round by round. The clip is the
speech-like sound of `edge-ser benchmark`: what is said changes no time. The model is the int8 one that ships, in the
engine that `auto` takes there, unless another is named; float.onnx is the same network,
`edge-ser export RUN -o float.onnx`.

"""
_SECTION = "## On "


def page(before: str, section: str) -> str:
    """Return the page ``before`` with ``section`` in place of the one of the same heading, or as one more; in order of headings.

    >>> page("an old page", "## On B\\n\\nnew\\n") == _PREFACE + "## On B\\n\\nnew\\n"
    True
    >>> page(_PREFACE + "## On A\\n\\na\\n\\n## On B\\n\\nold\\n", "## On B\\n\\nnew\\n").splitlines()[-7:]
    ['## On A', '', 'a', '', '## On B', '', 'new']
    """
    sections = re.findall(rf"^{_SECTION}.*?(?=^{_SECTION}|\Z)", before, re.MULTILINE | re.DOTALL)
    of = {text.partition("\n")[0]: text.rstrip() for text in (*sections, section)}
    return _PREFACE + "\n\n".join(of[heading] for heading in sorted(of)) + "\n"


@click.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Markdown file, with a section for every kind of processor; the plot lies in the folder bench beside it.",
)
@click.option(
    "--float", "float_model", type=click.Path(path_type=Path, exists=True), help="A float ONNX file of the same network."
)
@click.option("--quick", is_flag=True, help="A tenth of the rounds: to try the script, not to publish.")
def main(out: Path, float_model: Path | None, quick: bool) -> None:
    """Measure, and write this kind of processor's section."""
    require_apart([out], [float_model])

    def note(text: str) -> None:
        click.echo(f"{text} ...", err=True)

    subjects = [Subject(None, backend=name) for name in dict.fromkeys([shipped_backend(), "onnx", "tflite"])]
    if float_model is not None:
        subjects.append(Subject(str(float_model)))
    cores = len(os.sched_getaffinity(0))
    forced = os.environ.get(KERNEL_VARIABLE)
    kernel = f"held to {forced}" if forced else EmotionRecognizer()._backend.kernel or "no vector kernels"
    kind = f"{read_machine().processor or 'processor not told'}, {kernel}"
    plot = out.parent / "bench" / f"scaling-{re.sub('[^a-z0-9]+', '-', kind.lower()).strip('-')}.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        note("models and engines")
        report, own = sections.ours(subjects, 6 if quick else 60, 2 if quick else 9)
        note("peers")
        peer_rows, ratios = sections.against_peers(2 if quick else 15, folder)
        note("attainable rate")
        rate_rows, share = sections.against_the_machine(4 if quick else 40, folder)
        note("lengths")
        length_rows = sections.lengths(5 if quick else 50, plot)
        note("hours")
        hour_rows = sections.hours(folder, 0.25 if quick else 2.0)
        note("a folder of clips")
        clip_rows, sooner = sections.many_clips(folder, 387 if quick else 3870, cores, 1 if quick else 3)
        note("streams")
        cost_rows = sections.one_stream(2 if quick else 10)
        stream_rows, most = sections.parallel_streams(2 if quick else 10, cores)
    busy = (report.before.load or 0) > report.machine.cores
    command = (
        (f"{KERNEL_VARIABLE}={forced} " if forced else "")
        + f"python bench/benchmarks.py -o {out.name}"
        + (f" --float {float_model.name}" if float_model else "")
    )
    machine = [*machine_lines(report.machine), *condition_lines(report.before, read_condition())]
    text = [
        f"{_SECTION}{kind}",
        "",
        f"Written by `{command}`; nothing here is typed by hand.",
        *(["", "**A quick run, to try the script: too few rounds to be quoted.**"] if quick else []),
        *(
            ["", f"**The C library was held to its kernels for `{forced}`; what else stands here used all of the processor.**"]
            if forced
            else []
        ),
        *(["", "**The machine was busy with other work: compare within a table, quote no time.**"] if busy else []),
        "",
        "### The machine",
        "",
        *(f"- {line}" for line in machine),
        f"- edge-ser {report.edge_ser}, torch {installed_version('torch')}, opensmile {installed_version('opensmile')}",
        "",
        "### What was aimed at",
        "",
        *sections.goals(report, ratios, share, most, sooner, cores),
        "",
        "### Models and engines",
        "",
        f"`edge-ser benchmark`: {report.warm_up_rounds} rounds of warm-up, {report.rounds} rounds, {report.stopped_because}.",
        "",
        *own,
        "",
        "### Peers",
        "",
        "Samples in, features included, one thread, in one process. The ratios are of processor time, which on one thread is the",
        "time that passes but for what other work on the machine takes.",
        "",
        *peer_rows,
        "",
        "### The encoder and the machine",
        "",
        f"ONNX Runtime computes the four convolutions for 3 s of speech at {share:.0%} of the rate of the fastest of some",
        "large ones alone. The C library's rate counts the multiplications of the convolutions also where Winograd's way (exact)",
        "needs fewer.",
        "",
        *rate_rows,
        "",
        "### Length",
        "",
        *length_rows,
        "",
        f"![Time against length](bench/{plot.name})",
        "",
        "Of a recording longer than 14 s the middle 14 s are judged; all of it is read and checked. `--segments` judges every",
        "utterance in it; most of its time goes into finding them (Silero VAD).",
        "",
        *hour_rows,
        "",
        *clip_rows,
        "",
        "### Streams",
        "",
        f"{cores} cores, a process each; every stream is fed 20 ms of sound every 20 ms and answers every 3 s. It keeps up",
        f"while 99 of 100 chunks are taken before the next is due: **{most} streams** did.",
        "",
        *stream_rows,
        "",
        *cost_rows,
        "",
    ]
    write_atomic(out, page(out.read_text(encoding="utf-8") if out.exists() else "", "\n".join(text)))
    click.echo(f"wrote {out} and {plot}", err=True)


if __name__ == "__main__":
    main()
