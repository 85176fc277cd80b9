"""Cells: experiments on corpora as training runs, resumable, one JSON file of results each.

A cell is (corpus, classes, protocol, fold, experiment, seed). OUT/runs/CELL is its training run, OUT/cells/CELL.json what it
measured: per-speaker confusion matrices, calibration, compactness of the embedding. Tables and reports are made from the JSON
files alone, so they can be rebuilt without retraining and missing cells filled in later.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import Float32Array
from edge_ser.errors import ConfigError, RunError, did_you_mean
from edge_ser.prediction import softmax
from edge_ser_train.corpora.splits import Split, make_splits, relabel
from edge_ser_train.corpora.tables import Clip, read_corpus
from edge_ser_train.method import run as runs
from edge_ser_train.method.config import TrainConfig, config_from_table, load_config, load_preset
from edge_ser_train.metrics import confusion_matrix, expected_calibration_error, fit_temperature, unweighted_accuracy
from edge_ser_train.paper.experiments import ABLATIONS, EXPERIMENTS, FIGURES, PLANS, steps


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    corpus: str
    split: Split
    labels: tuple[str, ...]
    experiment: str
    config: TrainConfig

    @property
    def name(self) -> str:
        """Return the cell's path below OUT/runs and OUT/cells."""
        fold = self.split.fold.replace(" ", "-") or "all"
        place = f"{self.corpus}-{len(self.labels)}-{self.split.protocol}"
        return f"{place}/{self.experiment}/{fold}-seed{self.config.seed}"


def plan_cells(
    data: Path,
    corpus: str,
    n_classes: int | None,
    experiments: Sequence[str],
    seeds: int,
    protocol: str | None = None,
    settings: tuple[str, ...] = (),
    quick: bool = False,
) -> list[Cell]:
    """Return the cells of some experiments on a corpus, every fold and seed; ``quick`` makes one tiny cell an experiment.

    Raises ConfigError for an unknown experiment or number of classes, CorpusError for a corpus that is not there.
    """
    known = [n for c, n in PLANS if c == corpus]
    if n_classes is None and known:
        n_classes = known[0]
    plan = PLANS.get((corpus, n_classes or 4), PLANS["cremad", 4])
    if known and n_classes not in known:
        raise ConfigError(f"corpus {corpus} with {n_classes} classes; expected {' or '.join(map(str, known))}")
    label_map = {"excited": "happy"} if corpus == "iemocap" else {}
    clips, left_out = relabel(read_corpus(data, corpus), label_map, plan.labels)
    splits = make_splits(clips, protocol or plan.protocol, left_out)
    if quick:
        splits = splits[:1]
        settings = (*settings, *steps(8, 4, 2), "optimizer.batch_size=8", "loss.warmup_steps=2")
    cells = []
    for name in experiments:
        all_of_them = EXPERIMENTS | ABLATIONS
        experiment = all_of_them.get(name)
        if experiment is None:
            raise ConfigError(f"unknown experiment {name!r}{did_you_mean(name, all_of_them)}; known: {', '.join(all_of_them)}")
        by_input = "edge" if experiment.preset == "edge" else "stft" if experiment.stft else "mel"
        lasting = getattr(plan, experiment.lasting or by_input) or plan.edge
        config = load_preset(experiment.preset).with_settings((*lasting, *experiment.settings, *settings))
        front_end = config.front_end.replace("logmel", "logstft") if experiment.stft else config.front_end
        config = replace(config, labels=plan.labels, label_map=label_map, front_end=front_end)
        used = splits
        if experiment.also:
            more, _ = relabel(read_corpus(data, experiment.also), label_map, plan.labels)
            used = [replace(s, train=(*s.train, *more)) for s in used]
        if quick:
            used = [_shortened(s) for s in used]
        cells += [Cell(corpus, s, plan.labels, name, replace(config, seed=seed)) for s in used for seed in range(seeds)]
    return cells


def _shortened(split: Split) -> Split:
    """Return six clips of every class and corpus in each part."""

    def few(clips: Sequence[Clip]) -> tuple[Clip, ...]:
        of: dict[tuple[str, str], list[Clip]] = defaultdict(list)
        for clip in clips:
            of[clip.corpus, clip.emotion].append(clip)
        return tuple(clip for kind in sorted(of) for clip in of[kind][:6])

    fold = f"{split.fold} quick".strip()
    return replace(split, fold=fold, train=few(split.train), dev=few(split.dev), test=few(split.test))


def _result_path(out: Path, cell: Cell) -> Path:
    """Return where a cell's results lie."""
    return out / "cells" / f"{cell.name}.json"


def finished(out: Path, cell: Cell) -> bool:
    """Return whether the cell has results of exactly these settings and this split; RunError when they are of others."""
    path = _result_path(out, cell)
    if not path.is_file():
        return False
    result = runs.read_json(path)
    # A setting that came into the project later has its default in older results.
    config = config_from_table(result.get("config", {}), str(path))
    if "auto" in (config.precision, cell.config.precision):  # what it was is said beside the settings
        config = replace(config, precision=cell.config.precision)
    if config != cell.config or result.get("split_sha256") != cell.split.sha256:
        raise RunError(f"{path} holds the results of other settings or another split; choose another --out, or move it away")
    return True


def run_cell(cell: Cell, data: Path, out: Path, cache: Path, say: Callable[[str], None]) -> bool:
    """Train (or continue, or just score) one cell and write its results; False when Ctrl-C stopped it.

    RunError where another process is at it.
    """
    folder = out / "runs" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    with runs.held(folder):
        return _run_held(cell, data, out, folder, cache, say)


def _run_held(cell: Cell, data: Path, out: Path, folder: Path, cache: Path, say: Callable[[str], None]) -> bool:
    from edge_ser_train.method.dataset import class_numbers, load_features
    from edge_ser_train.method.loop import Trainer, infer
    from edge_ser_train.method.model import with_settled_precision
    from edge_ser_train.method.processes import present

    started = (folder / runs.CONFIG).is_file()
    own = load_config(folder / runs.CONFIG) if started else with_settled_precision(cell.config, present().device())
    if cell.config.precision == "auto":
        cell = replace(cell, config=replace(cell.config, precision=own.precision))
    if own != cell.config:
        raise RunError(f"{folder} was started with other settings; choose another --out, or move it away")
    config = _among_the_runs(cell, out)
    corpora = list(dict.fromkeys(c.corpus for c in cell.split.train))
    described = runs.describe_data(cell.split, data, corpora, config)
    runs.open_run(cell.config, described, folder, resume=started)
    trainer = Trainer(config, cell.split, folder, cache, say)
    if not started:
        runs.record_run(cell.config, described, cell.split, folder)
    if (folder / runs.CHECKPOINT).is_file():
        trainer.load_checkpoint()
    if not trainer.train(say):
        return False
    report = trainer.finish()
    runs.write_atomic(folder / runs.REPORT, json.dumps(report, indent=1) + "\n")
    trained = runs.load_run(folder)
    trained.net.to(trainer.device)
    test = cell.split.test
    front_end = cell.config.front_end_config
    answers = trainer.answers | {"test": infer(trained.net, load_features(test, front_end, cache))}
    logits, z = ({part: answer[i] for part, answer in answers.items()} for i in (0, 1))
    y = {part: class_numbers(clips, cell.labels) for part, clips in cell.split.parts().items()}
    classifier = "softmax"
    if cell.config.loss.kind != "joint":
        classifier, logits = _svm(z, y)
    n = len(cell.labels)
    temperature = fit_temperature(logits["dev"], y["dev"])
    measured = {
        "config": asdict(cell.config),
        "classifier": classifier,
        "clips": {part: len(clips) for part, clips in cell.split.parts().items()},
        **{k: report[k] for k in ("best_step", "seconds", "device", "precision", "torch")},
        "dev_ua": float(unweighted_accuracy(confusion_matrix(y["dev"], logits["dev"].argmax(axis=1), n))),
        "temperature": temperature,
        "test_ece": expected_calibration_error(softmax(logits["test"], temperature), y["test"]),
        "test_confusion_per_speaker": per_speaker_confusion(y["test"], logits["test"], [c.speaker for c in test], n),
        "compactness": {part: compactness(z[part], y[part]) for part in ("train", "test")},
    }
    if cell.config.loss.kind == "joint" and (others := _without_label(cell, data)):
        answers = {"known": (logits["test"], z["test"]), "others": infer(trained.net, load_features(others, front_end, cache))}
        clips = {"known": test, "others": others}
        measured["novelty"] = novelty(answers, clips, trained.centres.numpy(), temperature)
    if cell.experiment in FIGURES["4"] and cell.config.seed == 0:
        measured["pca"] = {part: pca(z[part], y[part]) for part in ("train", "test")}
    write_result(out, cell, trainer.leaks, measured)
    return True


def _among_the_runs(cell: Cell, out: Path) -> TrainConfig:
    """Return the cell's configuration with the other cells it starts or learns from as folders below OUT; RunError without."""

    def found(run: str) -> str:
        folder = out / "runs" / run
        if not (folder / runs.REPORT).is_file():
            raise RunError(f"{cell.experiment} needs the run {folder}, which is not finished; run that experiment first")
        return str(folder)

    optimizer, loss = cell.config.optimizer, cell.config.loss
    if optimizer.init and not optimizer.init_file:
        optimizer = replace(optimizer, init=found(optimizer.init))
    return replace(cell.config, optimizer=optimizer, loss=replace(loss, teachers=tuple(map(found, loss.teachers))))


def write_result(out: Path, cell: Cell, leaks: Sequence[str], measured: dict[str, Any]) -> None:
    """Write what was measured on a cell below what the cell is, and what its split leaks."""
    result = {
        "corpus": cell.corpus,
        "labels": list(cell.labels),
        "protocol": cell.split.protocol,
        "fold": cell.split.fold,
        "speaker_dependent": cell.split.speaker_dependent,
        "split_sha256": cell.split.sha256,
        "leaks": list(leaks),
        "experiment": cell.experiment,
        "seed": cell.config.seed,
        **measured,
    }
    path = _result_path(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_atomic(path, json.dumps(result, separators=(",", ":")) + "\n")


def per_speaker_confusion(
    y: npt.NDArray[np.int64], logits: Float32Array, speakers: Sequence[str], n_classes: int
) -> dict[str, list[list[int]]]:
    """Return each speaker's confusion matrix, rows true."""
    names, who = np.unique(np.asarray(speakers), return_inverse=True)
    predicted = logits.argmax(axis=1)
    return {str(s): confusion_matrix(y[who == i], predicted[who == i], n_classes).tolist() for i, s in enumerate(names)}


def _svm(z: dict[str, Float32Array], y: dict[str, npt.NDArray[np.int64]]) -> tuple[str, dict[str, Float32Array]]:
    """Fit an SVM on the training embeddings, C chosen on dev; return its description and its scores."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    best: tuple[float, float, Any] = (-1.0, 0.0, None)
    for c in (0.1, 1.0, 10.0):
        svm = make_pipeline(StandardScaler(), SVC(C=c, class_weight="balanced", break_ties=True, random_state=0))
        svm.fit(z["train"], y["train"])
        ua = float(unweighted_accuracy(confusion_matrix(y["dev"], svm.predict(z["dev"]), int(y["train"].max()) + 1)))
        best = max(best, (ua, c, svm), key=lambda entry: entry[0])
    scores = {part: np.asarray(best[2].decision_function(x), dtype=np.float32) for part, x in z.items()}
    return f"SVM (RBF, C = {best[1]:g})", scores


def compactness(z: Float32Array, y: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return mean distance of z [n, 64] to its class mean, mean distance between class means, and their ratio."""
    means = np.stack([z[y == j].mean(axis=0) for j in np.unique(y)])
    own = np.searchsorted(np.unique(y), y)
    intra = float(np.linalg.norm(z - means[own], axis=1).mean())
    between = np.linalg.norm(means[:, None] - means[None], axis=2)
    inter = float(between[np.triu_indices(len(means), 1)].mean())
    return {"intra": intra, "inter": inter, "ratio": intra / inter if inter else float("inf")}


def _without_label(cell: Cell, data: Path) -> list[Clip]:
    """Return what the test speakers say in emotions that have no label; none where they are no new speakers."""
    speakers = {c.speaker for c in cell.split.test} if not cell.split.speaker_dependent else set()
    known = {*cell.labels, *cell.config.label_map}
    return [c for c in read_corpus(data, cell.corpus) if c.speaker in speakers and c.emotion not in known]


def novelty(
    answers: Mapping[str, tuple[Float32Array, Float32Array]], clips: Mapping[str, Sequence[Clip]], centres: Float32Array,
    temperature: float,
) -> dict[str, Any]:  # fmt: skip
    """Return how well ``others``, clips in emotions that have no label, are told from the ``known`` by how they are answered.

    For both, logits [n, n_labels] and z [n, 64]. Each speaker's area under the ROC curve, by the distance of z to the nearest
    class centre and by the confidence that the answer lacks: 0.5 is chance.
    """
    from sklearn.metrics import roc_auc_score

    logits, z = (np.concatenate([answers[of][i] for of in ("known", "others")]) for i in (0, 1))
    scores = {
        "distance": np.linalg.norm(z[:, None] - centres, axis=2).min(axis=1),
        "confidence": 1 - softmax(logits, temperature).max(axis=1),
    }
    other = np.repeat([False, True], [len(clips["known"]), len(clips["others"])])
    who = np.array([c.speaker for of in ("known", "others") for c in clips[of]])
    both = sorted(set(who[~other].tolist()) & set(who[other].tolist()))
    return {
        "clips": len(clips["others"]),
        "auroc_per_speaker": {
            name: {speaker: float(roc_auc_score(other[who == speaker], score[who == speaker])) for speaker in both}
            for name, score in scores.items()
        },
    }


def pca(z: Float32Array, y: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return z [n, 64] projected on its own two first principal components, in thousandths, with classes."""
    centred = z - z.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    explained = float(plane.var(axis=0).sum() / max(centred.var(axis=0).sum(), 1e-12))
    return {"points": np.rint(1000 * plane).astype(int).tolist(), "classes": y.tolist(), "explained_variance": explained}


def run_cells(cells: Sequence[Cell], data: Path, out: Path, cache: Path, jobs: int, say: Callable[[str], None]) -> Iterator[Cell]:
    """Run the cells that have no results yet, ``jobs`` at a time; yield each as it is done, and stop at Ctrl-C."""
    todo = [cell for cell in cells if not finished(out, cell)]
    if jobs <= 1:
        for cell in todo:
            say(cell.name)
            if not run_cell(cell, data, out, cache, lambda line: None):
                return
            yield cell
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_use_threads, initargs=(threads,)) as pool:
        futures = {pool.submit(_run_quietly, cell, data, out, cache): cell for cell in todo}
        try:
            for future in as_completed(futures):
                if not future.result():
                    return
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)


def _use_threads(n: int) -> None:
    import torch

    torch.set_num_threads(n)


def _run_quietly(cell: Cell, data: Path, out: Path, cache: Path) -> bool:
    os.environ["TQDM_DISABLE"] = "1"
    return run_cell(cell, data, out, cache, lambda line: None)
