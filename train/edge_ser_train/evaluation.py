"""Scores of a training run, or of an exported file through the runtime, on a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge_ser.errors import AudioError, CorpusError
from edge_ser.recognizer import EmotionRecognizer
from edge_ser_train.corpora import Clip, read_corpus, select
from edge_ser_train.metrics import confusion_matrix, score, unweighted_accuracy


def _result(
    what: Path, weights_sha256: str, clips: Sequence[Clip], split: str, labels: Sequence[str],
    logits: npt.NDArray[np.float32], temperature: float, train_corpora: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    y = np.array([labels.index(c.emotion) for c in clips], dtype=np.int64)
    corpus = clips[0].corpus
    if corpus in train_corpora and split in ("train", "all"):
        protocol = "seen in training"
    elif corpus in train_corpora and split == "dev":
        protocol = "used to select the weights and the temperature"
    elif corpus in train_corpora:
        protocol = f"fixed split by speaker, {len(labels)} classes"
    else:
        protocol = f"zero-shot (corpus not trained on), {len(labels)} classes"
    scores = score(logits, y, [c.speaker for c in clips], temperature)
    return {
        "model": str(what),
        "weights_sha256": weights_sha256,
        "corpus": corpus,
        "split": split,
        "protocol": protocol,
        "labels": list(labels),
        **asdict(scores),
        "by_gender": _by_gender(clips, y, logits.argmax(axis=1), len(labels)),
    }


def _by_gender(
    clips: Sequence[Clip], y: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], n_classes: int
) -> dict[str, dict[str, Any]]:
    """Return clip count and UA for every gender the corpus states; none where it states none."""
    genders = np.array([c.gender for c in clips])
    table: dict[str, dict[str, Any]] = {}
    for gender in sorted(set(genders.tolist()) - {""}):
        of = genders == gender
        ua = unweighted_accuracy(confusion_matrix(y[of], predicted[of], n_classes))
        table[gender] = {"n_clips": int(of.sum()), "ua": float(ua)}
    return table


def evaluate_run(folder: Path, data: Path, corpus: str, split: str, cache_dir: Path | None) -> dict[str, Any]:
    """Score the best weights of the run in ``folder`` in torch."""
    from edge_ser_train.dataset import default_cache_dir, load_features
    from edge_ser_train.loop import infer
    from edge_ser_train.run import load_run

    trained = load_run(folder)
    clips = select(read_corpus(data, corpus), split, trained.labels)
    features = load_features(clips, trained.front_end, cache_dir or default_cache_dir())
    logits, _ = infer(trained.net, features)
    return _result(
        folder,
        trained.weights_sha256,
        clips,
        split,
        trained.labels,
        logits,
        trained.temperature,
        trained.data["corpora"],
    )


def evaluate_model(path: Path, data: Path, corpus: str, split: str) -> dict[str, Any]:
    """Score an exported model file clip by clip through the runtime, audio file to answer."""
    recognizer = EmotionRecognizer(path)
    manifest = recognizer.manifest
    clips = select(read_corpus(data, corpus), split, manifest.labels)
    logits = np.empty((len(clips), len(manifest.labels)), dtype=np.float32)
    for i, clip in enumerate(tqdm(clips, desc=f"{corpus} {split}", unit="clip", disable=None)):
        try:
            logits[i] = recognizer.predict(clip.path).logits
        except AudioError as error:
            raise CorpusError(f"{corpus}: {error}") from None
    train_corpora = [c["name"] for c in manifest.training["corpora"]]
    return _result(
        path, manifest.training["weights_sha256"], clips, split, manifest.labels, logits, manifest.temperature, train_corpora
    )


def format_evaluation(result: dict[str, Any]) -> str:
    """Return an evaluation as text for people."""

    def percent(name: str) -> str:
        low, high = result[f"{name}_95"]
        return f"{result[name]:6.1%}  [{low:.1%}, {high:.1%}]"

    labels = result["labels"]
    width = max(len(label) for label in labels) + 2
    lines = [
        f"{result['model']} on {result['corpus']} {result['split']}: {result['n_clips']} clips of "
        f"{result['n_speakers']} speakers; {result['protocol']}",
        f"  UA        {percent('ua')}   95 % interval over speakers",
        *(f"    {gender:<8}{of['ua']:6.1%}  {of['n_clips']} clips" for gender, of in result["by_gender"].items()),
        f"  WA        {percent('wa')}",
        f"  macro-F1  {percent('macro_f1')}",
        f"  ECE       {result['ece']:6.3f}",
        "  true \\ answered" + "".join(f"{label:>{width}}" for label in labels),
    ]
    for label, row in zip(labels, result["confusion"], strict=True):
        total = max(1, sum(row))
        lines.append(f"  {label:<15}" + "".join(f"{n:>{width - 5}} {n / total:>4.0%}" for n in row))
    return "\n".join(lines)
