"""The report of ``edge-ser reproduce``: every table and figure of Dai et al. (ICASSP 2019), ours beside theirs.

``python -m edge_ser_train.paper.report RESULTS SHIPPED`` prints train/RESULTS.md from the cells below RESULTS and the record of
the shipped model.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.figures import new_figure
from edge_ser_train.method.run import write_atomic
from edge_ser_train.paper.experiments import (
    ABLATIONS,
    ALPHA_SWEEP,
    EDGE_ALPHA_SWEEP,
    EDGE_LAMBDA_SWEEP,
    EXPERIMENTS,
    LAMBDA_SWEEP,
    SETTINGS,
)
from edge_ser_train.paper.results import (
    BASELINES,
    Summary,
    compare,
    comparison_table,
    novelty_table,
    read_cells,
    results_table,
    still_to_run,
    table,
)

GRID = {"setting-1": 3, "setting-2": 3, "setting-3": 1, "setting-4": 1}
"""Seeds of each of the paper's settings on the open corpora; STFT is four times the work."""
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
COMPARISONS = (
    ("center loss, Mel", "setting-2", "setting-1"),
    ("center loss, STFT", "setting-4", "setting-3"),
    ("center loss, edge recipe", "edge", "edge-lambda-0"),
    ("edge recipe against the paper's, λ = 0.3", "edge", "setting-2"),
    ("600 steps more behind the edge recipe's own convolutions", "edge-longer", "edge"),
    ("speakers' means exchanged, behind the edge recipe's convolutions", "edge-shifted", "edge-longer"),
    ("STFT against Mel, λ = 0.3", "setting-4", "setting-2"),
    ("softmax + center loss against triplets + SVM", "setting-2", "triplet-svm"),
    ("softmax + center loss against cosine pairs + SVM", "setting-2", "cosine-svm"),
    ("centres pushed apart", "separation", "setting-2"),
    *((f"λ = {v:g} against 0", name, "setting-1") for v, name in LAMBDA_SWEEP.items() if v not in (0.0, 0.3)),
    *((f"α = {a:g} against 0.5", name, "setting-2") for a, name in ALPHA_SWEEP.items() if a != 0.5),
    *(
        (f"edge recipe, λ = {v:g} against 0", name, "edge-lambda-0")
        for v, name in EDGE_LAMBDA_SWEEP.items()
        if v not in (0.0, 0.3)
    ),
    *((f"edge recipe, α = {a:g} against 0.5", name, "edge") for a, name in EDGE_ALPHA_SWEEP.items() if a != 0.5),
    ("edge recipe against openSMILE + SVM", "edge", "egemaps-svm"),
    ("edge recipe from cremad's run against the paper's from scratch, λ = 0.3", "edge-transfer", "setting-2"),
    ("edge recipe from the other two corpora against the paper's from scratch, λ = 0.3", "pretrained", "setting-2"),
    ("behind cremad's convolutions against the paper's recipe from scratch, λ = 0.3", "frozen", "setting-2"),
    ("behind the convolutions that ship against the paper's recipe from scratch, λ = 0.3", "frozen-shipped", "setting-2"),
    ("edge recipe from cremad's run against openSMILE + SVM", "edge-transfer", "egemaps-svm"),
    ("behind cremad's convolutions against openSMILE + SVM, λ = 0.3", "frozen", "egemaps-svm"),
    ("behind cremad's convolutions against openSMILE + SVM, λ = 0", "frozen-lambda-0", "egemaps-svm"),
    ("center loss, behind cremad's convolutions", "frozen", "frozen-lambda-0"),
    ("center loss, behind the convolutions that ship", "frozen-shipped", "frozen-shipped-lambda-0"),
    ("started from the other two corpora against openSMILE + SVM, λ = 0.3", "pretrained", "egemaps-svm"),
    ("started from the other two corpora against behind cremad's convolutions, λ = 0.3", "pretrained", "frozen"),
    ("center loss, started from the other two corpora", "pretrained", "pretrained-lambda-0"),
    ("wide levels and quieter backgrounds against the edge recipe, λ = 0.3", "edge-wide", "edge"),
    ("speakers' means exchanged, behind the convolutions of wide levels", "edge-final", "edge-wide"),
    ("the preset as it ships against one narrow channel in ten and 7,000 steps", "edge-channel", "edge-wide"),
    ("speakers' means exchanged and sound without speech, behind those of narrow channels", "edge-shipped", "edge-channel"),
    ("behind cremad's convolutions: the shipped recipe's against the edge recipe's", "frozen-channel", "frozen"),
)


def write_reproduction(out: Path, place: str, quick: bool) -> Path:
    """Write OUT/report-PLACE.md and its PNGs from the cells there are; return the report's path."""
    summaries = {key: s for key, s in read_cells(out / "cells").items() if key[0] == place}
    own = {experiment: s for (_, experiment), s in summaries.items()}
    any_cell = next(iter(own.values())).cells[0]
    comparable = any_cell["corpus"] == "iemocap" and any_cell["protocol"] == "paper" and not quick
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
        *_split_lines(own),
        "",
        results_table(summaries, {name: e.title for name, e in EXPERIMENTS.items()} | BASELINES),
        "",
        "Intervals: 95 %, bootstrap over speakers, seeds averaged. ECE after temperature scaling on dev. intra/inter: mean",
        "distance of z to its class mean over mean distance between class means; smaller is more compact.",
        "",
        "### Paired comparisons",
        "",
        "Difference of UA on the same speakers and seeds, paired bootstrap over speakers.",
        "",
        comparison_table(summaries, COMPARISONS),
        "",
    ]
    suffix = " (speaker-dependent)" if dependent else ""
    theirs = "paper (IEMOCAP)" + ("" if comparable else ", not comparable")
    for title, figure, name in (
        ("Settings 1-4, UA and WA (figure 5)", _bars(own, theirs, suffix), "figure5"),
        ("α sweep at λ = 0.3 (figure 3a)", _sweep(own, ALPHA_SWEEP, PAPER_ALPHA, "α", theirs, suffix), "figure3a"),
        ("λ sweep at α = 0.5 (figure 3b)", _sweep(own, LAMBDA_SWEEP, PAPER_LAMBDA, "λ", theirs, suffix), "figure3b"),
        ("α sweep of the edge recipe at λ = 0.3", _sweep(own, EDGE_ALPHA_SWEEP, {}, "α", "", suffix), "edge-alpha"),
        ("λ sweep of the edge recipe at α = 0.5", _sweep(own, EDGE_LAMBDA_SWEEP, {}, "λ", "", suffix), "edge-lambda"),
        ("PCA of z (figure 4)", _pca_panels(own, suffix), "figure4"),
        ("Confusion, Mel (table 1)", _confusions(own, SETTINGS[:2], theirs, suffix), "table1"),
        ("Confusion, STFT (table 2)", _confusions(own, SETTINGS[2:], theirs, suffix), "table2"),
    ):
        if figure is not None:
            picture = f"{place}-{name}.png"
            _save(figure, out / picture)
            lines += [f"### {title}", "", f"![{title}]({picture})", ""]
    path = out / f"report-{place}.md"
    write_atomic(path, "\n".join(lines))
    return path


def _split_lines(own: dict[str, Summary]) -> list[str]:
    """Return one line a split: its name, hash and sizes, and what the leak checker found."""
    splits = {(cell["fold"], cell["split_sha256"]): cell for s in own.values() for cell in s.cells}
    lines = ["| split | SHA-256 | train / dev / test clips | leaks |", "|---|---|---|---|"]
    for (fold, _), cell in sorted(splits.items(), key=lambda item: item[0]):
        sizes = " / ".join(str(cell["clips"][part]) for part in ("train", "dev", "test"))
        lines.append(
            f"| {fold or cell['protocol']} | {cell['split_sha256'][:12]} | {sizes} | {'; '.join(cell['leaks']) or 'none'} |"
        )
    return lines


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
    axes.set_xticks(range(len(names)), [EXPERIMENTS[name].title.replace(", ", ",\n", 1) for name in names], fontsize=8)
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.set_title(f"UA with its interval, and WA{suffix}", fontsize=10)
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
    if len(values) < 2 or not seeds:
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
    axes.set_title(f"{symbol} sweep, seeds that all have: {', '.join(map(str, sorted(seeds)))}{suffix}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _pca_panels(own: dict[str, Summary], suffix: str) -> Any:
    found = [(name, next((c for c in own[name].cells if "pca" in c), None)) for name in ("setting-1", "setting-2") if name in own]
    panels = [(name, cell) for name, cell in found if cell is not None]
    if not panels:
        return None
    figure = new_figure(figsize=(7.5, 3.5 * len(panels)), layout="constrained")
    for row, (name, cell) in enumerate(panels):
        for column, part in enumerate(("train", "test")):
            axes = figure.add_subplot(len(panels), 2, 2 * row + column + 1)
            points, classes = np.array(cell["pca"][part]["points"]) / 1000, np.array(cell["pca"][part]["classes"])
            for j, label in enumerate(cell["labels"]):
                axes.scatter(points[classes == j, 0], points[classes == j, 1], s=4, alpha=0.6, label=label)
            ratio, share = cell["compactness"][part]["ratio"], cell["pca"][part]["explained_variance"]
            title = f"{EXPERIMENTS[name].title}, {part}{suffix}\nintra/inter {ratio:.2f}, {share:.0%} of variance"
            axes.set_title(title, fontsize=8)
            axes.tick_params(labelsize=7)
            if row == column == 0:
                axes.legend(frameon=False, fontsize=8, markerscale=3)
    return figure


def _confusions(own: dict[str, Summary], names: Sequence[str], theirs: str, suffix: str) -> Any:
    names = [name for name in names if name in own]
    if not names:
        return None
    labels = own[names[0]].cells[0]["labels"]
    with_paper = len(labels) == len(PAPER_CONFUSION["setting-1"])
    panels: list[tuple[str, npt.NDArray[Any]]] = []
    for name in names:
        total = own[name].confusion.sum(axis=(0, 1))
        panels.append((EXPERIMENTS[name].title + suffix, total / np.maximum(1, total.sum(axis=1, keepdims=True))))
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
        for (j, k), value in np.ndenumerate(share):
            axes.text(k, j, f"{value:.0%}", ha="center", va="center", fontsize=7, color="white" if value > 0.55 else "black")
    return figure


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())


def results_page(results: Path, shipped: Path) -> str:
    """Return train/RESULTS.md: every corpus, the center loss, the ablations, the shipped model elsewhere."""
    summaries = read_cells(results / "cells")
    whole = {key: s for key, s in summaries.items() if key[1] not in ABLATIONS}
    planned = {name: e.title for name, e in EXPERIMENTS.items()} | BASELINES
    parts = [
        "# Results",
        _RESULTS_INTRODUCTION,
        "## Every corpus",
        results_table(whole, planned),
        _missing(still_to_run(whole, GRID, planned)),
        "## What the center loss brings, and other paired comparisons",
        "UA of the first minus UA of the second, same speakers and seeds; paired bootstrap over speakers, two-sided p.",
        comparison_table(whole, COMPARISONS),
        _novelty(novelty_table(whole, planned, COMPARISONS)),
        "## Ablations of the edge recipe",
        _ablation_table({name: s for (_, name), s in summaries.items() if name in ABLATIONS}),
        "## The shipped model in other rooms",
        _shipped_tables(shipped),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _missing(lines: str) -> str:
    return f"Not run yet, of the paper's settings with three seeds on Mel and one on STFT:\n\n{lines}" if lines else ""


def _novelty(areas: str) -> str:
    introduction = (
        "## Emotions that have no label\n\nHow well they are told from those with one, on new speakers: by the distance of z to "
        "the nearest class centre, and by the confidence that the answer lacks. Area under the ROC curve within a speaker, in "
        "per cent (50: chance), averaged over speakers and seeds; a difference is paired by both."
    )
    return f"{introduction}\n\n{areas}" if areas else ""


_RESULTS_INTRODUCTION = """\
Every figure here comes from a JSON file below [`results/cells`](results/cells), one a training run; `make results` rebuilds
this page from them without training. `edge-ser reproduce --data DATA --corpus NAME --all --seeds 3 --out train/results`, or
`--experiment` with a name from `experiments.py`, runs what is missing and nothing else.

UA, WA and macro-F1 in per cent; in brackets 95 % intervals, a bootstrap over speakers with seeds averaged. Weights, temperature
and an SVM's C are chosen on dev speakers; the test set chooses nothing. ECE: 15 bins, after temperature scaling on dev.
intra/inter: mean distance of z to its class mean over the mean distance between class means. A row of one seed compares with
others on that seed alone, as the paired comparisons below do.

How long a run lasts on each corpus is in [`experiments.py`](edge_ser_train/paper/experiments.py): what two CPU
cores can do, never what a test set liked. The paper trains for 25 epochs; on CREMA-D its recipe gets 12 here and the edge
recipe 31."""


def _ablation_table(own: dict[str, Summary]) -> str:
    if "ablation-none" not in own:
        return f"None of these {len(ABLATIONS)} runs has been computed: `edge-ser reproduce --corpus cremad --ablations` does it."
    base = own["ablation-none"]
    first = base.cells[0]
    n_steps, n_in_batch = (first["config"]["optimizer"][name] for name in ("max_steps", "batch_size"))
    epochs = n_steps * n_in_batch / first["clips"]["train"]
    introduction = (
        f"CREMA-D, {n_steps} steps each ({epochs:.1f} epochs), seed {first['seed']}, one change at a time; judged on dev, so "
        "that the test set chooses nothing. The changes on test are paired comparisons, as above. So short a run favours "
        "what learns fast over what lasts.\n\n"
    )
    rows = []
    for name, s in sorted(own.items(), key=lambda item: -item[1].mean("dev_ua")):
        dev, change, on_test = s.mean("dev_ua"), "", ""
        if name != "ablation-none":
            result = compare(s, base)
            change = f"{100 * (dev - base.mean('dev_ua')):+.1f}"
            on_test = "-" if result is None else result.difference.points()
        title = ABLATIONS[name].title.removeprefix("edge recipe, short: ")
        rows.append([title, f"{100 * dev:.1f}", change, s.ua.percent(), on_test])
    return introduction + table(["recipe", "dev UA %", "change", "test UA % (not used to choose)", "change"], rows)


def _shipped_tables(shipped: Path) -> str:
    """Return the tables of evaluate's JSON files in the record of the shipped model."""
    parts = []
    for path in sorted(
        p for pattern in ("adaptation", "calibration", "leave-corpus-out", "robustness") for p in shipped.glob(f"{pattern}*.json")
    ):
        results = json.loads(path.read_text(encoding="utf-8"))
        key = next(key for key in ("adaptation", "calibration", "condition") if key in results[0])
        first: dict[str, float] = {}
        rows = []
        for r in results:
            change = f"{100 * (r['ua'] - first.setdefault(r['corpus'], r['ua'])):+.1f}"
            if "change_95" in r:
                change += f" [{100 * r['change_95'][0]:+.1f}, {100 * r['change_95'][1]:+.1f}]"
            interval = f"{100 * r['ua']:.1f} [{100 * r['ua_95'][0]:.1f}, {100 * r['ua_95'][1]:.1f}]"
            rows.append([f"{r['corpus']} {r['split']}", r[key], str(r["n_clips"]), interval, change, f"{r['ece']:.3f}"])
        parts.append(f"### {path.stem}\n\n" + table(["clips of", key, "clips", "UA %", "change", "ECE"], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(results_page(Path(sys.argv[1]), Path(sys.argv[2])), end="")
