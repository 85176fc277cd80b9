"""The paper's experiments, and those beside it, as cells: one training run each, resumable, one JSON file of results each.

A cell is (corpus, classes, protocol, fold, experiment, seed). OUT/runs/CELL is its training run, OUT/cells/CELL.json what it
measured: per-speaker confusion matrices, calibration, compactness of the embedding. Tables and reports are made from the JSON
files alone, so they can be rebuilt without retraining and missing cells filled in later.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.decision import softmax
from edge_ser.errors import ConfigError, RunError, did_you_mean
from edge_ser_train import run as runs
from edge_ser_train.config import TrainConfig, load_config, load_preset
from edge_ser_train.corpora import Clip, read_corpus
from edge_ser_train.metrics import confusion_matrix, expected_calibration_error, fit_temperature, unweighted_accuracy
from edge_ser_train.splits import Split, make_splits, relabel

Float32Array = npt.NDArray[np.float32]

FOUR = ("neutral", "angry", "happy", "sad")


@dataclass(frozen=True)
class Plan:
    """How a corpus is used: labels, protocol and how long a run lasts."""

    labels: tuple[str, ...]
    protocol: str
    mel: tuple[str, ...]
    """Settings of every run on Mel input."""
    stft: tuple[str, ...]
    """Settings of every run on STFT input."""
    edge: tuple[str, ...]
    """Settings of every run of the preset ``edge``."""
    transfer: tuple[str, ...] = ()
    """Settings of every run that starts from cremad's."""
    ablation: tuple[str, ...] = ()
    """Settings of every run that tells what one part of the recipe brings."""


def _steps(max_steps: int, every: int, after: int) -> tuple[str, ...]:
    return tuple(
        f"{name}={n}"
        for name, n in (("optimizer.max_steps", max_steps), ("selection.every_steps", every), ("selection.after_step", after))
    )


_EMODB = ("neutral", "angry", "happy", "sad", "boredom", "disgust", "fear")
_RAVDESS = ("neutral", "angry", "happy", "sad", "calm", "disgust", "fear", "surprise")
PLANS: dict[tuple[str, int], Plan] = {
    # As published: a look at dev every 11 steps, best kept after 200 (Mel) or 400 (STFT).
    ("iemocap", 4): Plan(FOUR, "paper", _steps(3520, 11, 200), _steps(2920, 11, 400), _steps(3500, 100, 1000)),
    ("cremad", 4): Plan(
        FOUR,
        "fixed",
        _steps(1000, 50, 200),
        _steps(1000, 50, 200),
        _steps(2500, 100, 1000),
        ablation=_steps(800, 100, 300),
    ),
    ("emodb", 4): Plan(
        FOUR,
        "leave-one-speaker-out",
        _steps(200, 25, 100),
        _steps(200, 25, 100),
        _steps(400, 50, 200),
        _steps(150, 25, 50),
    ),
    ("emodb", 7): Plan(
        _EMODB,
        "leave-one-speaker-out",
        _steps(300, 25, 100),
        _steps(300, 25, 100),
        _steps(600, 50, 200),
        _steps(200, 25, 50),
    ),
    ("ravdess", 8): Plan(
        _RAVDESS, "folds", _steps(600, 50, 200), _steps(600, 50, 200), _steps(1200, 100, 500), _steps(400, 50, 100)
    ),
    ("ravdess", 4): Plan(FOUR, "folds", _steps(400, 50, 100), _steps(400, 50, 100), _steps(800, 100, 300), _steps(300, 50, 100)),
}
"""Steps on the open corpora are what a CPU can do, chosen before any test set was looked at."""


@dataclass(frozen=True)
class Experiment:
    """A named recipe."""

    preset: str
    stft: bool
    settings: tuple[str, ...]
    title: str
    lasting: str = ""
    """Which of the plan's settings say how long it runs; default: by preset and input."""


def _paper(title: str, *settings: str, stft: bool = False) -> Experiment:
    return Experiment("paper", stft, settings, title)


def _ablation(name: str, *settings: str) -> Experiment:
    return Experiment("edge", False, settings, f"edge recipe, short: {name}", "ablation")


ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)
LAMBDAS = (0.0, 0.003, 0.03, 0.3, 3.0)
EXPERIMENTS: dict[str, Experiment] = {
    "setting-1": _paper("Mel, softmax loss (λ = 0)", "loss.lambda_center=0.0"),
    "setting-2": _paper("Mel, softmax + center loss (λ = 0.3)", "loss.lambda_center=0.3"),
    "setting-3": _paper("STFT, softmax loss (λ = 0)", "loss.lambda_center=0.0", stft=True),
    "setting-4": _paper("STFT, softmax + center loss (λ = 0.3)", "loss.lambda_center=0.3", stft=True),
    **{f"alpha-{a}": _paper(f"Mel, λ = 0.3, α = {a}", f"loss.alpha={a}") for a in ALPHAS if a != 0.5},
    **{f"lambda-{v}": _paper(f"Mel, λ = {v}, α = 0.5", f"loss.lambda_center={v}") for v in LAMBDAS if v not in (0.0, 0.3)},
    "triplet-svm": _paper("Mel, triplet loss + SVM", "loss.kind=triplet", "loss.margin=0.2"),
    "cosine-svm": _paper("Mel, cosine-similarity pairs + SVM", "loss.kind=cosine_pairs", "loss.margin=0.2"),
    "separation": _paper("Mel, λ = 0.3, centres pushed apart (island loss, weight 10)", "loss.separation=10.0"),
    "edge": Experiment("edge", False, ("loss.lambda_center=0.3",), "edge recipe, Mel, λ = 0.3"),
    "edge-lambda-0": Experiment("edge", False, ("loss.lambda_center=0.0",), "edge recipe, Mel, λ = 0"),
    "edge-stft": Experiment("edge", True, ("loss.lambda_center=0.3",), "edge recipe, STFT, λ = 0.3"),
    "edge-transfer": Experiment(
        "edge",
        False,
        ("loss.lambda_center=0.3", "optimizer.init=cremad-4-fixed/edge/all-seed0", "optimizer.lr=5e-4"),
        "edge recipe, λ = 0.3, started from the run on cremad",
        "transfer",
    ),
}
ABLATIONS: dict[str, Experiment] = {
    "ablation-none": _ablation("as it is"),
    **{
        f"ablation-{name.replace(' ', '-')}": _ablation(name, *settings)
        for name, settings in {
            "no gain": ("augment.gain_db=0.0",),
            "no frequency warp": ("augment.freq_warp=0.0",),
            "VTLP instead of frequency warp": ("augment.freq_warp=0.0", "augment.vtlp=0.1"),
            "no time stretch": ("augment.time_stretch=0.0",),
            "speeds 0.9, 1, 1.1 instead of stretch and warp": (
                "augment.time_stretch=0.0",
                "augment.freq_warp=0.0",
                "augment.speeds=[0.9, 1.0, 1.1]",
            ),
            "no SpecAugment": ("augment.freq_masks=0", "augment.time_masks=0"),
            "no noise": ("augment.noise=0.0",),
            "no reverberation": ("augment.reverb=0.0",),
            "no equaliser, no narrow band": ("augment.equaliser_db=0.0", "augment.band_limit=0.0"),
            "no dropout": ("model.dropout=0.0",),
            "dropout 0.3": ("model.dropout=0.3",),
            "no batch norm": ("model.batch_norm=false",),
            "label smoothing 0.1": ("loss.label_smoothing=0.1",),
            "constant rate": ("optimizer.schedule=constant", "optimizer.lr=3e-4"),
            "no EMA": ("optimizer.ema=0.0",),
            "lambda 0": ("loss.lambda_center=0.0",),
            "lambda 0.3": ("loss.lambda_center=0.3",),
            "alpha 0.1": ("loss.alpha=0.1",),
        }.items()
    },
}
"""One change each to the edge recipe, compared on dev; the longer training, cremad + emodb together and the teachers are runs of
their own (see train/README.md)."""
SETTINGS = ("setting-1", "setting-2", "setting-3", "setting-4")
ALPHA_SWEEP = {a: "setting-2" if a == 0.5 else f"alpha-{a}" for a in ALPHAS}
LAMBDA_SWEEP = {v: {0.0: "setting-1", 0.3: "setting-2"}.get(v, f"lambda-{v}") for v in LAMBDAS}
FIGURES = {
    "3a": tuple(ALPHA_SWEEP.values()),
    "3b": tuple(LAMBDA_SWEEP.values()),
    "4": ("setting-1", "setting-2"),
    "5": SETTINGS,
}
TABLES = {"1": ("setting-1", "setting-2"), "2": ("setting-3", "setting-4")}


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
        splits = [_shortened(splits[0])]
        settings = (*settings, *_steps(8, 4, 2), "optimizer.batch_size=8", "loss.warmup_steps=2")
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
        cells += [Cell(corpus, s, plan.labels, name, replace(config, seed=seed)) for s in splits for seed in range(seeds)]
    return cells


def _shortened(split: Split) -> Split:
    """Return six clips of every class in each part."""

    def few(clips: Sequence[Clip]) -> tuple[Clip, ...]:
        return tuple(c for label in sorted({c.emotion for c in clips}) for c in [c for c in clips if c.emotion == label][:6])

    fold = f"{split.fold} quick".strip()
    return replace(split, fold=fold, train=few(split.train), dev=few(split.dev), test=few(split.test))


def result_path(out: Path, cell: Cell) -> Path:
    """Return where a cell's results lie."""
    return out / "cells" / f"{cell.name}.json"


def finished(out: Path, cell: Cell) -> bool:
    """Return whether the cell has results of exactly these settings and this split; RunError when they are of others."""
    path = result_path(out, cell)
    if not path.is_file():
        return False
    result = runs.read_json(path)
    if result.get("config") != _plain(cell.config) or result.get("split_sha256") != cell.split.sha256:
        raise RunError(f"{path} holds the results of other settings or another split; choose another --out, or move it away")
    return True


def _plain(config: TrainConfig) -> Any:
    """Return the settings as they look after a trip through JSON."""
    return json.loads(json.dumps(asdict(config)))


def run_cell(cell: Cell, data: Path, out: Path, cache: Path, say: Callable[[str], None]) -> bool:
    """Train (or continue, or just score) one cell and write its results; False when Ctrl-C stopped it."""
    from edge_ser_train.dataset import load_features
    from edge_ser_train.loop import Trainer, class_numbers, describe_data, infer, open_run

    folder = out / "runs" / cell.name
    started = (folder / runs.CONFIG).is_file()
    if started and load_config(folder / runs.CONFIG) != cell.config:
        raise RunError(f"{folder} was started with other settings; choose another --out, or move it away")
    open_run(cell.config, describe_data(cell.split, data, [cell.corpus], cell.config), cell.split, folder, resume=started)
    config = cell.config
    if config.optimizer.init:  # another cell, wherever OUT is
        init = out / "runs" / config.optimizer.init
        if not (init / runs.REPORT).is_file():
            raise RunError(f"{cell.experiment} starts from the run {init}, which is not finished; run that experiment first")
        config = replace(config, optimizer=replace(config.optimizer, init=str(init)))
    trainer = Trainer(config, cell.split, folder, cache, say)
    if (folder / runs.CHECKPOINT).is_file():
        trainer.load_checkpoint()
    if not trainer.train(say):
        return False
    report = trainer.finish()
    runs.write_atomic(folder / runs.REPORT, json.dumps(report, indent=1) + "\n")
    trained = runs.load_run(folder)
    trained.net.to(trainer.device)
    test = cell.split.test
    test_features = load_features(test, cell.config.front_end_config, cache)
    answers = trainer.answers | {"test": infer(trained.net, test_features)}
    logits, z = ({part: answer[i] for part, answer in answers.items()} for i in (0, 1))
    y = {part: class_numbers(clips, cell.labels) for part, clips in cell.split.parts().items()}
    classifier = "softmax"
    if cell.config.loss.kind != "joint":
        classifier, logits = _svm(z, y)
    n = len(cell.labels)
    temperature = fit_temperature(logits["dev"], y["dev"])
    result = {
        "corpus": cell.corpus,
        "labels": list(cell.labels),
        "protocol": cell.split.protocol,
        "fold": cell.split.fold,
        "speaker_dependent": cell.split.speaker_dependent,
        "split_sha256": cell.split.sha256,
        "leaks": trainer.leaks,
        "experiment": cell.experiment,
        "seed": cell.config.seed,
        "config": _plain(cell.config),
        "classifier": classifier,
        "clips": {part: len(clips) for part, clips in cell.split.parts().items()},
        **{k: report[k] for k in ("best_step", "seconds", "device", "precision", "torch")},
        "dev_ua": float(unweighted_accuracy(confusion_matrix(y["dev"], logits["dev"].argmax(axis=1), n))),
        "temperature": temperature,
        "test_ece": expected_calibration_error(softmax(logits["test"], temperature), y["test"]),
        "test_confusion_per_speaker": per_speaker_confusion(y["test"], logits["test"], [c.speaker for c in test], n),
        "compactness": {part: compactness(z[part], y[part]) for part in ("train", "test")},
    }
    if cell.experiment in FIGURES["4"] and cell.config.seed == 0:
        result["pca"] = {part: pca(z[part], y[part]) for part in ("train", "test")}
    path = result_path(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_atomic(path, json.dumps(result, separators=(",", ":")) + "\n")
    return True


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
