"""Scores of a training run, or of an exported file through the runtime, on a corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from edge_ser.arrays import Float32Array, Float64Array, Int64Array
from edge_ser.diagnose.machine import installed_version
from edge_ser.engines import BACKENDS, ENGINE_PACKAGES, open_backend
from edge_ser.errors import AudioError, CorpusError
from edge_ser.frontend.features import FrontEndConfig
from edge_ser.model.manifest import read_model_file
from edge_ser.prediction import distance_of, softmax
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import progress
from edge_ser_train.bootstrap import Interval
from edge_ser_train.corpora.clips import PARTS, Clip, class_numbers
from edge_ser_train.corpora.splits import split_title
from edge_ser_train.corpora.tables import corpus_facts, read_corpus, select
from edge_ser_train.metrics import confusion_matrix, paired_change, score, unweighted_accuracy

if TYPE_CHECKING:
    from edge_ser_train.method.weights import TrainedModel


def _by_gender(clips: Sequence[Clip], y: Int64Array, predicted: Int64Array, n_classes: int) -> dict[str, dict[str, Any]]:
    """Return clip count and UA for every gender the corpus states; none where it states none."""
    genders = np.array([c.gender for c in clips])
    table: dict[str, dict[str, Any]] = {}
    for gender in sorted(set(genders.tolist()) - {""}):
        of = genders == gender
        ua = unweighted_accuracy(confusion_matrix(y[of], predicted[of], n_classes))
        table[gender] = {"n_clips": int(of.sum()), "ua": float(ua)}
    return table


def absent_labels(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[str]:
    """Return the labels that no clip has; rows of ``confusion`` are the true class.

    >>> absent_labels(["neutral", "sad"], [[3, 1], [0, 0]])
    ['sad']
    """
    return [label for label, row in zip(labels, confusion, strict=True) if not sum(row)]


@dataclass(frozen=True)
class Training:
    """What is known of the training of what is evaluated."""

    corpora: tuple[str, ...]
    """Whose clips it trained on or was selected by."""
    earlier: tuple[str, ...]
    """Other corpora that what it builds on was trained on."""
    split: str
    """Name of the split it was trained under."""
    label_map: Mapping[str, str]
    """Emotions of the corpora that count as another label; a label of its own counts as itself."""
    parts: Mapping[str, str]
    """train, dev or test by clip, for the clips of the split; a model file does not list them."""

    def read(self, data: Path, corpus: str) -> list[Clip]:
        """Return a corpus' clips with emotions by its custom and the label map, and its parts where the training parted it.

        A clip that was left out for its emotion goes with its speaker.
        """
        label_map = {**corpus_facts(corpus).label_map, **self.label_map}
        clips = [replace(c, emotion=label_map.get(c.emotion, c.emotion)) for c in read_corpus(data, corpus)]
        of: dict[str, set[str]] = defaultdict(set)
        for clip in clips:
            of[clip.speaker].update({self.parts[clip.key]} if clip.key in self.parts else ())
        if not any(of.values()):
            return clips
        alone = {speaker: next(iter(parts)) for speaker, parts in of.items() if speaker and len(parts) == 1}
        return [replace(c, split=self.parts.get(c.key, alone.get(c.speaker, ""))) for c in clips]

    def protocol(self, corpus: str, split: str, labels: Sequence[str], absent: Collection[str] = ()) -> str:
        """Say what scores on a part of a corpus are scores of: new speakers, or what it has heard.

        Of the labels of the model, those ``absent`` do not occur there.
        """
        n, lacking = len(labels), f" (nobody is {' or '.join(absent)})" if absent else ""
        classes = f"{n - len(absent)} of {n} classes{lacking}" if absent else f"{n} classes"
        if corpus in self.earlier:
            return f"corpus not trained on, but by what it builds on, {classes}"
        if corpus not in self.corpora:
            return f"zero-shot (corpus not trained on), {classes}"
        if split in ("train", "all"):
            return "seen in training"
        if split == "dev":
            return "used to select the weights and the temperature"
        if self.split == "fixed":
            return f"fixed split by speaker, {classes}"
        return f"{self.split}, {classes}" if self.parts else f"seen in training, but for the test clips of {self.split}"


class Answers(NamedTuple):
    """What n clips were answered."""

    logits: Float32Array
    """[n, n_labels]"""
    embeddings: Float32Array
    """[n, 64]"""
    probabilities: Float64Array
    """[n, n_labels]"""


class Answering(Protocol):
    """What answers for clips."""

    def __call__(self, features: Sequence[Float32Array], offsets: Sequence[Float32Array] | None = None, /) -> Answers:
        """Return the answers for features of n clips, an offset added to each one's encoder vectors."""
        ...


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a training run in torch, or a model file in its engine."""

    path: Path
    weights_sha256: str
    labels: tuple[str, ...]
    front_end: FrontEndConfig
    temperature: float
    training: Training
    speech_vector: Float32Array
    ordinary_vector: Float32Array
    centres: Float32Array
    speech: dict[str, Any]
    answer: Answering
    encode: Callable[[Sequence[Float32Array]], list[Float32Array]]
    """Encoder vectors [N, encoder_size] of n clips' features."""

    def score_answers(self, clips: Sequence[Clip], split: str, probabilities: Float64Array) -> dict[str, Any]:
        """Return the scores of answers, probabilities [n, n_labels], on clips."""
        y = class_numbers(clips, self.labels)
        scores = score(probabilities, y, [c.speaker for c in clips])
        absent = absent_labels(self.labels, scores.confusion)
        return {
            "model": str(self.path),
            "weights_sha256": self.weights_sha256,
            "corpus": clips[0].corpus,
            "split": split,
            "protocol": self.training.protocol(clips[0].corpus, split, self.labels, absent),
            "labels": list(self.labels),
            **asdict(scores),
            "by_gender": _by_gender(clips, y, probabilities.argmax(axis=1), len(self.labels)),
        }

    def score_change(self, clips: Sequence[Clip], split: str, before: Float64Array, after: Float64Array) -> dict[str, Any]:
        """Return the scores of the answers ``after``, probabilities [n, n_labels], and how UA changed from those ``before``."""
        y, answers = class_numbers(clips, self.labels), (before.argmax(axis=1), after.argmax(axis=1))
        change, change_95 = paired_change(y, *answers, [c.speaker for c in clips], len(self.labels))
        return self.score_answers(clips, split, after) | {"change": change, "change_95": change_95}


def open_run_or_model(path: Path) -> Subject:
    """Open a run's folder or a model file for evaluation.

    A run of a loss that trains no FC2 answers with the class whose centre is nearest, as it does on dev while it is trained.
    """
    if path.is_dir():
        from edge_ser_train.method.inference import encode, infer
        from edge_ser_train.method.losses import WITHOUT_CLASSIFIER, centre_scores
        from edge_ser_train.method.speech import distances_of, statistics_of
        from edge_ser_train.method.weights import load_run

        trained = load_run(path)
        centres = trained.centres.numpy()

        def infer_shifted(features: Sequence[Float32Array], offsets: Sequence[Float32Array] | None = None, /) -> Answers:
            vectors = encode(trained.net, features)
            distances = distances_of(statistics_of(vectors), trained.distance)
            if offsets is not None:
                vectors = [v + offset for v, offset in zip(vectors, offsets, strict=True)]
            logits, z = infer(trained.net, vectors, encoded=True)
            if trained.config.loss.kind in WITHOUT_CLASSIFIER:
                logits = centre_scores(logits, z, centres)
            return Answers(logits, z, softmax(logits / distances[:, None], trained.temperature))

        return Subject(
            path,
            trained.weights_sha256,
            trained.labels,
            trained.front_end,
            trained.temperature,
            _training_of_run(path, trained),
            trained.speech_vector.numpy(),
            trained.ordinary_vector.numpy(),
            centres,
            trained.speech,
            infer_shifted,
            lambda features: encode(trained.net, features),
        )
    model = read_model_file(path)
    backend = open_backend(model)
    manifest = model.manifest

    def answer(features: Sequence[Float32Array], offsets: Sequence[Float32Array] | None = None, /) -> Answers:
        engines = [backend for _ in features] if offsets is None else [backend.shifted(offset) for offset in offsets]
        answers = [engine.run(np.ascontiguousarray(x)) for engine, x in zip(engines, features, strict=True)]
        logits = np.stack([a.logits for a in answers])
        distances = [distance_of(backend.statistics(a.encoded), manifest.distance, manifest.statistics_step) for a in answers]
        probabilities = softmax(logits / np.array(distances)[:, None], manifest.temperature)
        return Answers(logits, np.stack([a.embedding for a in answers]), probabilities)

    return Subject(
        path,
        manifest.training["weights_sha256"],
        manifest.labels,
        manifest.front_end,
        manifest.temperature,
        Training(
            tuple(c["name"] for c in manifest.training["corpora"] if not c.get("earlier")),
            tuple(c["name"] for c in manifest.training["corpora"] if c.get("earlier")),
            str(manifest.training.get("split", "fixed")),
            {label: label for label in manifest.labels},
            {},
        ),
        np.array(manifest.speech_vector, dtype=np.float32),
        np.array(manifest.ordinary_vector, dtype=np.float32),
        np.array(manifest.centres, dtype=np.float32),
        manifest.speech,
        answer,
        lambda features: [backend.vectors(np.ascontiguousarray(x)) for x in features],
    )


def _training_of_run(folder: Path, trained: TrainedModel) -> Training:
    from edge_ser_train.method.run import SPLIT, read_json

    data, parts = trained.data, {}
    if (folder / SPLIT).is_file():  # runs of early versions have none
        listed = read_json(folder / SPLIT)
        parts = {str(key): part for part in PARTS for key in listed.get(part, ())}
    split = split_title(data.get("protocol", "fixed"), data.get("fold", ""))
    label_map = {label: label for label in trained.labels} | trained.config.label_map
    return Training(tuple(data["corpora"]), tuple(data.get("corpora_before", ())), split, label_map, parts)


def evaluate_run(folder: Path, data: Path, corpus: str, split: str, cache_dir: Path | None) -> dict[str, Any]:
    """Score the best weights of the run in ``folder`` in torch."""
    from edge_ser_train.method.dataset import default_cache_dir, load_features

    subject = open_run_or_model(folder)
    clips = select(subject.training.read(data, corpus), split, subject.labels)
    answers = subject.answer(load_features(clips, subject.front_end, cache_dir or default_cache_dir()))
    return subject.score_answers(clips, split, answers.probabilities)


def evaluate_model(path: Path, data: Path, corpus: str, split: str) -> dict[str, Any]:
    """Score an exported model file clip by clip through the runtime, audio file to answer."""
    recognizer, subject = EmotionRecognizer(path), open_run_or_model(path)
    clips = select(subject.training.read(data, corpus), split, subject.labels)
    probabilities = np.empty((len(clips), len(subject.labels)))
    for i, clip in enumerate(progress(clips, f"{corpus} {split}")):
        try:
            probabilities[i] = list(recognizer.predict(clip.path).probabilities.values())
        except AudioError as error:
            raise CorpusError(f"{corpus}: {error}") from None
    return subject.score_answers(clips, split, probabilities)


def engine_of(path: Path) -> str:
    """Return the package, and its version, that answers for a model file."""
    backend = next(name for name, suffix in BACKENDS.items() if suffix == path.suffix)
    package = next(name for name in ENGINE_PACKAGES[backend] if installed_version(name))
    return f"{package} {installed_version(package)}" + "'s C library" * (backend == "native")


def format_comparison(results: Sequence[dict[str, Any]], key: str) -> str:
    """Return results that differ in ``key`` as a table, UA against the first of the same corpus."""
    first = results[0]
    width = max(len(r[key]) for r in results)
    lines = [f"{first['model']}, {len(first['labels'])} classes: {', '.join(first['labels'])}"]
    over = " or ".join(dict.fromkeys(r["interval_over"] for r in results))
    lines.append(f"  {'corpus':<10} {key:<{width}} {'clips':>5}  {'UA':>6}  {f'95 % over {over}':<18} {'change':<21}  {'ECE':>5}")
    base: dict[str, float] = {}
    for r in results:
        change = r.get("change", r["ua"] - base.setdefault(r["corpus"], r["ua"]))
        change = Interval(change, *r["change_95"]).points() if "change_95" in r else f"{100 * change:+.1f}"
        interval = f"[{r['ua_95'][0]:.1%}, {r['ua_95'][1]:.1%}]"
        scores = f"{r['n_clips']:>5}  {r['ua']:>6.1%}  {interval:<18} {change:<21}  {r['ece']:>5.3f}"
        lines.append(f"  {r['corpus']:<10} {r[key]:<{width}} {scores}")
    if len(base) > 1:
        for value in dict.fromkeys(r[key] for r in results):
            of = [r["ua"] for r in results if r[key] == value]
            lines.append(f"  {'mean':<10} {value:<{width}} {'':>5}  {np.mean(of):>6.1%}")
    for r in {r["corpus"]: r for r in results}.values():
        absent = absent_labels(r["labels"], r["confusion"])
        lines += [f"  {r['corpus']}: {r['protocol']}"] * bool(absent)
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
        f"{result['n_speakers']} speaker{'s' * (result['n_speakers'] != 1)}; {result['protocol']}",
        f"  UA        {percent('ua')}   95 % interval over {result['interval_over']}",
        *(f"    {gender:<8}{of['ua']:6.1%}  {of['n_clips']} clips" for gender, of in result["by_gender"].items()),
        f"  WA        {percent('wa')}",
        f"  macro-F1  {percent('macro_f1')}",
        f"  ECE       {result['ece']:6.3f}",
        "  true \\ answered" + "".join(f"{label:>{width}}" for label in labels),
    ]
    for label, row in zip(labels, result["confusion"], strict=True):
        total = sum(row)
        shown = "".join(f"{n:>{width - 5}} {n / total:>4.0%}" for n in row) if total else "  no clip"
        lines.append(f"  {label:<15}" + shown)
    return "\n".join(lines)
