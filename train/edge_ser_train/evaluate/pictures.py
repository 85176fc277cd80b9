"""Pictures of a run and of its evaluations: curves, confusion, reliability."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.figures import new_figure
from edge_ser_train.method.run import write_atomic

_FEW = 5
"""Clips below which a share says nothing."""


def write_report(report: dict[str, Any], metrics: list[dict[str, Any]], folder: Path) -> None:
    """Draw curves.png (losses and dev UA by step) and confusion.png (dev, rows true) into the run's folder."""
    steps = [line["step"] for line in metrics]
    figure = new_figure(figsize=(7.5, 6), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True)
    top.plot(steps, [line["softmax_loss"] for line in metrics], label="weighted softmax loss")
    top.plot(steps, [line["center_loss"] for line in metrics], label="weighted center loss")
    top.plot(steps, [line["loss"] for line in metrics], label="joint loss", color="black", linewidth=1)
    top.set_yscale("log")
    top.set_ylabel("training loss")
    top.legend(frameon=False)
    bottom.plot(steps, [100 * line["dev_ua"] for line in metrics], color="tab:green", label="dev UA")
    best = report["best_step"]
    bottom.axvline(best, color="0.6", linestyle=":", label=f"kept: step {best}, UA {report['dev']['ua']:.1%}")
    bottom.set_ylabel("UA (%)")
    bottom.set_xlabel("step")
    bottom.legend(frameon=False, loc="lower right")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    save(figure, folder / "curves.png")

    figure = new_figure(figsize=(5, 4.4), layout="constrained")
    _draw_confusion(figure, figure.subplots(), report["labels"], report["dev"]["confusion"])
    figure.suptitle(f"dev: UA {report['dev']['ua']:.1%}, {report['dev']['n_clips']} clips", fontsize=10)
    save(figure, folder / "confusion.png")


def write_evaluation(result: dict[str, Any], path: Path) -> None:
    """Draw the confusion (rows true) and the reliability diagram of an evaluation, one picture."""
    figure = new_figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_confusion(figure, left, result["labels"], result["confusion"])
    _draw_reliability(right, result)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    low, high = result["ua_95"]
    figure.suptitle(
        f"{result['corpus']} {result['split']}: UA {result['ua']:.1%} [{low:.1%}, {high:.1%}], {result['n_clips']} clips; "
        f"{result['protocol']}",
        fontsize=10,
    )
    save(figure, path)


def write_reliability(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the reliability diagrams of several evaluations side by side."""
    figure = new_figure(figsize=(3.6 * len(results), 4.2), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        _draw_reliability(axes, result)
        axes.set_title(f"{result['corpus']} {result['split']}: ECE {result['ece']:.3f}, {result['n_clips']} clips", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    save(figure, path)


def _draw_confusion(figure: Any, axes: Any, labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
    """Draw shares of each true class and clip counts; the row of a class without a clip stays empty."""
    counts = np.array(confusion)
    total = counts.sum(axis=1, keepdims=True)
    share = np.where(total > 0, counts / np.maximum(1, total), np.nan)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    for (i, j), value in np.ndenumerate(share):
        color, shown = "white" if value > 0.55 else "black", "-" if np.isnan(value) else f"{value:.0%}\n{counts[i, j]}"
        axes.text(j, i, shown, ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(image, ax=axes, shrink=0.8)


def _draw_reliability(axes: Any, result: dict[str, Any]) -> None:
    """Draw how many answers of each confidence are right, over the share of all clips that have this confidence."""
    bins = np.array(result["reliability"])
    n, sure, right = bins[bins[:, 0] >= _FEW].T
    width, share = 1 / len(bins), bins[:, 0] / bins[:, 0].sum()
    axes.bar(width * np.arange(len(bins)), share, width, align="edge", color="0.85", label="share of the clips")
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="confidence as it should be")
    axes.errorbar(
        sure, right, np.sqrt(right * (1 - right) / n), color="tab:blue", marker="o", markersize=4, capsize=2,
        label=f"answered right, of {_FEW} clips or more, with its standard error",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share", aspect="equal")
    axes.set_title(f"ECE {result['ece']:.3f}", fontsize=10)


def write_adaptation(corpora: Sequence[Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw UA, with its interval over speakers, against the utterances of every emotion that were given: a line a corpus."""
    figure = new_figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    given = [0, *sorted({_given(r) for results in corpora for r in results} - {0})]
    for results in corpora:
        rows = [r for r in results if r is results[0] or _given(r)]
        at = [given.index(_given(r)) for r in rows]
        ua, low, high = 100 * np.array([[r["ua"], *r["ua_95"]] for r in rows]).T
        (line,) = axes.plot(at, ua, marker="o", label=f"{rows[0]['corpus']} {rows[0]['split']}; {rows[0]['protocol']}")
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xticks(range(len(given)), [str(n) for n in given])
    axes.set(xlabel="utterances given of every emotion", ylabel="UA (%), with 95 % intervals over speakers", ylim=(0, 100))
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.grid(alpha=0.3)
    save(figure, path)


def _given(result: dict[str, Any]) -> int:
    """Return how many utterances of every emotion a row of an adaptation was given; 0 for the rows of other kinds."""
    name = result["adaptation"]
    return int(name.split()[0]) if name.endswith("an emotion") else 0


def save(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a figure as PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_atomic(path, buffer.getvalue())
