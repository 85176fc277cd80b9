"""Protocols: who is trained on, chosen by and tested on. Every split has a name, is saved as a file, and is searched for leaks.

fixed                   the corpus' own train / dev / test (cremad: by actor)
folds                   published folds: fold k is the test set, fold k+1 the dev set (ravdess: six folds of four actors)
leave-one-speaker-out   each speaker once the test set; dev is the other speaker of the session, or the next speaker
leave-one-session-out   each session once the test set; dev is the next session
paper                   Dai et al. 2019: ten subsets stratified by session, scenario, gender and emotion; fold k trains on eight
                        and takes one of the pair 2k, 2k+1 as dev and one as test; five repeats. Speakers and dialogues are on
                        both sides: its figures describe known speakers and are labelled so wherever they appear.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.errors import CorpusError, did_you_mean
from edge_ser_train.corpora.clips import PARTS, Clip
from edge_ser_train.corpora.tables import read_corpus

PROTOCOLS = ("fixed", "folds", "leave-one-speaker-out", "leave-one-session-out", "paper")
_SPEAKER_DEPENDENT = ("paper",)
_N_SUBSETS, _N_REPEATS = 10, 5


def split_title(protocol: str, fold: str) -> str:
    """Return a split's name for tables and plots.

    >>> split_title("folds", "1"), split_title("paper", "repeat 1 fold 2")
    ('folds 1', 'paper repeat 1 fold 2 (SPEAKER-DEPENDENT)')
    """
    return " ".join(filter(None, (protocol, fold, "(SPEAKER-DEPENDENT)" if protocol in _SPEAKER_DEPENDENT else "")))


@dataclass(frozen=True)
class Split:
    """One way to part clips; clips in none of the parts are unused."""

    protocol: str
    """One of ``PROTOCOLS``, or ``file`` for a split of the user's own."""
    fold: str
    """Which of the protocol's splits: a speaker, a session, a fold; ``""`` where there is one only."""
    train: tuple[Clip, ...]
    dev: tuple[Clip, ...]
    test: tuple[Clip, ...]
    left_out: Mapping[str, int]
    """Clips whose emotion is not among the labels, counted as ``corpus/emotion``."""

    @property
    def speaker_dependent(self) -> bool:
        """Whether the protocol puts one speaker on both sides, by design."""
        return self.protocol in _SPEAKER_DEPENDENT

    @property
    def title(self) -> str:
        """The split's name for tables and plots."""
        return split_title(self.protocol, self.fold)

    def parts(self) -> dict[str, tuple[Clip, ...]]:
        """Return the clips of train, dev and test."""
        return {"train": self.train, "dev": self.dev, "test": self.test}

    def to_json(self) -> str:
        """Return the split file: protocol, fold and the names of every part's clips."""
        names = {part: [c.key for c in clips] for part, clips in self.parts().items()}
        table = {"protocol": self.protocol, "fold": self.fold, "speaker_dependent": self.speaker_dependent, **names}
        return json.dumps(table, indent=0) + "\n"

    @property
    def sha256(self) -> str:
        """SHA-256 of the split file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def make_splits(clips: Sequence[Clip], protocol: str, left_out: Mapping[str, int] | None = None) -> list[Split]:
    """Return every split of a protocol over ``clips`` (whose emotions are all among the labels).

    Raises CorpusError when the corpus lacks what the protocol goes by.
    """
    if protocol not in PROTOCOLS:
        raise CorpusError(
            f"unknown protocol {protocol!r}{did_you_mean(protocol, PROTOCOLS)}; expected one of {', '.join(PROTOCOLS)}"
        )
    if protocol == "fixed":
        groups = [("", {part: [c for c in clips if c.split == part] for part in PARTS})]
    elif protocol == "paper":
        groups = _paper(clips)
    else:
        groups = _rotate(clips, "fold" if protocol == "folds" else protocol.split("-")[2])
    left_out = left_out or {}
    return [_split(protocol, name, parts, left_out) for name, parts in groups]


def _split(protocol: str, fold: str, parts: Mapping[str, Sequence[Clip]], left_out: Mapping[str, int]) -> Split:
    return Split(protocol, fold, tuple(parts["train"]), tuple(parts["dev"]), tuple(parts["test"]), dict(left_out))


def _rotate(clips: Sequence[Clip], attribute: str) -> list[tuple[str, dict[str, list[Clip]]]]:
    """Make each value of the attribute the test set once; dev is its session partner, or the next value."""
    values = sorted({getattr(c, attribute) for c in clips})
    corpus = clips[0].corpus if clips else ""
    if "" in values or len(values) < 3:
        found = f"{len(values)} of them" if "" not in values else f"clips without {attribute}"
        raise CorpusError(f"{corpus}: a split by {attribute} needs a {attribute} for every clip and at least 3; it has {found}")
    session_of = {getattr(c, attribute): c.session for c in clips}
    groups = []
    for i, value in enumerate(values):
        partners = [
            v for v in values if attribute == "speaker" and v != value and session_of[v] and session_of[v] == session_of[value]
        ]
        dev = partners[0] if partners else values[(i + 1) % len(values)]
        used = {value: "test", dev: "dev"}
        parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
        for c in clips:
            parts[used.get(getattr(c, attribute), "train")].append(c)
        groups.append((value, parts))
    return groups


def _paper(clips: Sequence[Clip]) -> list[tuple[str, dict[str, list[Clip]]]]:
    """Deal each stratum's shuffled clips round-robin to ten subsets; where one ends, the next begins."""
    strata: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, c in enumerate(clips):
        strata[c.session, c.scenario, c.gender, c.emotion].append(i)
    if len(clips) < _N_SUBSETS:
        raise CorpusError(f"{len(clips)} clips cannot make the ten subsets of protocol paper; expected at least ten clips")
    groups = []
    for repeat in range(_N_REPEATS):
        rng = np.random.default_rng([2019, repeat])
        dealt = np.concatenate([rng.permutation(strata[key]) for key in sorted(strata)])
        subsets = [sorted(dealt[s::_N_SUBSETS].tolist()) for s in range(_N_SUBSETS)]
        for fold in range(_N_SUBSETS // 2):
            dev, test = subsets[2 * fold], subsets[2 * fold + 1]
            rest = sorted(set(range(len(clips))) - set(dev) - set(test))
            parts = {part: [clips[i] for i in rows] for part, rows in zip(PARTS, (rest, dev, test), strict=True)}
            groups.append((f"repeat {repeat + 1} fold {fold + 1}", parts))
    return groups


def load_split(path: Path, clips: Sequence[Clip], left_out: Mapping[str, int]) -> Split:
    """Read a split file (as every run saves it) and find its clips among ``clips``.

    Raises CorpusError when the file is unreadable, names a clip that is not there, or names one twice.
    """
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"))
        names = {part: [str(key) for key in table[part]] for part in PARTS}
        protocol, fold = str(table.get("protocol", "file")), str(table.get("fold", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(
            f"cannot read the split {path}: {error}; expected JSON with lists train, dev and test of corpus/file names"
        ) from None
    known = {c.key: c for c in clips}
    everything = [key for part in PARTS for key in names[part]]
    missing = [key for key in everything if key not in known]
    if missing:
        raise CorpusError(
            f"split {path}: {missing[0]} (and {len(missing) - 1} more) is not in the corpora given, or has another emotion"
        )
    if len(set(everything)) < len(everything):
        twice = next(key for key in everything if everything.count(key) > 1)
        raise CorpusError(f"split {path}: {twice} is listed twice; a clip belongs to one part")
    return _split(protocol, fold, {part: [known[key] for key in names[part]] for part in PARTS}, left_out)


def relabel(clips: Iterable[Clip], label_map: Mapping[str, str], labels: Sequence[str]) -> tuple[list[Clip], dict[str, int]]:
    """Return the clips whose emotion, after ``label_map``, is one of ``labels``, and a count of those left out."""
    kept: list[Clip] = []
    left_out: dict[str, int] = defaultdict(int)
    for c in clips:
        emotion = label_map.get(c.emotion, c.emotion)
        if emotion in labels:
            kept.append(replace(c, emotion=emotion) if emotion != c.emotion else c)
        else:
            left_out[f"{c.corpus}/{c.emotion}"] += 1
    return kept, dict(left_out)


def training_split(
    data: Path,
    corpora: Sequence[str],
    labels: Sequence[str],
    label_map: Mapping[str, str] | None = None,
    protocol: str = "fixed",
    fold: str = "",
    split_file: Path | None = None,
) -> Split:
    """Gather what a run trains on, chooses by and is tested on.

    ``fixed`` takes each corpus' own split; a corpus without one gives all its clips to training. Other protocols part the
    first corpus, ``fold`` says how, and further corpora are trained on alone. Raises CorpusError also when a label has no
    clip in train or dev.
    """
    clips: list[Clip] = []
    left_out: dict[str, int] = {}
    for name in corpora:
        kept, out = relabel(read_corpus(data, name), label_map or {}, labels)
        clips += kept
        left_out |= out
    here = ", ".join(corpora)
    if split_file is not None:
        split = load_split(split_file, clips, left_out)
    elif protocol == "fixed":
        has_split = {c.corpus for c in clips if c.split}
        parted = [c if c.corpus in has_split else replace(c, split="train") for c in clips]
        (split,) = make_splits(parted, "fixed", left_out)
        if not split.dev:
            raise CorpusError(
                f"{here}: no clip has split 'dev' in labels.csv, and the best weights are chosen on dev; add a split column "
                "(train/dev/test by speaker), another --corpus that has one, or --protocol leave-one-speaker-out"
            )
    else:
        first = [c for c in clips if c.corpus == corpora[0]]
        splits = {s.fold: s for s in make_splits(first, protocol, left_out)}
        if fold not in splits:
            raise CorpusError(f"{corpora[0]}, protocol {protocol}: no fold {fold!r}; expected one of {', '.join(splits)}")
        split = splits[fold]
        split = replace(split, train=split.train + tuple(c for c in clips if c.corpus != corpora[0]))
    for part in ("train", "dev"):
        absent = [label for label in labels if label not in {c.emotion for c in split.parts()[part]}]
        if absent:
            raise CorpusError(f"{here}: no {part} clip is labelled {', '.join(absent)}; expected every label")
    return split


@dataclass(frozen=True)
class Leak:
    """Something that two parts of a split share."""

    kind: str
    """``speaker``, ``corpus``, ``dialogue`` or ``identical audio``."""
    parts: tuple[str, str]
    """Of this split, or what an earlier run or model, which this run starts or learns from, had for train or dev."""
    names: tuple[str, ...]
    """The speakers, corpora or dialogues, or one clip of each identical pair."""

    def __str__(self) -> str:
        """Return it as one line."""
        shown = ", ".join(self.names[:3]) + (f" and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        plural = {"speaker": "speakers", "corpus": "corpora", "dialogue": "dialogues"}
        kind = plural.get(self.kind, self.kind) if len(self.names) > 1 else self.kind
        return f"{len(self.names)} {kind} in both {' and '.join(self.parts)}: {shown}"


def speakers_of(clips: Iterable[Clip]) -> set[str]:
    """Return the speakers of clips as ``corpus/name``; clips of nobody known have none."""
    return {f"{c.corpus}/{c.speaker}" for c in clips if c.speaker}


def find_leaks(split: Split, digests: Mapping[str, str], before: Mapping[str, Collection[str]] | None = None) -> list[Leak]:
    """Return what train, dev and test share: speakers, dialogues, identical audio.

    ``digests`` maps a clip's key to a hash of its audio; clips without one are not compared by audio. ``before`` names the
    speakers in train and dev of what this run starts or learns from, as ``corpus/name``, or ``corpus/*`` for a corpus of which it
    is not known who.
    """
    leaks = []
    parts = split.parts()
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        earlier = set((before or {}).get(one, ()))
        if known := speakers_of(parts[other]) & earlier:
            leaks.append(Leak("speaker", (f"{one} of an earlier run", other), tuple(sorted(known))))
        if corpora := {c.corpus for c in parts[other] if f"{c.corpus}/*" in earlier}:
            leaks.append(Leak("corpus", (f"{one} of the model to start from", other), tuple(sorted(corpora))))
        for kind in ("speaker", "dialogue"):
            sides = [{(c.corpus, getattr(c, kind)) for c in parts[p] if getattr(c, kind)} for p in (one, other)]
            if shared := sides[0] & sides[1]:
                leaks.append(Leak(kind, (one, other), tuple(sorted(name for _, name in shared))))
        heard = {digests[c.key] for c in parts[one] if c.key in digests}
        if same := sorted(c.key for c in parts[other] if digests.get(c.key) in heard):
            leaks.append(Leak("identical audio", (one, other), tuple(same)))
    return leaks


def check_leaks(
    split: Split, digests: Mapping[str, str], say: Callable[[str], None], before: Mapping[str, Collection[str]] | None = None
) -> list[Leak]:
    """Say what leaks, and refuse a split that leaks although its protocol promises otherwise.

    A conversation shared by dev and test alone (partners under leave-one-speaker-out) is said, not refused: nothing of the
    test set was trained on. Raises CorpusError.
    """
    leaks = find_leaks(split, digests, before)
    checked = f"{sum(len(p) for p in split.parts().values())} clips by speaker, dialogue and audio"
    say(f"split {split.title}: {checked}: " + ("no leak" if not leaks else "; ".join(map(str, leaks))))
    refused = [] if split.speaker_dependent else [k for k in leaks if not (k.kind == "dialogue" and k.parts == ("dev", "test"))]
    if refused:
        mend = "correct the split column or file, or remove the clips"
        if any(leak.kind == "corpus" for leak in refused):
            mend = "train on a corpus that the model has not heard, or from scratch (--preset edge)"
        raise CorpusError(
            f"the split {split.title} leaks: {'; '.join(map(str, refused))}; expected parts that share nothing: {mend}"
        )
    return leaks
