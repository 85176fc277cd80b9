"""What cells will cost on this machine, from a few steps that are really taken."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from edge_ser_train.paper.baselines import criterion
from edge_ser_train.paper.cells import Cell, shortened
from edge_ser_train.paper.running import repeat_of

_N_STEPS, _N_BATCHES = 3, 4
_SHOWN = 8


@dataclass(frozen=True)
class Pace:
    """What a kind of run takes."""

    prepare_s: float
    """A clip, before the first step."""
    step_s: float
    answer_s: float
    """A clip, when dev is looked at."""
    run_bytes: int
    """Files of a run."""
    feature_bytes: float
    """A clip in the cache."""

    def seconds(self, cell: Cell) -> float:
        """Return how long a cell takes."""
        n = {part: len(clips) for part, clips in cell.split.parts().items()}
        n_steps = cell.config.optimizer.max_steps
        n_looks = math.ceil(n_steps / cell.config.selection.every_steps)
        answers = n_looks * n["dev"] + sum(n.values()) + len(cell.others)
        return self.prepare_s * sum(n.values()) + self.step_s * n_steps + self.answer_s * answers


def kind(cell: Cell) -> Hashable:
    """Return what decides a cell's pace."""
    c = cell.config
    of_run = c.front_end, c.precision, c.model, c.augment, c.loss.kind, c.loss.outliers
    return *of_run, c.optimizer.batch_size, c.optimizer.frozen, c.optimizer.ema > 0, cell.corpus


def measure_pace(cell: Cell, cache: Path) -> Pace:
    """Take a few steps of a cell on some of its clips, which leaves nothing but their features in the cache."""
    from edge_ser_train.method.dataset import load_features
    from edge_ser_train.method.loop import Trainer

    config, n = cell.config, math.ceil(_N_BATCHES * cell.config.optimizer.batch_size / len(cell.labels))
    if not config.optimizer.init_file:  # the run it starts from may not be there yet
        config = replace(config, optimizer=replace(config.optimizer, init=""))
    config = replace(config, selection=replace(config.selection, after_step=0))
    split = shortened(cell.split, {"train": n, "dev": n // 2 or 1, "test": 1})
    features = [load_features(clips, config.front_end_config, cache) for clips in split.parts().values()]
    lengths = [len(x) for part in features for x in part]
    with tempfile.TemporaryDirectory() as folder:
        times = [time.perf_counter()]
        trainer = Trainer(config, split, Path(folder), cache, criterion=criterion(config.loss))
        times.append(time.perf_counter())
        trainer.step()  # the first one makes what the others find
        times.append(time.perf_counter())
        for _ in range(_N_STEPS):
            trainer.step()
        times.append(time.perf_counter())
        trainer.look_at_dev()
        times.append(time.perf_counter())
        trainer.save_checkpoint()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    prepare, _, steps, look = np.diff(times).tolist()
    frame_bytes = config.front_end_config.n_bins * np.dtype(np.float32).itemsize
    return Pace(prepare / len(lengths), steps / _N_STEPS, look / len(split.dev), size, float(np.mean(lengths)) * frame_bytes)


def cost(cells: Sequence[Cell], cache: Path) -> Iterator[str]:
    """Say line by line what the cells take on this machine, one at a time, and when the first answers are there."""
    paces: dict[Hashable, Pace] = {}
    for cell in cells:
        if kind(cell) not in paces:
            pace = paces[kind(cell)] = measure_pace(cell, cache)
            at_dev = f"{1000 * pace.answer_s:.1f} ms a clip of dev"
            yield f"{cell.experiment} ({cell.config.front_end}): measured {pace.step_s:.3f} s a step, {at_dev}"
    seconds = [paces[kind(cell)].seconds(cell) for cell in cells]
    # Each clip once for every front end, whatever folds it is in.
    cached = {
        (c.path, cell.config.front_end): paces[kind(cell)] for cell in cells for p in cell.split.parts().values() for c in p
    }
    features = sum(pace.feature_bytes for pace in cached.values())
    written = sum(paces[kind(cell)].run_bytes for cell in cells)
    n_steps = sum(cell.config.optimizer.max_steps for cell in cells)
    yield (
        f"{len(cells)} cells, {n_steps:,} steps: about {_hours(sum(seconds))} on this machine, one at a time; "
        f"disk: {written / 1e9:.2f} GB of runs, {features / 1e9:.2f} GB of cached features"
    )
    groups = [list(of) for _, of in groupby(zip(cells, seconds, strict=True), key=lambda pair: _answer(pair[0]))]
    n, passed = 0, 0.0
    for group in groups[:_SHOWN]:
        n, passed = n + len(group), passed + sum(took for _, took in group)
        yield f"  after {_hours(passed)}, {n} cells: {_answer(group[0][0])}"
    if len(groups) > _SHOWN:
        yield f"  ... and {len(groups) - _SHOWN} answers more; --cells N ends after N cells"


def _answer(cell: Cell) -> str:
    repeat = f", repeat {repeat_of(cell)}" if cell.split.fold.startswith("repeat") else ""
    return f"{cell.experiment}, {cell.split.protocol}{repeat}, seed {cell.config.seed}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
