"""What a few labelled utterances of a speaker bring them: the runtime's own learning, on corpora with speakers.

A draw gives a speaker's correction some of their clips and judges the rest. Every row is scored against the same clips without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edge_ser.arrays import Float64Array
from edge_ser.engines.statistics import statistics_of_vectors
from edge_ser.errors import CorpusError
from edge_ser.personal.correction import SPREAD, Learnt, heard_of, learn
from edge_ser.personal.person import Q16, Heard, Person
from edge_ser.prediction import softmax
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.tables import select
from edge_ser_train.evaluate.evaluation import Subject, format_comparison, open_run_or_model

UTTERANCES = (1, 2, 4, 8)
"""Utterances of each emotion."""
N_DRAWS = 5
"""How often they are drawn for every speaker."""
STEP = 1 / 1024

Drawn: TypeAlias = "tuple[list[int], list[str], list[int]]"
"""Clips that are learnt from, what they are said to be, and clips that are judged."""
Draw: TypeAlias = "Callable[[dict[str, list[int]], np.random.Generator], Drawn]"
"""Draws from one speaker's clips by label."""


def adaptation(path: Path, data: Path, corpus: str, split: str, cache_dir: Path | None) -> list[dict[str, Any]]:
    """Score without and with adaptation to the speaker; rows differ in ``adaptation``.

    1, 2, 4 and 8 utterances of every emotion; four neutral ones alone; two of each, one label in eight wrong; two of each, the
    rest of other sentences, where the corpus names those; and two and four of every emotion of the corpus, those that the model
    has no label for included. Where a speaker has fewer clips, one at least is left to be judged. ``harmed`` is the share of
    speakers whose UA fell, ``worst`` by how much that of the worst fell.

    Raises CorpusError where no speaker has clips of two emotions.
    """
    from edge_ser_train.method.dataset import default_cache_dir, load_features

    subject = open_run_or_model(path)
    every = subject.training.read(data, corpus)
    select(every, split, subject.labels)  # says what is wrong with the split
    clips = [c for c in every if split in ("all", c.split)]
    features = load_features(clips, subject.front_end, cache_dir or default_cache_dir())
    logits, z, plain = subject.answer(features)
    heard = [
        heard_of(c.emotion, statistics_of_vectors(v, STEP), e, o)
        for c, v, e, o in zip(clips, subject.encode(features), z, logits, strict=True)
    ]
    model = Learnt(
        subject.labels, subject.temperature, subject.centres.astype(np.float64), STEP,
        SPREAD * max(float(subject.speech_vector.mean()), 1e-3), len(subject.speech_vector),
    )  # fmt: skip
    known = [i for i, c in enumerate(clips) if c.emotion in subject.labels]
    results = [subject.score_answers([clips[i] for i in known], split, plain[known]) | {"adaptation": "none"}]
    rows: dict[str, Draw] = {f"{n} utterance{'s' * (n > 1)} an emotion": _some(n) for n in UTTERANCES}
    if "neutral" in subject.labels:
        rows["4 neutral ones alone"] = _neutral
    rows["2, one label in 8 wrong"] = _mistaken
    if any(c.text for c in clips):
        rows["2, other sentences judged"] = _other_sentences(clips)
    for name, draw in rows.items():
        results += _row(subject, model, clips, known, heard, plain, split, name, draw)
    if not len(results) > 1:
        raise CorpusError(f"{corpus} {split}: no speaker has clips of two emotions; expected a corpus with speakers")
    labels = subject.labels + tuple(sorted({c.emotion for c in clips} - set(subject.labels)))
    if len(labels) > len(subject.labels):
        wide = replace(subject, labels=labels)
        for n in (2, 4):
            results += _row(
                wide, model, clips, range(len(clips)), heard, plain, split, f"{n} of all {len(labels)} emotions", _some(n)
            )
    return results


def _row(
    subject: Subject, model: Learnt, clips: Sequence[Clip], among: Sequence[int], heard: Sequence[Heard], plain: Float64Array,
    split: str, name: str, draw: Draw,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the scores of one kind of draw, in a list that is empty where no speaker has enough clips."""
    of: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in among:
        if clips[i].speaker:
            of[clips[i].speaker][clips[i].emotion].append(i)
    judged: list[int] = []
    before: list[list[float]] = []
    after: list[list[float]] = []
    for number, (speaker, own) in enumerate(progress(sorted(of.items()), f"{clips[0].corpus}, {name}")):
        for k in range(N_DRAWS if speaker and len(own) > 1 else 0):
            learnt, labels, rest = draw(own, np.random.default_rng((k, number)))
            utterances = tuple(replace(heard[i], label=label) for i, label in zip(learnt, labels, strict=True))
            correction = learn(Person(subject.weights_sha256, utterances), model)
            for i in rest:
                judged.append(i)
                before.append(_among(subject.labels, model.labels, plain[i]))
                if correction is None:
                    after.append(before[-1])
                else:
                    p = softmax(correction.scores(heard[i]) / Q16, correction.temperature)
                    after.append(_among(subject.labels, correction.labels, p))
    if not judged:
        return []
    told = [clips[i] for i in judged]
    p_before, p_after = np.array(before), np.array(after)
    result = subject.score_change(told, split, p_before, p_after)
    ua_after, ua_before = (_by_speaker(told, [subject.labels[i] for i in p.argmax(axis=1)]) for p in (p_after, p_before))
    change = ua_after - ua_before
    return [
        result
        | {"adaptation": name, "n_clips": len(set(judged)), "n_draws": N_DRAWS}
        | {"harmed": float((change < 0).mean()), "worst": float(min(0.0, change.min()))}
        | {"recalls": _recalls(result)}
    ]


def _among(wanted: Sequence[str], labels: Sequence[str], probabilities: Float64Array) -> list[float]:
    """Return probabilities in another order of labels; a label without one is out of the question."""
    found = dict(zip(labels, probabilities.tolist(), strict=True))
    return [found.get(label, 0.0) for label in wanted]


def _by_speaker(clips: Sequence[Clip], answers: Sequence[str]) -> Float64Array:
    """Return every speaker's UA, in the order of their names."""
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for clip, answer in zip(clips, answers, strict=True):
        right[clip.speaker][clip.emotion].append(answer == clip.emotion)
    return np.array([np.mean([np.mean(of) for of in right[speaker].values()]) for speaker in sorted(right)])


def _recalls(result: dict[str, Any]) -> dict[str, float]:
    rows = zip(result["labels"], result["confusion"], strict=True)
    return {label: row[i] / sum(row) for i, (label, row) in enumerate(rows) if sum(row)}


def _some(n: int, left: int = 1) -> Draw:
    """Return what draws ``n`` clips of every label, and leaves ``left`` of each to be judged."""

    def draw(own: dict[str, list[int]], rng: np.random.Generator) -> Drawn:
        learnt: list[int] = []
        labels: list[str] = []
        for label, clips in own.items():
            taken = rng.permutation(clips)[: max(0, min(n, len(clips) - left))].tolist()
            learnt += taken
            labels += [label] * len(taken)
        return learnt, labels, _rest(own, learnt)

    return draw


def _rest(own: dict[str, list[int]], learnt: Sequence[int]) -> list[int]:
    return [i for clips in own.values() for i in clips if i not in set(learnt)]


def _neutral(own: dict[str, list[int]], rng: np.random.Generator) -> Drawn:
    alone, labels, _ = _some(4)({"neutral": own["neutral"]} if "neutral" in own else {}, rng)
    return alone, labels, _rest(own, alone)


def _mistaken(own: dict[str, list[int]], rng: np.random.Generator) -> Drawn:
    learnt, labels, rest = _some(2)(own, rng)
    for at in rng.permutation(len(labels))[: max(1, len(labels) // 8)].tolist():
        labels[at] = str(rng.choice([label for label in own if label != labels[at]]))
    return learnt, labels, rest


def _other_sentences(clips: Sequence[Clip]) -> Draw:
    def draw(own: dict[str, list[int]], rng: np.random.Generator) -> Drawn:
        texts = sorted({clips[i].text for of in own.values() for i in of})
        half = set(rng.permutation(texts)[: len(texts) // 2].tolist())
        given = {label: [i for i in of if clips[i].text in half] for label, of in own.items()}
        learnt, labels, _ = _some(2, left=0)(given, rng)
        return learnt, labels, [i for of in own.values() for i in of if clips[i].text not in half]

    return draw


def format_adaptation(results: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table, with the share of speakers harmed and every emotion's recall below."""
    width = max(len(r["adaptation"]) for r in results)
    lines = [format_comparison(results, "adaptation"), f"  {'':<10} {'':<{width}}  speakers worse, the worst; recalls"]
    for r in results[1:]:
        recalls = ", ".join(f"{label} {share:.0%}" for label, share in r["recalls"].items())
        lines.append(f"  {'':<10} {r['adaptation']:<{width}}  {r['harmed']:>4.0%} {100 * r['worst']:+6.1f}  {recalls}")
    return "\n".join(lines)
