"""The report of ``edge-ser reproduce``: every table and figure of Dai et al. (ICASSP 2019), ours beside theirs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray
from edge_ser.figures import new_figure
from edge_ser_train.evaluate.pictures import save
from edge_ser_train.method.run import write_atomic
from edge_ser_train.paper.comparisons import comparison_tables
from edge_ser_train.paper.experiments import (
    ALPHA_SWEEP,
    COMPARISONS,
    EDGE_ALPHA_SWEEP,
    EDGE_LAMBDA_SWEEP,
    EXPERIMENTS,
    LAMBDA_SWEEP,
    SETTINGS,
)
from edge_ser_train.paper.results import BASELINES, Summary, read_cells, results_table, table
from edge_ser_train.paper.table import Result

PAPER_SETTINGS = {
    "setting-1": (63.80, 61.83),
    "setting-2": (66.86, 65.40),
    "setting-3": (60.98, 58.93),
    "setting-4": (65.13, 62.96),
}
"""UA, WA in per cent on IEMOCAP, mean of 25 runs (their fig. 5)."""
PAPER_ALPHA = {0.1: (66.76, 65.00), 0.3: (66.85, 65.33), 0.5: (66.86, 65.40), 0.7: (66.96, 65.34), 0.9: (66.41, 64.71)}
PAPER_LAMBDA = {0.0: (63.80, 61.83), 0.003: (64.81, 62.99), 0.03: (65.71, 63.98), 0.3: (66.86, 65.40), 3.0: (60.08, 56.85)}
PAPER_CONFUSION = {
    "setting-1": [[.575, .095, .164, .166], [.119, .691, .155, .035], [.211, .162, .511, .115], [.138, .026, .060, .776]],
    "setting-2": [[.637, .067, .167, .127], [.108, .705, .167, .020], [.219, .131, .556, .094], [.128, .025, .070, .777]],
    "setting-3": [[.544, .093, .185, .177], [.127, .681, .167, .025], [.216, .186, .476, .122], [.161, .039, .062, .737]],
    "setting-4": [[.573, .073, .196, .157], [.103, .720, .153, .022], [.205, .161, .518, .114], [.125, .028, .053, .793]],
}  # fmt: skip
"""Rows true: neutral, angry, happy, sad (their tables 1 and 2)."""


def write_reproduction(out: Path, places: Sequence[str], quick: bool) -> Path | None:
    """Write OUT/report-PLACE.md and its PNGs from the results there are; return its path, None where there are none.

    The first of the places that has results is drawn; the others, of other protocols, are tables beside it.
    """
    summaries = {key: s for key, s in read_cells(out).items() if key[0] in places}
    if not summaries:
        return None
    place = min((at for at, _ in summaries), key=places.index)
    own = {experiment: s for (at, experiment), s in summaries.items() if at == place}
    any_cell = next(iter(own.values())).cells[0]
    comparable = _comparable(any_cell)
    dependent = any_cell["speaker_dependent"]
    lines = [
        f"# {place}",
        "",
        "Dai et al., *Learning discriminative features from spectrograms using center loss for speech emotion recognition*,",
        "ICASSP 2019.",
        "",
    ]
    if quick:
        lines += ["**Quick mode: eight steps on a few clips. These figures say that the software runs and nothing else.**", ""]
    lines += [
        "The paper's figures are for IEMOCAP under its own protocol: "
        + (
            "**the same as here, so they compare.**"
            if comparable
            else "**another corpus or protocol than here: they do not compare.**"
        ),
        "",
        f"Protocol: {any_cell['protocol']}"
        + (" - **SPEAKER-DEPENDENT: speakers and dialogues are on both sides of the split.**" if dependent else ", by speaker."),
        "",
        *_beside(summaries, places),
        *_split_lines(summaries),
        "",
        results_table(summaries, {name: e.title for name, e in EXPERIMENTS.items()} | BASELINES),
        "",
        "Intervals: 95 %, bootstrap over speakers and seeds. ECE after temperature scaling on dev. intra/inter: mean",
        "distance of z to its class mean over mean distance between class means; smaller is more compact.",
        "",
        "### Differences of UA on the same speakers and seeds",
        "",
        comparison_tables(summaries, COMPARISONS),
        "",
    ]
    for title, picture in write_pictures(out, place, own, tables=True):
        lines += [f"### {title}", "", f"![{title}]({picture})", ""]
    path = out / f"report-{place}.md"
    write_atomic(path, "\n".join(lines))
    return path


def _comparable(cell: Result) -> bool:
    """Return whether the paper's figures are of the same corpus and protocol."""
    return cell["corpus"] == "iemocap" and cell["protocol"] == "paper" and "quick" not in cell["fold"]


def write_pictures(out: Path, place: str, own: dict[str, Summary], tables: bool) -> list[tuple[str, str]]:
    """Draw the paper's figures, and its ``tables``, of the experiments there are into OUT; return titles and files' names."""
    any_cell = next(iter(own.values())).cells[0]
    suffix = " (speaker-dependent)" if any_cell["speaker_dependent"] else ""
    theirs = "paper (IEMOCAP)" + ("" if _comparable(any_cell) else ", not comparable")
    written = []
    for title, figure, name in (
        ("Settings 1-4, UA and WA (figure 5)", _bars(own, theirs, suffix), "figure5"),
        ("α sweep at λ = 0.3 (figure 3a)", _sweep(own, ALPHA_SWEEP, PAPER_ALPHA, "α", theirs, suffix), "figure3a"),
        ("λ sweep at α = 0.5 (figure 3b)", _sweep(own, LAMBDA_SWEEP, PAPER_LAMBDA, "λ", theirs, suffix), "figure3b"),
        ("α sweep of the edge recipe at λ = 0.3", _sweep(own, EDGE_ALPHA_SWEEP, {}, "α", "", suffix), "edge-alpha"),
        ("λ sweep of the edge recipe at α = 0.5", _sweep(own, EDGE_LAMBDA_SWEEP, {}, "λ", "", suffix), "edge-lambda"),
        ("PCA of z (figure 4)", _pca_panels(own, suffix), "figure4"),
        ("Confusion, Mel (table 1)", _confusions(own, SETTINGS[: 2 * tables], theirs, suffix), "table1"),
        ("Confusion, STFT (table 2)", _confusions(own, SETTINGS[2:] * tables, theirs, suffix), "table2"),
    ):
        if figure is not None:
            picture = f"{place}-{name}.png"
            save(figure, out / picture, dpi=110)
            written.append((title, picture))
    return written


def _beside(summaries: dict[tuple[str, str], Summary], places: Sequence[str]) -> list[str]:
    """Return the paper's settings as it reports them and as each protocol has them here; nothing where there is one protocol."""
    shown = [place for place in places if any(at == place for at, _ in summaries)]
    if len(shown) < 2:
        return []
    rows = []
    for name in SETTINGS:
        here = [_shown(summaries[place, name]) if (place, name) in summaries else None for place in shown]
        theirs = "{:.1f} / {:.1f}".format(*PAPER_SETTINGS[name])
        rows.append([EXPERIMENTS[name].title, theirs, *(f"{s[0]:.1f} / {s[3]:.1f}" if s else "-" for s in here)])
    title = "### The paper's table, and new speakers beside it"
    return [title, "", "UA / WA in per cent.", "", table(["setting", "paper (IEMOCAP)", *shown], rows), ""]


def _split_lines(summaries: dict[tuple[str, str], Summary]) -> list[str]:
    """Return one line a split: its name, hash and sizes, and what the leak checker found."""
    splits = {(cell["fold"], cell["split_sha256"]): cell for s in summaries.values() for cell in s.cells}
    lines = ["| split | SHA-256 | train / dev / test clips | leaks |", "|---|---|---|---|"]
    for (fold, _), cell in sorted(splits.items(), key=lambda item: item[0]):
        sizes = " / ".join(str(cell["clips"][part]) for part in ("train", "dev", "test"))
        lines.append(
            f"| {cell['protocol']} {fold} | {cell['split_sha256'][:12]} | {sizes} | {'; '.join(cell['leaks']) or 'none'} |"
        )
    return lines


def _spread(summary: Summary) -> str:
    """Say what :func:`_shown` gives of a summary."""
    if summary.cells[0]["speaker_dependent"]:
        return "means of the runs; lines: a standard deviation of the runs' UA to either side"
    return "clips of all folds together, mean of the seeds; lines: 95 % interval of UA over speakers and seeds"


def _shown(summary: Summary) -> tuple[float, float, float, float]:
    """Return UA, its spread below and above, and WA, in per cent: means of the runs under the paper's protocol, else pooled."""
    if summary.cells[0]["speaker_dependent"]:
        runs = 100 * summary.ua_of_runs
        return float(runs.mean()), float(runs.std()), float(runs.std()), float(100 * summary.wa_of_runs.mean())
    ua = summary.ua
    return 100 * ua.value, 100 * (ua.value - ua.low), 100 * (ua.high - ua.value), 100 * summary.wa.value


def _bars(own: dict[str, Summary], theirs: str, suffix: str) -> Any:
    names = [name for name in SETTINGS if name in own]
    if not names:
        return None
    figure = new_figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        ua, below, above, wa = _shown(own[name])
        axes.bar(i - 0.27, ua, 0.18, color="tab:blue", yerr=[[below], [above]], capsize=3, label="UA" if i == 0 else None)
        axes.bar(i - 0.09, wa, 0.18, color="tab:cyan", label="WA" if i == 0 else None)
        for x, value in ((i - 0.27, ua), (i - 0.09, wa)):
            axes.text(x, 2, f"{value:.1f}", ha="center", fontsize=8, color="white", rotation=90, va="bottom")
        axes.bar(i + 0.12, PAPER_SETTINGS[name][0], 0.18, color="0.6", label=f"UA, {theirs}" if i == 0 else None)
        axes.bar(i + 0.30, PAPER_SETTINGS[name][1], 0.18, color="0.8", label=f"WA, {theirs}" if i == 0 else None)
    titles = [EXPERIMENTS[name].title.replace(", ", ",\n", 1) for name in names]
    seeds = [f"{len(own[name].seeds)} seed{'s' * (len(own[name].seeds) > 1)}" for name in names]
    axes.set_xticks(range(len(names)), map("{}\n{}".format, titles, seeds), fontsize=8)
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.set_title(f"UA and WA{suffix}\nin colour ours: {_spread(own[names[0]])}", fontsize=8)
    figure.legend(frameon=False, fontsize=8, ncols=4, loc="outside lower center")  # no bar or interval below it
    return figure


def _sweep(
    own: dict[str, Summary],
    cells: dict[float, str],
    paper: dict[float, tuple[float, float]],
    symbol: str,
    theirs: str,
    suffix: str,
) -> Any:
    values = [v for v, name in cells.items() if name in own]
    seeds = set.intersection(*(set(own[cells[v]].seeds) for v in values)) if values else set()
    if len(values) < 3 or not seeds:  # two are in the table and in figure 5
        return None
    figure = new_figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    at = [list(cells).index(v) for v in values]
    shown = [_shown(own[cells[v]].of_seeds(seeds)) for v in values]
    spread = [[s[1] for s in shown], [s[2] for s in shown]]
    axes.errorbar(at, [s[0] for s in shown], yerr=spread, fmt="o-", capsize=3, label="UA")
    axes.plot(at, [s[3] for s in shown], "s--", label="WA")
    everywhere = range(len(cells))
    if paper:
        axes.plot(everywhere, [paper[v][0] for v in cells], "o-", color="0.6", label=f"UA, {theirs}")
        axes.plot(everywhere, [paper[v][1] for v in cells], "s--", color="0.75", label=f"WA, {theirs}")
    axes.set_xticks(everywhere, [f"{v:g}" for v in cells])
    axes.set_xlabel(symbol)
    axes.set_ylabel("%")
    known = f"seeds that all have: {', '.join(map(str, sorted(seeds)))}"
    axes.set_title(f"{symbol} sweep, {known}{suffix}\n{_spread(own[cells[values[0]]])}", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _pca_panels(own: dict[str, Summary], suffix: str) -> Any:
    found = [(name, next((c for c in own[name].cells if "pca" in c), None)) for name in ("setting-1", "setting-2") if name in own]
    panels = [(name, cell) for name, cell in found if cell is not None]
    if not panels:
        return None
    figure = new_figure(figsize=(7.5, 3.9 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 2, sharex=True, sharey=True, squeeze=False)
    for row, (name, cell) in zip(grid, panels, strict=True):
        for axes, part in zip(row, ("train", "test"), strict=True):
            points, classes = np.array(cell["pca"][part]["points"]) / 1000, np.array(cell["pca"][part]["classes"])
            for j, label in enumerate(cell["labels"]):
                axes.scatter(points[classes == j, 0], points[classes == j, 1], s=4, alpha=0.6, label=label)
            ratio, share = cell["compactness"][part]["ratio"], cell["pca"][part]["explained_variance"]
            fold = f", fold {cell['fold']}" if cell["fold"] else ""
            title = f"{EXPERIMENTS[name].title}\n{part}{suffix}{fold}, seed {cell['seed']}\n"
            axes.set_title(f"{title}intra/inter {ratio:.2f}, {share:.0%} of variance", fontsize=8)
            axes.tick_params(labelsize=7, labelbottom=True, labelleft=True)
            axes.set_aspect("equal")
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, markerscale=3, ncols=4, loc="outside lower center"
    )
    return figure


def _confusions(own: dict[str, Summary], names: Sequence[str], theirs: str, suffix: str) -> Any:
    names = [name for name in names if name in own]
    if not names:
        return None
    labels = own[names[0]].cells[0]["labels"]
    with_paper = len(labels) == len(PAPER_CONFUSION["setting-1"])
    panels: list[tuple[str, AnyArray]] = []
    for name in names:
        total = own[name].confusion.sum(axis=(0, 1))
        clips = total.sum(axis=1, keepdims=True)
        share = np.where(clips > 0, total / np.maximum(1, clips), np.nan)  # the row of a class without a clip stays empty
        panels.append((textwrap.fill(EXPERIMENTS[name].title + suffix, 45), share))
        if with_paper:
            panels.append((theirs, np.array(PAPER_CONFUSION[name])))
    columns = 2 if with_paper else len(names)
    rows = -(-len(panels) // columns)
    figure = new_figure(figsize=(3.9 * columns, 3.5 * rows), layout="constrained")
    for i, (title, share) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(share, cmap="Blues" if title != theirs else "Greys", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("answered", fontsize=7)
        axes.set_ylabel("true", fontsize=7)
        for (j, k), value in np.ndenumerate(share):
            shown = "-" if np.isnan(value) else f"{value:.0%}"
            axes.text(k, j, shown, ha="center", va="center", fontsize=7, color="white" if value > 0.55 else "black")
    return figure
