"""Corpora on disk: ``DATA/NAME/labels.csv`` with one row a clip, or a corpus as its publisher ships it (``layouts``).

Columns: ``file`` (path below the corpus folder), ``speaker``, ``emotion``; optionally ``split`` (train/dev/test), ``fold``,
``gender``, ``session``, ``dialogue``, ``scenario``, and any others.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ser.errors import CorpusError, did_you_mean


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of a corpus; it travels in the manifest of every model trained on it."""

    licence: str = "unknown"
    citation: str = "unknown"
    speech: str = "unknown"
    """What kind of speech it is."""


_ACTED = "acted, studio recordings"
KNOWN_CORPORA = {
    "cremad": CorpusFacts("ODbL 1.0 + DbCL 1.0", "Cao et al. 2014, IEEE Trans. Affective Computing 5(4)", _ACTED),
    "emodb": CorpusFacts("CC0 1.0", "Burkhardt et al. 2005, Interspeech", _ACTED),
    "ravdess": CorpusFacts("CC BY-NC-SA 4.0 (evaluation, research)", "Livingstone & Russo 2018, PLoS ONE 13(5)", _ACTED),
}
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Clip:
    """One recording of a corpus."""

    corpus: str
    """Name of the corpus, also its folder's name."""
    path: Path
    """The audio file."""
    speaker: str
    """Who speaks; splits and intervals go by it."""
    emotion: str
    """The corpus' label."""
    split: str
    """``train``, ``dev``, ``test``, or empty where the corpus fixes none."""
    name: str = ""
    """Path below the corpus' folder, with forward slashes."""
    fold: str = ""
    """Published fold, where there is one."""
    gender: str = ""
    """``female``, ``male`` or empty."""
    session: str = ""
    """Recording session, where speakers come in pairs (IEMOCAP)."""
    dialogue: str = ""
    """Conversation the clip was cut from."""
    scenario: str = ""
    """``improvised``, ``scripted`` or empty."""

    @property
    def key(self) -> str:
        """What the clip is called in split files: corpus and name."""
        return f"{self.corpus}/{self.name}"


def read_corpus(data: Path, name: str) -> list[Clip]:
    """Read the corpus ``name`` below the folder ``data``, in file order.

    Raises CorpusError when the folder or labels.csv is missing, a column or value is missing, a file is listed twice, or an
    audio file does not exist.
    """
    if not name or name != Path(name).name:
        raise CorpusError(f"corpus is {name!r}; expected the name of one folder below {data}")
    folder = data / name
    table = folder / "labels.csv"
    if not table.is_file():
        present = sorted(p.parent.name for p in data.glob("*/labels.csv")) if data.is_dir() else []
        here = f"corpora found there: {', '.join(present)}" if present else f"no */labels.csv found below {data}"
        raise CorpusError(f"no corpus {name!r} in {data}{did_you_mean(name, present)}: expected {table}; {here}")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"cannot read {table}: {error}") from None
    if not rows:
        raise CorpusError(f"{table} lists no clips")
    missing = [column for column in ("file", "speaker", "emotion") if column not in rows[0]]
    if missing:
        raise CorpusError(f"{table} has no column {missing[0]!r}; its columns are {', '.join(map(str, rows[0]))}")
    clips: list[Clip] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        file_name, speaker, emotion = (row["file"] or "", row["speaker"] or "", row["emotion"] or "")
        if not (file_name and speaker and emotion):
            raise CorpusError(f"{table}, line {number}: file, speaker and emotion must not be empty")
        if file_name in seen:
            raise CorpusError(f"{table}, line {number}: {file_name} is listed twice")
        seen.add(file_name)
        path = folder / file_name
        if not path.is_file():
            raise CorpusError(f"{table}, line {number}: {path} does not exist")
        split = row.get("split") or ""
        if "split" in row and split not in SPLITS:
            raise CorpusError(f"{table}, line {number}: split is {split!r}; expected {', '.join(SPLITS)}")
        known = {column: row.get(column) or "" for column in ("fold", "gender", "session", "dialogue", "scenario")}
        clips.append(Clip(name, path, speaker, emotion, split, Path(file_name).as_posix(), **known))
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = sorted({c.speaker for c in clips if c.split == one} & {c.speaker for c in clips if c.split == other})
        if shared:
            raise CorpusError(f"{table}: speakers in both {one} and {other}: {', '.join(shared[:5])}; a speaker belongs to one")
    return clips


def select(clips: Iterable[Clip], split: str, labels: Sequence[str]) -> list[Clip]:
    """Return the clips of ``split`` (``all``: every clip) whose emotion is one of ``labels``.

    Raises CorpusError when nothing is left, naming the splits and emotions there are.
    """
    clips = list(clips)
    kept = [c for c in clips if (split == "all" or (split and split == c.split)) and c.emotion in labels]
    if not kept:
        splits = sorted({c.split for c in clips if c.split})
        known = f"splits {', '.join(splits)} and all" if splits else "no splits (use all)"
        raise CorpusError(
            f"no clips of split {split!r} with emotions {', '.join(labels)}; the corpus has {known}, "
            f"emotions {', '.join(sorted({c.emotion for c in clips}))}"
        )
    return kept


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and what it selects by."""

    train: list[Clip]
    dev: list[Clip]
    left_out: dict[str, int]
    """Clips whose emotion is not among the labels, counted as ``corpus/emotion``."""


def training_data(data: Path, corpora: Sequence[str], labels: Sequence[str]) -> TrainingData:
    """Gather the training and dev clips of ``corpora``.

    A corpus with fixed splits gives its train and dev clips; one without gives all its clips to training. At least one must
    have a dev split. Raises CorpusError also when a label has no clip in train or dev.
    """
    train: list[Clip] = []
    dev: list[Clip] = []
    left_out: Counter[str] = Counter()
    for name in corpora:
        clips = read_corpus(data, name)
        left_out.update(f"{name}/{c.emotion}" for c in clips if c.emotion not in labels)
        known = [c for c in clips if c.emotion in labels]
        train += [c for c in known if c.split in ("train", "")]
        dev += [c for c in known if c.split == "dev"]
    if not dev:
        raise CorpusError(
            f"{', '.join(corpora)}: no clip has split 'dev' in labels.csv, and the best weights are chosen on dev; "
            "add a split column (train/dev/test by speaker), or another --corpus that has one"
        )
    for part, part_clips in (("train", train), ("dev", dev)):
        absent = [label for label in labels if label not in {c.emotion for c in part_clips}]
        if absent:
            raise CorpusError(f"{', '.join(corpora)}: no {part} clip is labelled {', '.join(absent)}; expected every label")
    return TrainingData(train, dev, dict(left_out))
