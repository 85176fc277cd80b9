"""Cells: experiments on corpora as training runs, resumable. Each is planned, trained, measured, recorded.

A cell is (corpus, classes, protocol, fold, experiment, seed). OUT/runs/CELL is its training run, OUT/cells/CELL.json what it
measured: per-speaker confusion matrices, calibration, compactness of the embedding. Tables and reports are made from these
results alone, so they can be rebuilt without retraining and missing cells filled in later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Float32Array, Int64Array
from edge_ser.errors import ConfigError, RunError, did_you_mean
from edge_ser.prediction import softmax
from edge_ser_train.corpora.clips import PARTS, Clip, class_numbers
from edge_ser_train.corpora.splits import Split, make_splits, relabel
from edge_ser_train.corpora.tables import label_map_of, read_corpus
from edge_ser_train.method import run as runs
from edge_ser_train.method import weights
from edge_ser_train.method.config import TrainConfig, config_from_table, load_config, load_preset
from edge_ser_train.method.losses import WITHOUT_CLASSIFIER
from edge_ser_train.metrics import (
    confusion_matrix,
    confusion_per_speaker,
    expected_calibration_error,
    fit_temperature,
    unweighted_accuracy,
)
from edge_ser_train.paper.baselines import criterion, svm
from edge_ser_train.paper.experiments import ABLATIONS, BESIDE, EXPERIMENTS, FIGURES, PLANS, Lasting
from edge_ser_train.paper.table import cell_name, read_results, write_result


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    corpus: str
    split: Split
    labels: tuple[str, ...]
    experiment: str
    config: TrainConfig
    others: tuple[Clip, ...] = ()
    """What the test speakers say in emotions that have no label; none where they are no new speakers."""

    @property
    def name(self) -> str:
        """Return the cell's path below OUT/runs and OUT/cells."""
        return cell_name(self.corpus, len(self.labels), self.split.protocol, self.experiment, self.split.fold, self.config.seed)


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

    Where the corpus' own protocol knows the speakers, the paper's settings and the edge recipe have one beside it that does not.

    Raises ConfigError for an unknown experiment or number of classes, CorpusError for a corpus that is not there.
    """
    known = [n for c, n in PLANS if c == corpus]
    if n_classes is None and known:
        n_classes = known[0]
    plan = PLANS.get((corpus, n_classes or 4), PLANS["cremad", 4])
    if known and n_classes not in known:
        raise ConfigError(f"corpus {corpus} with {n_classes} classes; expected {' or '.join(map(str, known))}")
    label_map = label_map_of([corpus], plan.labels)
    everything = read_corpus(data, corpus)
    clips, left_out = relabel(everything, label_map, plan.labels)
    unlabelled = [c for c in everything if c.emotion not in (*plan.labels, *label_map)]
    splits = make_splits(clips, protocol or plan.protocol, left_out)
    beside = make_splits(clips, plan.beside, left_out) if plan.beside and protocol is None else []
    if quick:
        splits, beside = splits[:1], beside[:1]
        settings = (*settings, *_steps((8, 4, 2)), "optimizer.batch_size=8", "loss.warmup_steps=2")
    cells = []
    for name in experiments:
        all_of_them = EXPERIMENTS | ABLATIONS
        experiment = all_of_them.get(name)
        if experiment is None:
            raise ConfigError(f"unknown experiment {name!r}{did_you_mean(name, all_of_them)}; known: {', '.join(all_of_them)}")
        by_input = "edge" if experiment.preset == "edge" else "stft" if experiment.stft else "mel"
        lasting = _steps(getattr(plan, experiment.lasting or by_input) or plan.edge)
        start = (f"optimizer.init={plan.others}",) if experiment.lasting == "pretrained" and plan.others else ()
        config = load_preset(experiment.preset).with_settings((*lasting, *start, *experiment.settings, *settings))
        front_end = config.front_end.replace("logmel", "logstft") if experiment.stft else config.front_end
        config = replace(config, labels=plan.labels, label_map=label_map, front_end=front_end)
        used = [*splits, *(beside if name in BESIDE else ())]
        if experiment.also:
            more, _ = relabel(read_corpus(data, experiment.also), label_map, plan.labels)
            used = [replace(s, train=(*s.train, *more)) for s in used]
        if quick:
            used = [replace(shortened(s, dict.fromkeys(PARTS, 6)), fold=f"{s.fold} quick".strip()) for s in used]
        for s in used:
            new = () if s.speaker_dependent else {c.speaker for c in s.test}
            others = tuple(c for c in unlabelled if c.speaker in new)
            cells += [Cell(corpus, s, plan.labels, name, replace(config, seed=seed), others) for seed in range(seeds)]
    return cells


def _steps(lasting: Lasting) -> tuple[str, ...]:
    return tuple(map("{}={}".format, ("optimizer.max_steps", "selection.every_steps", "selection.after_step"), lasting))


def shortened(split: Split, n_clips: Mapping[str, int]) -> Split:
    """Return up to ``n_clips`` of every class and corpus in each part."""

    def few(part: str) -> tuple[Clip, ...]:
        of: dict[tuple[str, str], list[Clip]] = defaultdict(list)
        for clip in split.parts()[part]:
            of[clip.corpus, clip.emotion].append(clip)
        return tuple(clip for kind in sorted(of) for clip in of[kind][: n_clips[part]])

    return replace(split, train=few("train"), dev=few("dev"), test=few("test"))


def unfinished(out: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that have no results in OUT; RunError when there are results of other settings or another split."""
    results = read_results(out)
    for cell in cells:
        if cell.name in results:
            result = results[cell.name]
            # A setting that came into the project later has its default in older results.
            config = config_from_table(result.get("config", {}), f"{out}, cell {cell.name}")
            if "auto" in (config.precision, cell.config.precision):  # what it was is said beside the settings
                config = replace(config, precision=cell.config.precision)
            if config != cell.config or result["split_sha256"] != cell.split.sha256:
                raise RunError(
                    f"{out} holds the results of other settings or another split for {cell.name}; choose another --out"
                )
    return [cell for cell in cells if cell.name not in results]


@dataclass(frozen=True)
class Trained:
    """A cell's finished run and its answers."""

    report: Mapping[str, Any]
    leaks: tuple[str, ...]
    logits: dict[str, Float32Array]
    """[n, n_labels] for train, dev, test and ``others``, what the test speakers say without a label."""
    z: dict[str, Float32Array]
    """[n, 64] for the same."""
    centres: Float32Array


def train_cell(cell: Cell, data: Path, out: Path, cache: Path) -> Trained | None:
    """Train (or continue, or just finish) the cell's run below OUT/runs; None when Ctrl-C stopped it."""
    from edge_ser_train.method.dataset import load_features
    from edge_ser_train.method.inference import infer
    from edge_ser_train.method.loop import Trainer, train_run

    folder = out / "runs" / cell.name
    started = (folder / runs.CONFIG).is_file()
    if started and load_config(folder / runs.CONFIG) != cell.config:
        raise RunError(f"{folder} was started with other settings; choose another --out, or move it away")
    config = among_the_runs(cell, out)
    corpora = list(dict.fromkeys(c.corpus for c in cell.split.train))
    described = runs.describe_data(cell.split, data, corpora, config)
    runs.open_run(cell.config, described, folder, resume=started)
    trainer = Trainer(config, cell.split, folder, cache, criterion=criterion(config.loss))
    report = train_run(trainer, described, started, stated=cell.config)
    if report is None:
        return None
    best = weights.load_run(folder)
    best.net.to(trainer.device)
    heard = {"test": cell.split.test, "others": cell.others}
    front_end = cell.config.front_end_config
    answers = trainer.answers | {part: infer(best.net, load_features(clips, front_end, cache)) for part, clips in heard.items()}
    logits, z = ({part: answer[i] for part, answer in answers.items()} for i in (0, 1))
    return Trained(report, tuple(trainer.leaks), logits, z, best.centres.numpy())


def among_the_runs(cell: Cell, out: Path) -> TrainConfig:
    """Return the cell's configuration with the other cell it starts from as a folder below OUT; RunError without."""
    optimizer = cell.config.optimizer
    if not optimizer.init or optimizer.init_file:
        return cell.config
    folder = out / "runs" / optimizer.init
    if not (folder / runs.REPORT).is_file():
        raise RunError(f"{cell.experiment} needs the run {folder}, which is not finished; run that experiment first")
    return replace(cell.config, optimizer=replace(optimizer, init=str(folder)))


def measure(cell: Cell, trained: Trained) -> dict[str, Any]:
    """Return what a trained cell's answers are worth."""
    n, parts = len(cell.labels), cell.split.parts()
    y = {part: class_numbers(clips, cell.labels) for part, clips in parts.items()}
    z, logits, classifier = trained.z, trained.logits, "softmax"
    if cell.config.loss.kind in WITHOUT_CLASSIFIER:
        classifier, logits = svm({part: z[part] for part in parts}, y)
    temperature = fit_temperature(logits["dev"], y["dev"])
    per_speaker = confusion_per_speaker(y["test"], logits["test"].argmax(axis=1), [c.speaker for c in cell.split.test], n)
    measured = {
        "config": asdict(cell.config),
        "classifier": classifier,
        "clips": {part: len(clips) for part, clips in parts.items()},
        **{k: trained.report[k] for k in ("best_step", "seconds", "device", "precision", "torch")},
        "dev_ua": float(unweighted_accuracy(confusion_matrix(y["dev"], logits["dev"].argmax(axis=1), n))),
        "temperature": temperature,
        "test_ece": expected_calibration_error(softmax(logits["test"], temperature), y["test"]),
        "test_confusion_per_speaker": {speaker: matrix.tolist() for speaker, matrix in per_speaker.items()},
        "compactness": {part: compactness(z[part], y[part]) for part in ("train", "test")},
    }
    if classifier == "softmax" and cell.others:
        answers = {"known": (logits["test"], z["test"]), "others": (logits["others"], z["others"])}
        clips = {"known": cell.split.test, "others": cell.others}
        measured["novelty"] = novelty(answers, clips, trained.centres, temperature)
    if cell.experiment in FIGURES["4"] and cell.config.seed == 0:
        measured["pca"] = {part: pca(z[part], y[part]) for part in ("train", "test")}
    return measured


def compactness(z: Float32Array, y: Int64Array) -> dict[str, float]:
    """Return mean distance of z [n, 64] to its class mean, mean distance between class means, and their ratio."""
    means = np.stack([z[y == j].mean(axis=0) for j in np.unique(y)])
    own = np.searchsorted(np.unique(y), y)
    intra = float(np.linalg.norm(z - means[own], axis=1).mean())
    between = np.linalg.norm(means[:, None] - means[None], axis=2)
    inter = float(between[np.triu_indices(len(means), 1)].mean())
    return {"intra": intra, "inter": inter, "ratio": intra / inter if inter else float("inf")}


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


def pca(z: Float32Array, y: Int64Array) -> dict[str, Any]:
    """Return z [n, 64] projected on its own two first principal components, in thousandths, with classes."""
    centred = z - z.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    explained = float(plane.var(axis=0).sum() / max(centred.var(axis=0).sum(), 1e-12))
    return {"points": np.rint(1000 * plane).astype(int).tolist(), "classes": y.tolist(), "explained_variance": explained}


def record(out: Path, cell: Cell, leaks: Sequence[str], measured: Mapping[str, Any]) -> None:
    """Write what was measured on a cell below what the cell is, and what its split leaks."""
    result = {
        "corpus": cell.corpus,
        "labels": list(cell.labels),
        "protocol": cell.split.protocol,
        "experiment": cell.experiment,
        "fold": cell.split.fold,
        "seed": cell.config.seed,
        "speaker_dependent": cell.split.speaker_dependent,
        "split_sha256": cell.split.sha256,
        "leaks": list(leaks),
        **measured,
    }
    write_result(out, cell.name, result)
