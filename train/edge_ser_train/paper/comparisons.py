"""Paired comparisons of recipes: by how much UA differs, in which settings they do, and what chance makes of so many rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray, Float64Array
from edge_ser_train.bootstrap import Interval, bounds, holm, mean_of_seeds, resampled
from edge_ser_train.method.config import config_from_table
from edge_ser_train.metrics import unweighted_accuracy
from edge_ser_train.paper.results import BASELINES, Summary, precision_of, table
from edge_ser_train.paper.table import Result

SAMPLES = 20_000
"""Draws of a comparison: so many that a p corrected for a hundred rows can still be small."""

_NAMES = {
    "loss.lambda_center": "λ",
    "loss.alpha": "α",
    "loss.kind": "loss",
    "front_end": "input",
    **dict.fromkeys(("optimizer.max_steps", "selection.every_steps", "selection.after_step"), "length"),
    **dict.fromkeys(("optimizer.init", "optimizer.frozen"), "start"),
}
"""What settings are together called; the others go by their own names."""
_SAYS_NOTHING = ("preset", "seed", "precision")
"""The name of a preset stands for its settings; seeds are paired; precision is counted by pairs."""


@dataclass(frozen=True)
class Comparison:
    """UA of one experiment minus UA of another, on the same speakers and seeds."""

    difference: Interval
    p: float
    """Two-sided, of a paired bootstrap over speakers and seeds."""
    per_seed: tuple[float, ...]


def compare(one: Summary, other: Summary) -> Comparison | None:
    """Compare two summaries on the folds and seeds both have; None where they share no seed or have different speakers.

    Speakers and seeds are drawn with replacement, the same for both sides. Of one seed the interval says nothing of others.
    """
    if one.folds != other.folds and (common := one.folds & other.folds):
        one, other = one.of_folds(common), other.of_folds(common)
    seeds = [s for s in one.seeds if s in other.seeds]
    if not seeds or one.speakers != other.speakers:
        return None

    def per_seed(summary: Summary) -> tuple[Float64Array, AnyArray]:
        chosen = summary.confusion[[summary.seeds.index(s) for s in seeds]]
        return unweighted_accuracy(chosen.sum(axis=1)), np.stack([unweighted_accuracy(resampled(c, SAMPLES)) for c in chosen])

    (a, drawn_a), (b, drawn_b) = per_seed(one), per_seed(other)
    drawn = mean_of_seeds(drawn_a - drawn_b)
    # Plus one, so that no p is reported smaller than the number of draws can show.
    tail = (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (SAMPLES + 1)
    return Comparison(Interval(float((a - b).mean()), *bounds(drawn)), min(1.0, 2 * float(tail)), tuple((a - b).tolist()))


def differing(one: Summary, other: Summary) -> list[str]:
    """Return in what two recipes differ, by their settings: one name means one change."""
    a, b = one.cells[0], other.cells[0]
    if BASELINES.keys() & {a["experiment"], b["experiment"]}:
        return ["features", "classifier"]
    configs = [config_from_table(cell.get("config", {}), f"the cells of {cell['experiment']}") for cell in (a, b)]
    settings = [dict(_leaves(asdict(config))) for config in configs]
    found = [_NAMES.get(key, key.rpartition(".")[2]) for key in settings[0] if settings[0][key] != settings[1][key]]
    found += ["classifier"] * (_classifier(a) != _classifier(b))
    found += ["training clips"] * (a["clips"]["train"] != b["clips"]["train"])
    return list(dict.fromkeys(found))


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and key != "label_map":
            yield from _leaves(value, f"{prefix}{key}.")
        elif prefix + key not in _SAYS_NOTHING:
            yield prefix + key, value


def _classifier(cell: Result) -> str:
    return str(cell.get("classifier", "")).partition(" ")[0]  # behind it stands an SVM's C


def mixed_pairs(one: Summary, other: Summary) -> tuple[int, int]:
    """Return how many pairs of cells, of a seed and fold, were computed in different precisions, and how many pairs there are."""
    sides = [{(c["seed"], c["fold"]): precision_of(c) for c in summary.cells} for summary in (one, other)]
    pairs = [(sides[0][key], sides[1][key]) for key in sides[0].keys() & sides[1].keys()]
    return sum(None not in pair and pair[0] != pair[1] for pair in pairs), len(pairs)


def comparison_tables(summaries: dict[tuple[str, str], Summary], pairs: Sequence[tuple[str, str, str]]) -> str:
    """Return the paired tests of every pair (title, with, without) that has cells on both sides, as two Markdown tables.

    The first has the comparisons, whose sides differ in one thing; the second what differs in several. p is corrected for the
    rows of both.
    """
    found = []
    for place in sorted({place for place, _ in summaries}):
        for title, one, other in pairs:
            if (place, one) in summaries and (place, other) in summaries:
                sides = summaries[place, one], summaries[place, other]
                result = compare(*sides)
                if result is not None:
                    found.append((place, title, sides, result))
    several: list[list[str]] = []
    alone: list[list[str]] = []
    for (place, title, sides, result), corrected in zip(found, holm([result.p for *_, result in found]), strict=True):
        changed, (n_mixed, n_pairs) = differing(*sides), mixed_pairs(*sides)
        what = ", ".join(changed) if len(changed) < 4 else f"{len(changed)} settings"
        what += f"; **precision in {n_mixed} of {n_pairs} pairs**" * (n_mixed > 0)
        seeds = ", ".join(f"{100 * x:+.1f}" for x in result.per_seed)
        row = [place, title, what, result.difference.points(), f"{result.p:.4f}", f"{corrected:.3f}", seeds]
        (alone if len(changed) == 1 else several).append(row)
    header = ["corpus", "UA of the first minus the second", "differ in", "points", "p", "p, Holm", "per seed"]
    n_small, n_left = sum(r.p < 0.05 for *_, r in found), sum(float(row[5]) < 0.05 for row in alone + several)
    parts = [
        f"{len(found)} rows, none of them planned beforehand: read them as exploratory. {n_small} have a p below .05, {n_left} "
        "after Holm's correction for the number of rows in both tables. Speakers and seeds are drawn with replacement, the same "
        "for both sides; where there is one seed, the interval says nothing of others.",
        "**One thing differs.**" * bool(alone),
        table(header, alone) if alone else "",
        "**Several things differ**, so these are no comparisons: which of them brought the difference is open." * bool(several),
        table(header, several) if several else "",
    ]
    return "\n\n".join(part for part in parts if part) if found else ""
