"""Pictures of a run: the curves and the confusion matrix."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.figures import new_figure
from edge_ser_train.method.run import write_atomic


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
    _save(figure, folder / "curves.png")

    confusion = np.array(report["dev"]["confusion"])
    share = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    figure = new_figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    labels = report["labels"]
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.set_title(f"dev: UA {report['dev']['ua']:.1%}, {report['dev']['n_clips']} clips", fontsize=10)
    for (i, j), value in np.ndenumerate(share):
        color = "white" if value > 0.55 else "black"
        axes.text(j, i, f"{value:.0%}\n{confusion[i, j]}", ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(image, ax=axes, shrink=0.8)
    _save(figure, folder / "confusion.png")


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(path, buffer.getvalue())
