"""train/RESULTS.md and its pictures, from the cells' results and the record of the shipped model.

``python -m edge_ser_train.paper.page PAGE RESULTS SHIPPED`` writes PAGE, and the pictures into RESULTS/pictures and SHIPPED.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from edge_ser_train.bootstrap import Interval
from edge_ser_train.evaluate.pictures import write_adaptation, write_evaluation, write_reliability
from edge_ser_train.method.run import write_atomic
from edge_ser_train.paper.comparisons import compare, comparison_tables
from edge_ser_train.paper.experiments import ABLATION_TITLES, ABLATIONS, COMPARISONS, EXPERIMENTS
from edge_ser_train.paper.report import write_pictures
from edge_ser_train.paper.results import BASELINES, Summary, novelty_table, read_cells, results_table, still_to_run, table

GRID = {"setting-1": 3, "setting-2": 3, "setting-3": 1, "setting-4": 1}
"""Seeds of each of the paper's settings on the open corpora; STFT is four times the work."""


def write_page(page: Path, results: Path, shipped: Path) -> None:
    """Write train/RESULTS.md: every corpus, the center loss, the ablations, the shipped model elsewhere."""
    summaries = read_cells(results)
    whole = {key: s for key, s in summaries.items() if key[1] not in ABLATION_TITLES}
    planned = {name: e.title for name, e in EXPERIMENTS.items()} | BASELINES
    lacking, novelty = still_to_run(whole, GRID, planned), novelty_table(whole, planned, COMPARISONS)
    parts = [
        "# Results",
        _RESULTS_INTRODUCTION,
        "## Every corpus",
        results_table(whole, planned),
        lacking and _LACKING + lacking,
        "## Pictures",
        _cell_pictures(page, results / "pictures", whole),
        "## What the center loss brings, and other differences",
        comparison_tables(whole, COMPARISONS),
        novelty and _NOVELTY + novelty,
        "## Ablations of the edge recipe",
        _ablation_table({name: s for (_, name), s in summaries.items() if name in ABLATION_TITLES}),
        "## The shipped model in other rooms",
        _shipped_pictures(page, shipped),
        _shipped_tables(shipped),
    ]
    write_atomic(page, "\n\n".join(part for part in parts if part) + "\n")


_LACKING = "Not run yet, of the paper's settings with three seeds on Mel and one on STFT:\n\n"
_NOVELTY = """\
## Emotions that have no label

How well they are told from those with one, on new speakers: by the distance of z to the nearest class centre, and by the \
confidence that the answer lacks. Area under the ROC curve within a speaker, in per cent (50: chance), averaged over speakers \
and seeds; a difference is paired by both.

"""
_RESULTS_INTRODUCTION = """\
Every figure here comes from [`results/cells.csv`](results/cells.csv), a row a training run; `make results` rebuilds this page
and its pictures from it without training. `edge-ser reproduce --data DATA --corpus NAME --all --seeds 3 --out train/results`, or
`--experiment` with a name from `experiments.py`, runs what is missing and nothing else; `make results` adds it to the table.

UA, WA and macro-F1 in per cent; in brackets 95 % intervals, a bootstrap over speakers and seeds. Weights, temperature
and an SVM's C are chosen on dev speakers; the test set chooses nothing. ECE: 15 bins, after temperature scaling on dev.
intra/inter: mean distance of z to its class mean over the mean distance between class means. A row of one seed compares with
others on that seed alone, as the paired comparisons below do. Precision is what a run's convolutions were computed in: what the
processor has. Where a row or a pair mixes two, that is said.

How long a run lasts on each corpus is in [`experiments.py`](edge_ser_train/paper/experiments.py): what two CPU
cores can do, never what a test set liked. The paper trains for 25 epochs; on CREMA-D its recipe gets 12 here and the edge
recipe 31.

"The model that ships" and "the shipped recipe" in a row's name mean those of the day when the row was run: an earlier
model, which had heard clips as recorded alone. The last section is of the model that ships now."""


def _ablation_table(own: dict[str, Summary]) -> str:
    if "ablation-none" not in own:
        return f"None of these {len(ABLATIONS)} runs has been computed: `edge-ser reproduce --corpus cremad --ablations` does it."
    base = own["ablation-none"]
    first = base.cells[0]
    n_steps, n_in_batch = (first["config"]["optimizer"][name] for name in ("max_steps", "batch_size"))
    epochs = n_steps * n_in_batch / first["clips"]["train"]
    introduction = (
        f"CREMA-D, {n_steps} steps each ({epochs:.1f} epochs), seed {first['seed']}, one change at a time; judged on dev, so "
        "that the test set chooses nothing. The changes on test are paired by speaker and exploratory as those above; of one "
        "seed, their intervals say nothing of others. So short a run favours what learns fast over what lasts.\n\n"
    )
    rows = []
    for name, s in sorted(own.items(), key=lambda item: -item[1].mean("dev_ua")):
        dev, change, on_test = s.mean("dev_ua"), "", ""
        if name != "ablation-none":
            result = compare(s, base)
            change = f"{100 * (dev - base.mean('dev_ua')):+.1f}"
            on_test = "-" if result is None else result.difference.points()
        rows.append([ABLATION_TITLES[name], f"{100 * dev:.1f}", change, s.ua.percent(), on_test])
    return introduction + table(["recipe", "dev UA %", "change", "test UA % (not used to choose)", "change"], rows)


def _shown(page: Path, title: str, picture: Path) -> str:
    return f"![{title}]({Path(os.path.relpath(picture, page.parent)).as_posix()})"


def _cell_pictures(page: Path, folder: Path, summaries: dict[tuple[str, str], Summary]) -> str:
    folder.mkdir(exist_ok=True)
    parts = []
    for place in sorted({place for place, _ in summaries}):
        own = {name: s for (of, name), s in summaries.items() if of == place}
        written = write_pictures(folder, place, own, tables=False)
        parts += [_shown(page, f"{place}: {title}", folder / name) for title, name in written]
    return "\n\n".join(parts)


def _shipped_pictures(page: Path, shipped: Path) -> str:
    """Draw how far the shipped file's confidence can be believed at home and outside, and what it confuses outside."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(shipped.glob("evaluation-*-int8.json"))]
    if not results:
        return ""
    write_reliability(results, shipped / "reliability.png")
    parts = [_shown(page, "How many answers of each confidence are right, at home and outside", shipped / "reliability.png")]
    for result in results:
        picture = shipped / f"evaluation-{result['corpus']}-{result['split']}-int8.png"
        write_evaluation(result, picture)
        parts.append(_shown(page, f"Confusion and confidence on {result['corpus']} {result['split']}", picture))
    adapted = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(shipped.glob("adaptation-*.json"))]
    if adapted:
        write_adaptation(adapted, shipped / "adaptation.png")
        parts.append(_shown(page, "UA against the utterances a person gave, at home and abroad", shipped / "adaptation.png"))
    return "\n\n".join(parts)


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
            change = r.get("change", r["ua"] - first.setdefault(r["corpus"], r["ua"]))
            shown = Interval(change, *r["change_95"]).points() if "change_95" in r else f"{100 * change:+.1f}"
            ua = Interval(r["ua"], *r["ua_95"]).percent()
            rows.append([f"{r['corpus']} {r['split']}", r[key], str(r["n_clips"]), ua, shown, f"{r['ece']:.3f}"])
        parts.append(f"### {path.stem}\n\n" + table(["clips of", key, "clips", "UA %", "change", "ECE"], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    write_page(*map(Path, sys.argv[1:]))
