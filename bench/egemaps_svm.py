"""The classical baseline: openSMILE's eGeMAPSv02 functionals and a linear SVM, on the splits that the networks are scored on.

python bench/egemaps_svm.py --data DATA --out train/results

Every fold becomes a cell like those of ``edge-ser reproduce``, so results tables show the baseline as one more row.
Needs ``pip install '.[bench]'``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from edge_ser.arrays import Float32Array
from edge_ser.errors import AudioError, EdgeSerError, RunError, require_extra
from edge_ser.files import writing
from edge_ser.frontend.audio import AudioReader
from edge_ser_train.corpora.clips import Clip, class_numbers
from edge_ser_train.corpora.splits import check_leaks
from edge_ser_train.corpora.tables import read_corpus
from edge_ser_train.method.dataset import audio_digests, default_cache_dir
from edge_ser_train.metrics import confusion_per_speaker
from edge_ser_train.paper.baselines import fit_svm
from edge_ser_train.paper.cells import Cell, plan_cells, record
from edge_ser_train.paper.experiments import PLANS
from edge_ser_train.paper.results import read_cells

EXPERIMENT = "egemaps-svm"
C_GRID = (0.001, 0.01, 0.1, 1.0)
RATE_HZ = 16000


def functionals(clips: Sequence[Clip], cache_dir: Path) -> Float32Array:
    """Return the 88 eGeMAPSv02 functionals of every clip, [n, 88], computed once and then read from ``cache_dir``.

    As for the networks' features, the cache's name is a hash of what makes them and of every file's path, size and time of
    change. Raises AudioError for a clip that openSMILE finds nothing in.
    """
    stats = [(str(c.path.resolve()), (s := c.path.stat()).st_size, s.st_mtime_ns) for c in clips]
    key = hashlib.sha256(json.dumps(["eGeMAPSv02", version("opensmile"), RATE_HZ, stats]).encode()).hexdigest()[:24]
    file = cache_dir / f"egemaps-{key}.npy"
    try:
        if not file.is_file():
            _save(file, _extract(clips))
        table: Float32Array = np.load(file)
    except OSError as error:
        raise RunError(f"cannot use the feature cache {cache_dir}: {error.strerror or error}; choose another --cache") from None
    return table


def _extract(clips: Sequence[Clip]) -> Float32Array:
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    rows = []
    for clip in tqdm(clips, desc=f"eGeMAPS of {clips[0].corpus}", unit="clip", disable=None):
        with AudioReader(clip.path, RATE_HZ) as reader:
            row = smile.process_signal(reader.samples(), RATE_HZ).to_numpy(dtype=np.float32)[0]
        if not np.isfinite(row).all():
            raise AudioError(f"{clip.path}: openSMILE gives {np.sum(~np.isfinite(row))} functionals that are no number")
        rows.append(row)
    return np.stack(rows)


def _save(file: Path, table: Float32Array) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with writing(file) as stream:
        np.save(stream, table)


def score_cell(cell: Cell, x_of: Mapping[str, Float32Array]) -> tuple[list[str], dict[str, Any]]:
    """Fit and choose on train and dev, look at test once; return leaks and what was measured.

    ``x_of`` maps a clip's key to its functionals [88].
    """
    start = time.perf_counter()
    parts = cell.split.parts()
    n = len(cell.labels)
    x = {part: np.stack([x_of[c.key] for c in clips]) for part, clips in parts.items()}
    y = {part: class_numbers(clips, cell.labels) for part, clips in parts.items()}
    digests = audio_digests([c for clips in parts.values() for c in clips], [row for part in parts for row in x[part]])
    leaks = check_leaks(cell.split, digests, lambda line: None)
    dev_ua, c, svm = fit_svm(x, y, "linear", C_GRID)
    predicted = svm.decision_function(x["test"]).argmax(axis=1)
    per_speaker = confusion_per_speaker(y["test"], predicted, [c.speaker for c in parts["test"]], n)
    measured = {
        "config": {"features": "eGeMAPSv02 functionals", "c_grid": C_GRID, "class_weight": "balanced"},
        "classifier": f"SVM (linear, C = {c:g})",
        "clips": {part: len(clips) for part, clips in parts.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "device": "cpu",
        **{name: version(name) for name in ("opensmile", "scikit-learn")},
        "dev_ua": dev_ua,
        # An SVM's scores are no probabilities, and it has no embedding whose compactness could be told.
        "temperature": None,
        "test_ece": None,
        "test_confusion_per_speaker": {speaker: matrix.tolist() for speaker, matrix in per_speaker.items()},
    }
    return [str(leak) for leak in leaks], measured


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder that holds the corpora.")
@click.option("--corpus", "corpora", multiple=True, default=("cremad", "emodb", "ravdess"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Results go to OUT/cells, as reproduce's do.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for cached features; default: the user's cache.")
def main(data: Path, corpora: tuple[str, ...], out: Path, cache: Path | None) -> None:
    """Score openSMILE eGeMAPSv02 functionals with a linear SVM under the protocols of edge-ser reproduce."""
    try:
        require_extra("bench", "opensmile", "sklearn")
        for corpus in corpora:
            clips = read_corpus(data, corpus)
            x_of = dict(zip((c.key for c in clips), functionals(clips, cache or default_cache_dir()), strict=True))
            for n_classes in [n for name, n in PLANS if name == corpus]:
                # The splits of the networks' cells, whatever the recipe; one seed, for nothing here is drawn.
                cells = [replace(cell, experiment=EXPERIMENT) for cell in plan_cells(data, corpus, n_classes, ["edge"], seeds=1)]
                for cell in tqdm(cells, desc=f"{corpus}, {n_classes} classes", unit="fold", disable=None):
                    record(out, cell, *score_cell(cell, x_of))
        for (place, experiment), summary in read_cells(out).items():
            if experiment == EXPERIMENT:
                click.echo(f"{place}: UA {summary.ua.percent()}, WA {summary.wa.percent()}")
    except EdgeSerError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
