"""Corpora as their publishers ship them, recognised by their tree and read from file names; no audio is opened.

iemocap   Session1/dialog/EmoEvaluation/*.txt, Session1/sentences/wav/DIALOGUE/UTTERANCE.wav, ...
ravdess   Actor_01/03-01-05-01-02-01-01.wav, ... (also below Audio_Speech_Actors_01-24/)
emodb     wav/03a01Fa.wav, ...
cremad    AudioWAV/1001_DFA_ANG_XX.wav, ..., VideoDemographics.csv

Recordings may be WAV or FLAC. Hidden files, such as the ``._*`` that macOS leaves beside each file, are passed over.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from edge_ser_train.corpora.clips import Clip, Report, refuse

_IEMOCAP_EMOTIONS = {
    "neu": "neutral", "ang": "angry", "hap": "happy", "exc": "excited", "sad": "sad", "fru": "frustrated", "fea": "fear",
    "sur": "surprise", "dis": "disgust", "oth": "other", "xxx": "undecided",
}  # fmt: skip
_IEMOCAP_LABEL = re.compile(r"\[[\d.]+ - [\d.]+\]\s+((\w+_(impro|script)\w*)_([FM])[^\s_]*)\s+(\w+)\b")
_RAVDESS_SPEECH = re.compile(r"03-01-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)")  # modality audio alone, channel speech (song is 02)
_RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
_RAVDESS_FOLDS = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))
_EMODB_NAME = re.compile(r"(\d\d)[ab]\d\d([WLEAFTN])\w*")
_EMODB_EMOTIONS = {
    "W": "angry", "L": "boredom", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip
_EMODB_MEN = ("03", "10", "11", "12", "15")
_CREMAD_NAME = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})(_\w*)?")  # the level is XX, LO, MD or HI, in one file X
_CREMAD_EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_CREMAD_ACTORS = {  # 48, 10 and 14 of the actors 1001 to 1091; the others are in no split
    "train": (
        1, 5, 8, 9, 12, 13, 14, 15, 17, 18, 19, 22, 27, 28, 30, 31, 32, 34, 36, 37, 39, 40, 41, 42, 43, 47, 48, 50, 52, 53, 54,
        55, 56, 57, 58, 59, 69, 70, 71, 72, 76, 77, 78, 79, 81, 84, 86, 91,
    ),
    "dev": (6, 10, 11, 20, 45, 49, 60, 65, 80, 85),
    "test": (4, 23, 25, 26, 29, 33, 35, 46, 63, 64, 66, 73, 75, 87),
}  # fmt: skip


def read_layout(folder: Path, name: str, report: Report = refuse, layouts: Iterable[str] | None = None) -> list[Clip] | None:
    """Return the clips of the published corpus in ``folder``, called ``name``, sorted; None when it shows no known layout.

    ``layouts`` says which ones to look for (default: all). What is wrong with a clip goes to ``report``, which raises
    CorpusError unless another is given; the clip is then left out.
    """
    if folder.is_dir():
        for layout in LAYOUTS if layouts is None else layouts:
            if clips := LAYOUTS[layout](folder, name, report):
                return clips
    return None


def read_iemocap(folder: Path, corpus: str, report: Report) -> list[Clip]:
    """Read every utterance the EmoEvaluation tables label, whatever the label; those without agreement are ``undecided``.

    The speaker is the letter of the last token: ``Ses01F_impro05_M003`` is the man of session 1 (``Ses01F`` names who wore the
    motion capture markers). Faults: a label line that cannot be read, an utterance labelled twice, one without its recording.
    """
    clips: dict[str, Clip] = {}
    for home in _matching(folder, r"Session(\d+)"):
        session = home.name.removeprefix("Session")
        wav = home / "sentences" / "wav"
        recordings = _audio(*_matching(wav, ".+"))
        for where, line in _label_lines(home / "dialog" / "EmoEvaluation"):
            found = _IEMOCAP_LABEL.match(line)
            utterance, dialogue, kind, letter, code = found.groups() if found else ("",) * 5
            if code not in _IEMOCAP_EMOTIONS:
                known = ", ".join(_IEMOCAP_EMOTIONS)
                report(f"{where}: cannot read {line!r}; expected [start - end], utterance and emotion, one of {known}")
            elif utterance in clips:
                report(f"{where}: {utterance} is labelled twice; expected each utterance once")
            elif utterance not in recordings:
                report(f"{where}: {wav / dialogue / utterance}.wav does not exist")
            else:
                clips[utterance] = replace(
                    _clip(folder, corpus, recordings[utterance], f"iemocap_{session}{letter}", _IEMOCAP_EMOTIONS[code]),
                    gender={"F": "female", "M": "male"}[letter],
                    session=session,
                    dialogue=dialogue,
                    scenario={"impro": "improvised", "script": "scripted"}[kind],
                )
    return list(clips.values())


def _label_lines(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield where it stands and the line, for every line that begins like a label; annotators' own tables lie in subfolders."""
    for table in _matching(folder, r".+\.txt"):
        # Latin-1 reads any byte: the lines that matter are ASCII, comments need not be.
        for number, line in enumerate(table.read_text(encoding="latin-1").split("\n"), start=1):
            if line.startswith("["):
                yield f"{table}, line {number}", line.strip()


def read_ravdess(folder: Path, corpus: str, report: Report) -> list[Clip]:
    """Read the spoken, audio-only recordings, each once: one widespread copy holds all actors a second time in a subfolder."""
    homes = [folder, *_matching(folder, r"(?i:audio_speech_actors_01-24)")]
    fold_of = {actor: str(fold) for fold, actors in enumerate(_RAVDESS_FOLDS, start=1) for actor in actors}
    clips = []
    for stem, path in _audio(*(actor for home in homes for actor in _matching(home, r"Actor_\d\d"))).items():
        if found := _RAVDESS_SPEECH.fullmatch(stem):
            actor = int(found[2])
            clip = _clip(folder, corpus, path, f"ravdess_{found[2]}", _RAVDESS_EMOTIONS[int(found[1]) - 1])
            clips.append(replace(clip, fold=fold_of.get(actor, ""), gender="male" if actor % 2 else "female"))
    return clips


def read_emodb(folder: Path, corpus: str, report: Report) -> list[Clip]:
    """Read Berlin's Emo-DB."""
    clips = []
    for stem, path in _audio(folder / "wav").items():
        if found := _EMODB_NAME.fullmatch(stem):
            clip = _clip(folder, corpus, path, f"emodb_{found[1]}", _EMODB_EMOTIONS[found[2]])
            clips.append(replace(clip, gender="male" if found[1] in _EMODB_MEN else "female"))
    return clips


def read_cremad(folder: Path, corpus: str, report: Report) -> list[Clip]:
    """Read CREMA-D with this project's split by actor; actors outside it have none. Genders need VideoDemographics.csv."""
    genders: dict[str, str] = {}
    demographics = folder / "VideoDemographics.csv"
    if demographics.is_file():
        with demographics.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            genders = {row.get("ActorID") or "": (row.get("Sex") or "").lower() for row in csv.DictReader(file)}
    split_of = {1000 + actor: split for split, actors in _CREMAD_ACTORS.items() for actor in actors}
    clips = []
    for stem, path in _audio(folder / "AudioWAV").items():
        found = _CREMAD_NAME.fullmatch(stem)
        if found and found[2] in _CREMAD_EMOTIONS:
            clip = _clip(folder, corpus, path, f"cremad_{found[1]}", _CREMAD_EMOTIONS[found[2]])
            clips.append(replace(clip, split=split_of.get(int(found[1]), ""), gender=genders.get(found[1], "")))
    return clips


LAYOUTS: dict[str, Callable[[Path, str, Report], list[Clip]]] = {
    "iemocap": read_iemocap,
    "ravdess": read_ravdess,
    "emodb": read_emodb,
    "cremad": read_cremad,
}
"""The known layouts by the corpus' usual name; each function returns no clips for a folder of another kind."""


def _clip(folder: Path, corpus: str, path: Path, speaker: str, emotion: str) -> Clip:
    """Return the clip of a recording below ``folder`` as far as every corpus knows it; the layouts add the rest."""
    return Clip(corpus, path, speaker, emotion, split="", name=path.relative_to(folder).as_posix())


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return what lies in ``folder`` under a name that matches and is not hidden, sorted; nothing where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(pattern, p.name) and not p.name.startswith("."))


def _audio(*folders: Path) -> dict[str, Path]:
    """Return the recordings in ``folders`` by stem, in order; of several with one stem (FLAC beside WAV) the first."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _matching(folder, r"(?i:.+\.(wav|flac))"):
            found.setdefault(path.stem, path)
    return found
