"""From the cells' results to figures with intervals over speakers and seeds: UA, WA, macro-F1, novelty. No retraining."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Float64Array, Int64Array
from edge_ser_train.bootstrap import Interval, bounds, draws, mean_of_seeds, resampled
from edge_ser_train.metrics import macro_f1, unweighted_accuracy, weighted_accuracy
from edge_ser_train.paper.table import Result, read_results

BASELINES = {"egemaps-svm": "openSMILE eGeMAPSv02 + linear SVM"}
"""Titles of what is no training run but has cells like one (bench/)."""


@dataclass(frozen=True)
class Summary:
    """One experiment under one protocol: all its folds pooled, its seeds averaged."""

    cells: tuple[Result, ...]
    seeds: tuple[int, ...]
    n_folds: int
    speakers: tuple[str, ...]
    confusion: Int64Array
    """[n_seeds, n_speakers, n_classes, n_classes], folds added up."""

    @property
    def ua(self) -> Interval:
        """Unweighted accuracy."""
        return self._figure(unweighted_accuracy)

    @property
    def wa(self) -> Interval:
        """Weighted accuracy."""
        return self._figure(weighted_accuracy)

    @property
    def macro_f1(self) -> Interval:
        """Mean F1 over the classes."""
        return self._figure(macro_f1)

    @property
    def precisions(self) -> str:
        """The arithmetic of the runs, with its share where it is not the same; a dash for what has none."""
        count = Counter(precision_of(cell) or "-" for cell in self.cells)
        return ", ".join(f"{name} ({n} of {len(self.cells)})" if len(count) > 1 else name for name, n in count.most_common())

    @property
    def ua_of_runs(self) -> Float64Array:
        """UA of each run on its own (the paper averages these), [n_cells]."""
        return np.array([unweighted_accuracy(_total(cell)) for cell in self.cells])

    @property
    def wa_of_runs(self) -> Float64Array:
        """WA of each run on its own, [n_cells]."""
        return np.array([weighted_accuracy(_total(cell)) for cell in self.cells])

    def of_seeds(self, seeds: Collection[int]) -> Summary:
        """Return the summary of some of the seeds."""
        kept = [i for i, seed in enumerate(self.seeds) if seed in seeds]
        names = tuple(self.seeds[i] for i in kept)
        cells = tuple(cell for cell in self.cells if cell["seed"] in names)
        return replace(self, cells=cells, seeds=names, confusion=self.confusion[kept])

    def of_folds(self, folds: Collection[str]) -> Summary:
        """Return the summary of some of the folds."""
        return _summary({seed: [c for c in self.cells if c["seed"] == seed and c["fold"] in folds] for seed in self.seeds})

    @property
    def folds(self) -> frozenset[str]:
        """Names of the folds."""
        return frozenset(cell["fold"] for cell in self.cells)

    def mean(self, key: str) -> float:
        """Return the mean of a number of the cells, weighted by their test clips; NaN where a cell has none."""
        weights = [cell["clips"]["test"] for cell in self.cells]
        values = np.array([cell[key] for cell in self.cells], dtype=np.float64)  # None becomes NaN
        return float(np.average(values, weights=weights))

    def compactness(self, part: str) -> float:
        """Return the mean ratio of intra- to inter-class distance of the embedding; NaN where a cell has no embedding."""
        return float(np.mean([cell["compactness"][part]["ratio"] if "compactness" in cell else np.nan for cell in self.cells]))

    def auroc(self, score: str) -> dict[int, Float64Array]:
        """Return how well ``score`` tells emotions without a label: seed to each speaker's area under the ROC curve [n_speakers].

        Seeds that have not measured it for every speaker are left out.
        """
        found = np.full((len(self.seeds), len(self.speakers)), np.nan)
        for cell in self.cells:
            for speaker, area in cell.get("novelty", {}).get("auroc_per_speaker", {}).get(score, {}).items():
                found[self.seeds.index(cell["seed"]), self.speakers.index(speaker)] = area
        return {seed: areas for seed, areas in zip(self.seeds, found, strict=True) if not np.isnan(areas).any()}

    def _figure(self, measure: Any) -> Interval:
        drawn = np.stack([measure(resampled(c)) for c in self.confusion])
        return Interval(float(np.mean([measure(c.sum(axis=0)) for c in self.confusion])), *bounds(mean_of_seeds(drawn)))


def precision_of(cell: Result) -> str | None:
    """Return what the cell's run computed in, float32 or bfloat16; None for what is no training run."""
    return cell.get("precision") or None


def _total(cell: Result) -> Int64Array:
    total: Int64Array = np.sum(list(cell["test_confusion_per_speaker"].values()), axis=0, dtype=np.int64)
    return total


def read_cells(out: Path) -> dict[tuple[str, str], Summary]:
    """Read what OUT holds; return a summary for each (corpus-classes-protocol, experiment).

    A repeat of a protocol's folds counts for a seed that has every fold of it that any seed has: UA of half the speakers is
    another figure. A seed counts when it has the repeats that the experiment has. Raises RunError for a damaged file.
    """
    found: dict[tuple[str, str], dict[int, list[Result]]] = defaultdict(lambda: defaultdict(list))
    folds_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, cell in read_results(out).items():
        place, experiment, _ = name.split("/")
        found[place, experiment][cell["seed"]].append(cell)
        folds_of[place, _repeat(cell["fold"])].add(cell["fold"])
    summaries = {}
    for (place, experiment), by_seed in sorted(found.items()):
        whole: dict[int, set[str]] = {}
        for seed, rows in sorted(by_seed.items()):
            folds = {row["fold"] for row in rows}
            whole[seed] = {fold for fold in folds if folds_of[place, _repeat(fold)] <= folds}
        counted = set().union(*whole.values())
        complete = {s: [row for row in by_seed[s] if row["fold"] in counted] for s in whole if counted and whole[s] == counted}
        if complete:
            summaries[place, experiment] = _summary(complete)
    return summaries


def _repeat(fold: str) -> str:
    found = re.match(r"repeat \d+", fold)
    return found[0] if found else ""


def _summary(by_seed: dict[int, list[Result]]) -> Summary:
    cells = [cell for rows in by_seed.values() for cell in rows]
    speakers = sorted({s for cell in cells for s in cell["test_confusion_per_speaker"]})
    n = len(cells[0]["labels"])
    confusion = np.zeros((len(by_seed), len(speakers), n, n), dtype=np.int64)
    for i, rows in enumerate(by_seed.values()):
        for cell in rows:
            for speaker, matrix in cell["test_confusion_per_speaker"].items():
                confusion[i, speakers.index(speaker)] += np.array(matrix)
    folds = {cell["fold"] for cell in cells}
    return Summary(tuple(cells), tuple(by_seed), len(folds), tuple(speakers), confusion)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _or_dash(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def results_table(summaries: dict[tuple[str, str], Summary], titles: dict[str, str]) -> str:
    """Return one Markdown table for every corpus and protocol, experiments as rows in the order of ``titles``."""
    parts = []
    for place in sorted({place for place, _ in summaries}):
        rows = []
        known = [name for name in titles if (place, name) in summaries]
        if not known:
            continue
        for name in known:
            s = summaries[place, name]
            seeds = f"{len(s.seeds)} × {s.n_folds}" if s.n_folds > 1 else str(len(s.seeds))
            rows.append(
                [
                    titles[name],
                    seeds,
                    *(figure.percent() for figure in (s.ua, s.wa, s.macro_f1)),
                    f"{100 * s.mean('dev_ua'):.1f}",
                    _or_dash(s.mean("test_ece"), 3),
                    *(_or_dash(s.compactness(part), 2) for part in ("train", "test")),
                    s.precisions,
                ]
            )
        one = summaries[place, known[0]]
        n_clips = int(one.confusion[0].sum())
        occurring, n_labels = int((one.confusion[0].sum(axis=(0, 2)) > 0).sum()), len(one.cells[0]["labels"])
        some = f", {occurring} of which occur here" if occurring < n_labels else ""
        dependent = " **Speaker-dependent: known speakers, not new ones.**" if one.cells[0]["speaker_dependent"] else ""
        header = ["recipe", "seeds × folds" if one.n_folds > 1 else "seeds", "UA %", "WA %", "macro-F1 %", "dev UA %", "ECE"]
        parts.append(
            f"### {place}\n\n{n_clips} test clips of {len(one.speakers)} speakers, {n_labels} classes "
            f"({', '.join(one.cells[0]['labels'])}){some}.{dependent}\n\n"
            + table([*header, "intra/inter train", "intra/inter test", "precision"], rows)
        )
    return "\n\n".join(parts)


def still_to_run(summaries: dict[tuple[str, str], Summary], wanted: dict[str, int], titles: dict[str, str]) -> str:
    """Return a Markdown list of the ``wanted`` seeds (experiment to number) that a corpus and protocol with a baseline lacks."""
    lines = []
    for place in sorted({place for place, name in summaries if name in BASELINES}):
        have = {name: len(summaries[place, name].seeds) for name in wanted if (place, name) in summaries}
        lacking = {titles[name]: n - have.get(name, 0) for name, n in wanted.items() if have.get(name, 0) < n}
        if lacking:
            lines.append(f"- {place}: " + "; ".join(f"{title}: {n} seed{'s' * (n > 1)}" for title, n in lacking.items()))
    return "\n".join(lines)


def novelty_table(
    summaries: dict[tuple[str, str], Summary], titles: dict[str, str], pairs: Sequence[tuple[str, str, str]]
) -> str:
    """Return how well distance and confidence tell emotions without a label, and what the first of each of the ``pairs`` adds.

    Areas under the ROC curve in per cent, averaged over speakers and seeds.
    """
    rows = []
    for place in sorted({place for place, _ in summaries}):
        for title, one, other in [*((title, name, "") for name, title in titles.items()), *pairs]:
            columns, seeds = [], []
            for score in ("distance", "confidence"):
                areas, base = (summaries[place, name].auroc(score) if (place, name) in summaries else {} for name in (one, other))
                seeds = [seed for seed in areas if not other or seed in base]
                if not seeds:
                    break
                per_seed = np.stack([areas[seed] - (base[seed] if other else 0) for seed in seeds])
                drawn = per_seed[:, draws(per_seed.shape[1])].mean(axis=2)
                figure = Interval(float(per_seed.mean()), *bounds(mean_of_seeds(drawn)))
                columns.append(figure.points() if other else figure.percent())
            if seeds:
                rows.append([place, title, str(len(seeds)), *columns])
    return table(["corpus", "recipe, or difference", "seeds", "by distance", "by confidence"], rows) if rows else ""
