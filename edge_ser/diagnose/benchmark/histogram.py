"""Where times lie: one line of text, or a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_ser.diagnose.benchmark.results import Report
from edge_ser.files import writing

_HEIGHTS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 48
"""Columns of a sparkline between its ends."""


def sparkline(times_ms: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return a histogram of one line, the least and the greatest time at its ends; an empty bin is blank, however few a bar.

    >>> sparkline([1.0, 1.0, 1.0, 1.2, 2.0], width=5)
    '1.00 █▃  ▃ 2.00'
    """
    counts, edges = np.histogram(times_ms, bins=width)
    # A single outlier must show: the lowest bar is for one, not for none.
    bars = "".join(" " if n == 0 else _HEIGHTS[min(7, int(7 * n / counts.max()))] for n in counts)
    return f"{edges[0]:.2f} {bars} {edges[-1]:.2f}"


def draw_histogram(report: Report, path: Path) -> None:
    """Write a PNG: one panel a clip, one histogram a subject, its median and 99th percentile marked, every outlier a tick.

    Needs matplotlib. ConfigError when the file cannot be written.
    """
    from edge_ser.figures import new_figure

    cases = list(zip(*(result.cases for result in report.results), strict=True))
    figure = new_figure(figsize=(8, 0.6 + 2.2 * len(cases)), dpi=120, layout="constrained")
    panels = figure.subplots(len(cases), squeeze=False)[:, 0]
    for panel, of_clip in zip(panels, cases, strict=True):
        every = np.concatenate([case.answer.times_ms for case in of_clip])
        bins = np.geomspace(every.min() * 0.98, every.max() * 1.02, 70)
        for i, (result, case) in enumerate(zip(report.results, of_clip, strict=True)):
            found, color = case.answer.statistics(), f"C{i}"
            subject = result.subject
            label = (
                f"{subject.name}, {subject.engine}, {subject.threads} thread(s), {subject.provider}: "
                f"p50 {found['p50']:.2f}, p99 {found['p99']:.2f} ms, {found['outliers']} outliers"
            )
            panel.hist(case.answer.times_ms, bins=bins, color=color, alpha=0.5, label=label)
            panel.axvline(found["p50"], color=color)
            panel.axvline(found["p99"], color=color, linestyle=":")
            panel.plot(case.answer.times_ms, np.zeros(found["n"]), "|", color=color, markersize=9, clip_on=False)
        panel.set(xscale="log", ylabel="rounds", title=f"{of_clip[0].seconds:.3g} s of speech: file to answer")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.tick_params(axis="x", which="both", labelsize=7)
        panel.legend(fontsize=7)
    panels[-1].set_xlabel(f"ms; {report.machine.processor}, {report.rounds} rounds in turn")
    with writing(path, "the histogram") as file:
        figure.savefig(file, format="png")
