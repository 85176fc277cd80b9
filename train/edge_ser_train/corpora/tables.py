"""Corpora on disk: ``DATA/NAME/labels.csv`` with one row a clip, or a corpus as its publisher ships it (``layouts``).

Columns: ``file`` (path below the corpus folder), ``speaker``, ``emotion``; optionally ``split`` (train/dev/test), ``fold``,
``gender``, ``session``, ``dialogue``, ``scenario``, and any others.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_ser.errors import CorpusError, did_you_mean
from edge_ser_train.corpora.clips import PARTS, Clip, Report, refuse
from edge_ser_train.corpora.layouts import LAYOUTS, read_layout


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of a corpus; it travels in the manifest of every model trained on it."""

    licence: str = "unknown"
    citation: str = "unknown"
    speech: str = "unknown"
    """What kind of speech it is."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """Emotions that count as another where they are no label of their own."""


_ACTED = "acted, studio recordings"
KNOWN_CORPORA = {
    "cremad": CorpusFacts("ODbL 1.0 + DbCL 1.0", "Cao et al. 2014, IEEE Trans. Affective Computing 5(4)", _ACTED),
    "emodb": CorpusFacts("CC0 1.0", "Burkhardt et al. 2005, Interspeech", _ACTED),
    "iemocap": CorpusFacts(
        "by request from its authors",
        "Busso et al. 2008, Language Resources and Evaluation 42(4)",
        _ACTED,
        {"excited": "happy"},  # Dai et al. and most others: close in activation and valence; 5,531 utterances of four classes
    ),
    "ravdess": CorpusFacts("CC BY-NC-SA 4.0 (evaluation, research)", "Livingstone & Russo 2018, PLoS ONE 13(5)", _ACTED),
}
_PUBLISHED_AS = {"iemocapfullrelease": "iemocap"}


def corpus_facts(name: str) -> CorpusFacts:
    """Return what is known of a corpus by its folder's name, however that is written.

    >>> corpus_facts("CREMA-D").licence
    'ODbL 1.0 + DbCL 1.0'
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    return KNOWN_CORPORA.get(_PUBLISHED_AS.get(plain, plain), CorpusFacts())


def label_map_of(corpora: Iterable[str], labels: Sequence[str]) -> dict[str, str]:
    """Return which emotions of these corpora count as one of ``labels``, by the corpora's own custom.

    >>> label_map_of(["iemocap"], ["neutral", "happy"]), label_map_of(["iemocap"], ["excited", "happy"])
    ({'excited': 'happy'}, {})
    """
    pairs = ((emotion, to) for name in corpora for emotion, to in corpus_facts(name).label_map.items())
    return {emotion: to for emotion, to in pairs if to in labels and emotion not in labels}


def read_corpus(data: Path, name: str) -> list[Clip]:
    """Read the corpus ``name`` below the folder ``data``, in file order: its labels.csv, or the tree its publisher ships.

    Where there is no folder of that name, ``data`` itself may be the published corpus ``name``. Raises CorpusError when the
    folder or labels.csv is missing, a column or value is missing, a file is listed twice, or an audio file does not exist.
    """
    if not name or name != Path(name).name:
        raise CorpusError(f"corpus is {name!r}; expected the name of one folder below {data}")
    folder = data / name
    table = folder / "labels.csv"
    if table.is_file():
        return read_table(folder, name)
    clips = read_layout(folder, name) if folder.exists() else read_layout(data, name, layouts={name.lower()} & set(LAYOUTS))
    if clips is not None:
        return clips
    present = sorted(p.parent.name for p in data.glob("*/labels.csv")) if data.is_dir() else []
    here = f"corpora found there: {', '.join(present)}" if present else f"no */labels.csv found below {data}"
    raise CorpusError(
        f"no corpus {name!r} in {data}{did_you_mean(name, present)}: expected {table}, or the tree of a published corpus "
        f"({', '.join(LAYOUTS)}); {here}"
    )


def read_table(folder: Path, name: str, report: Report = refuse) -> list[Clip]:
    """Read ``folder/labels.csv``, in file order, as the corpus ``name``.

    What is wrong goes to ``report``, which raises CorpusError unless another is given; a row with a fault is then left out.
    """
    table = folder / "labels.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        report(f"cannot read {table}: {error}")
        return []
    if not rows:
        report(f"{table} lists no clips")
        return []
    missing = [column for column in ("file", "speaker", "emotion") if column not in rows[0]]
    if missing:
        report(f"{table} has no column {missing[0]!r}; its columns are {', '.join(map(str, rows[0]))}")
        return []
    clips: list[Clip] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        where = f"{table}, line {number}"
        file_name, speaker, emotion, split = (row.get(column) or "" for column in ("file", "speaker", "emotion", "split"))
        path = folder / file_name
        if not (file_name and speaker and emotion):
            report(f"{where}: file, speaker and emotion must not be empty")
        elif file_name in seen:
            report(f"{where}: {file_name} is listed twice")
        elif not path.is_file():
            report(f"{where}: {path} does not exist")
        elif "split" in row and split not in PARTS:
            report(f"{where}: split is {split!r}; expected {', '.join(PARTS)}")
        else:
            known = {column: row.get(column) or "" for column in ("fold", "gender", "session", "dialogue", "scenario")}
            text = row.get("text_id") or ""
            clips.append(Clip(name, path, speaker, emotion, split, Path(file_name).as_posix(), text=text, **known))
        seen.add(file_name)
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = sorted({c.speaker for c in clips if c.split == one} & {c.speaker for c in clips if c.split == other})
        if shared:
            report(f"{table}: speakers in both {one} and {other}: {', '.join(shared[:5])}; a speaker belongs to one")
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
