"""Scores of a training run, or of an exported file through the runtime, on a corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge_ser.audio import AudioReader
from edge_ser.backends import open_backend
from edge_ser.errors import AudioError, CorpusError
from edge_ser.features import FrontEndConfig, extract
from edge_ser.model_file import read_model_file
from edge_ser.recognizer import EmotionRecognizer
from edge_ser_train.corpora import Clip, read_corpus, select
from edge_ser_train.metrics import confusion_matrix, score, unweighted_accuracy

Float32Array = npt.NDArray[np.float32]


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


class Answering(Protocol):
    """What answers for clips."""

    def __call__(
        self, features: Sequence[Float32Array], offsets: Sequence[Float32Array] | None = None, /
    ) -> tuple[Float32Array, Float32Array]:
        """Return logits and embeddings."""
        ...


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a training run in torch, or a model file in its engine."""

    path: Path
    weights_sha256: str
    labels: tuple[str, ...]
    front_end: FrontEndConfig
    temperature: float
    train_corpora: tuple[str, ...]
    speech_vector: Float32Array
    ordinary_vector: Float32Array
    centres: Float32Array
    novelty_distance: float
    answer: Answering
    """Logits [n, n_labels] and embeddings [n, 64] for features of n clips, an offset added to each one's encoder vectors."""
    encode: Callable[[Sequence[Float32Array]], list[Float32Array]]
    """Encoder vectors [N, encoder_size] of n clips' features."""

    def score(self, clips: Sequence[Clip], split: str, features: Sequence[Float32Array]) -> dict[str, Any]:
        """Return the scores on clips whose features are given."""
        return self.score_logits(clips, split, self.answer(features)[0])

    def score_logits(self, clips: Sequence[Clip], split: str, logits: Float32Array) -> dict[str, Any]:
        """Return the scores of answers, logits [n, n_labels], on clips."""
        return _result(self.path, self.weights_sha256, clips, split, self.labels, logits, self.temperature, self.train_corpora)


def open_run_or_model(path: Path) -> Subject:
    """Open a run's folder or a model file for evaluation."""
    if path.is_dir():
        from edge_ser_train.loop import encode, infer
        from edge_ser_train.run import load_run

        trained = load_run(path)

        def infer_shifted(
            features: Sequence[Float32Array], offsets: Sequence[Float32Array] | None = None, /
        ) -> tuple[Float32Array, Float32Array]:
            if offsets is None:
                return infer(trained.net, features)
            vectors = [v + offset for v, offset in zip(encode(trained.net, features), offsets, strict=True)]
            return infer(trained.net, vectors, encoded=True)

        return Subject(
            path,
            trained.weights_sha256,
            trained.labels,
            trained.front_end,
            trained.temperature,
            (*trained.data["corpora"], *trained.data.get("corpora_before", ())),
            trained.speech_vector.numpy(),
            trained.ordinary_vector.numpy(),
            trained.centres.numpy(),
            trained.novelty_distance,
            infer_shifted,
            lambda features: encode(trained.net, features),
        )
    model = read_model_file(path)
    backend = open_backend(model, "auto", threads=1, spinning=False)
    manifest = model.manifest

    def answer(
        features: Sequence[Float32Array], offsets: Sequence[Float32Array] | None = None, /
    ) -> tuple[Float32Array, Float32Array]:
        engines = [backend for _ in features] if offsets is None else [backend.shifted(offset) for offset in offsets]
        answers = [engine.run(np.ascontiguousarray(x)) for engine, x in zip(engines, features, strict=True)]
        return np.stack([a.logits for a in answers]), np.stack([a.embedding for a in answers])

    return Subject(
        path,
        manifest.training["weights_sha256"],
        manifest.labels,
        manifest.front_end,
        manifest.temperature,
        tuple(c["name"] for c in manifest.training["corpora"]),
        np.array(manifest.speech_vector, dtype=np.float32),
        np.array(manifest.ordinary_vector, dtype=np.float32),
        np.array(manifest.centres, dtype=np.float32),
        manifest.novelty_distance,
        answer,
        lambda features: [backend.vectors(np.ascontiguousarray(x)) for x in features],
    )


def evaluate_run(folder: Path, data: Path, corpus: str, split: str, cache_dir: Path | None) -> dict[str, Any]:
    """Score the best weights of the run in ``folder`` in torch."""
    from edge_ser_train.dataset import default_cache_dir, load_features

    subject = open_run_or_model(folder)
    clips = select(read_corpus(data, corpus), split, subject.labels)
    return subject.score(clips, split, load_features(clips, subject.front_end, cache_dir or default_cache_dir()))


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


def robustness(path: Path, data: Path, corpus: str, split: str) -> list[dict[str, Any]]:
    """Score the same clips under every condition of :mod:`edge_ser_train.conditions`, applied to the samples."""
    from edge_ser_train.conditions import CONDITIONS

    subject = open_run_or_model(path)
    clips = select(read_corpus(data, corpus), split, subject.labels)
    features: dict[str, list[Float32Array]] = {name: [] for name in CONDITIONS}
    for number, clip in enumerate(tqdm(clips, desc=f"{corpus} {split}", unit="clip", disable=None)):
        with AudioReader(clip.path, subject.front_end.rate_hz) as reader:
            samples = np.concatenate(list(reader.blocks()))
        for name, change in CONDITIONS.items():
            features[name].append(extract(change(samples, np.random.default_rng(number)), subject.front_end))
    return [subject.score(clips, split, heard) | {"condition": name} for name, heard in features.items()]


def format_comparison(results: Sequence[dict[str, Any]], key: str) -> str:
    """Return results that differ in ``key`` as a table, UA against the first of the same corpus."""
    first = results[0]
    width = max(len(r[key]) for r in results)
    lines = [f"{first['model']}, {len(first['labels'])} classes: {', '.join(first['labels'])}"]
    lines.append(
        f"  {'corpus':<10} {key:<{width}} {'clips':>5}  {'UA':>6}  {'95 % over speakers':<18} {'change':<21}  {'ECE':>5}"
    )
    base: dict[str, float] = {}
    for r in results:
        change = f"{100 * (r['ua'] - base.setdefault(r['corpus'], r['ua'])):+.1f}"
        if "change_95" in r:
            change += f" [{100 * r['change_95'][0]:+.1f}, {100 * r['change_95'][1]:+.1f}]"
        interval = f"[{r['ua_95'][0]:.1%}, {r['ua_95'][1]:.1%}]"
        scores = f"{r['n_clips']:>5}  {r['ua']:>6.1%}  {interval:<18} {change:<21}  {r['ece']:>5.3f}"
        lines.append(f"  {r['corpus']:<10} {r[key]:<{width}} {scores}")
    if len(base) > 1:
        for value in dict.fromkeys(r[key] for r in results):
            of = [r["ua"] for r in results if r[key] == value]
            lines.append(f"  {'mean':<10} {value:<{width}} {'':>5}  {np.mean(of):>6.1%}")
    return "\n".join(lines)


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
