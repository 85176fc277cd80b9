from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from edge_ser.errors import CorpusError
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.layouts import read_layout
from edge_ser_train.corpora.tables import read_corpus


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def published(corpus: str, stem: str) -> str:
    """Where the publisher ships the clip."""
    folder = {"cremad": "AudioWAV", "emodb": "wav", "ravdess": f"Actor_{stem[-2:]}"}[corpus]
    return f"{folder}/{stem}.wav"


@pytest.mark.parametrize("corpus", ["cremad", "emodb", "ravdess"])
def test_names_say_what_the_tables_say(data_dir: Path, tmp_path: Path, corpus: str) -> None:
    with (data_dir / corpus / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {published(corpus, Path(row["file"]).stem): row for row in rows}
    touch(*(tmp_path / corpus / name for name in files))
    if corpus == "cremad":
        sexes = {row["speaker"].removeprefix("cremad_"): row["gender"].title() for row in rows}
        with (tmp_path / corpus / "VideoDemographics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["ActorID", "Age", "Sex"], *([actor, "30", sex] for actor, sex in sexes.items())])
    clips = read_corpus(tmp_path, corpus)
    assert {c.name for c in clips} == set(files)
    assert [c.name for c in clips] == sorted(files)
    for clip in clips:
        row = files[clip.name]
        known = (clip.speaker, clip.emotion, clip.gender, clip.split, clip.fold)
        assert known == (row["speaker"], row["emotion"], row["gender"], row.get("split", ""), row.get("fold", ""))
        assert clip.path == tmp_path / corpus / clip.name
        assert clip.corpus == corpus


def label(utterance: str, emotion: str) -> str:
    return f"[6.2901 - 8.2357]\t{utterance}\t{emotion}\t[2.5000, 2.5000, 2.5000]"


def write_iemocap(folder: Path) -> Path:
    """A miniature with the traps of the real one; returns the folder of the first session's tables."""
    dialogues = {
        "Ses01F_impro01": {"Ses01F_impro01_F000": "neu", "Ses01F_impro01_M003": "xxx"},  # a man in a dialogue called ...F
        "Ses01M_script01_1b": {"Ses01M_script01_1b_F001": "exc"},
        "Ses02M_impro02": {"Ses02M_impro02_MXX0": "fru"},
    }
    for dialogue, utterances in dialogues.items():
        session = folder / f"Session{dialogue[4]}"
        table = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        touch(table, *(session / "sentences" / "wav" / dialogue / f"{utterance}.wav" for utterance in utterances))
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for utterance, emotion in utterances.items():
            lines += [label(utterance, emotion), "C-E2:\tHappiness;\t()", "A-E3:\tval 3; act 2; dom  2;\t(caf\xe9\x85)", ""]
        table.write_bytes("\r\n".join(lines).encode("latin-1"))
        (table.parent / f"._{table.name}").write_bytes(b"\0\5\26\7 [6.2 - 8.2]\tSes01F_impro01_F999\tsad\t[]")
        touch(session / "sentences" / "wav" / dialogue / "._Ses01F_impro01_F000.wav", session / ".DS_Store")
        for below in ("Categorical", "Attribute", "Self-evaluation"):
            touch(table.parent / below / table.name)
            (table.parent / below / table.name).write_text(label(next(iter(utterances)), "ang") + "\n")
    touch(folder / "._Session1", folder / "Documentation" / "readme.txt")
    return folder / "Session1" / "dialog" / "EmoEvaluation"


def test_iemocap_with_its_traps(tmp_path: Path) -> None:
    write_iemocap(tmp_path / "IEMOCAP_full_release")
    clips = read_corpus(tmp_path, "IEMOCAP_full_release")
    wav = tmp_path / "IEMOCAP_full_release" / "Session1" / "sentences" / "wav"
    assert clips[1] == Clip(
        corpus="IEMOCAP_full_release",
        path=wav / "Ses01F_impro01" / "Ses01F_impro01_M003.wav",
        speaker="iemocap_1M",
        emotion="undecided",
        split="",
        name="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M003.wav",
        gender="male",
        session="1",
        dialogue="Ses01F_impro01",
        scenario="improvised",
    )
    assert [(c.speaker, c.emotion, c.session, c.dialogue, c.scenario) for c in clips] == [
        ("iemocap_1F", "neutral", "1", "Ses01F_impro01", "improvised"),
        ("iemocap_1M", "undecided", "1", "Ses01F_impro01", "improvised"),
        ("iemocap_1F", "excited", "1", "Ses01M_script01_1b", "scripted"),
        ("iemocap_2M", "frustrated", "2", "Ses02M_impro02", "improvised"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            label("Ses01F_impro01_F007", "ang"),
            r"line 1: .*Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F007\.wav does not",
        ),
        (label("Ses01F_impro01_F000", "ang"), "Ses01F_impro01_F000 is labelled twice"),
        (label("Ses01F_impro01_F000", "joy"), r"line 1: cannot read .*'; expected .* one of neu, ang"),
        ("[6.2901 - 8.2357]", "line 1: cannot read"),
    ],
)
def test_iemocap_names_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    tables = write_iemocap(tmp_path / "iemocap")
    (tables / "Ses01F_impro01_again.txt").write_text(line)
    with pytest.raises(CorpusError, match=message):
        read_corpus(tmp_path, "iemocap")
    problems: list[str] = []
    assert len(read_layout(tmp_path / "iemocap", "iemocap", problems.append) or ()) == 4
    assert len(problems) == 1


def test_ravdess_is_speech_alone_and_each_clip_once(tmp_path: Path) -> None:
    speech = ["03-01-05-02-01-01-12", "03-01-02-01-02-02-12"]
    other = ["03-02-05-02-01-01-12", "01-01-05-02-01-01-12", "02-01-05-02-01-01-12", "03-01-09-01-01-01-12", "readme"]
    for home in (tmp_path, tmp_path / "audio_speech_actors_01-24"):
        touch(*(home / "Actor_12" / f"{stem}.wav" for stem in speech + other), home / "Actor_12" / f"._{speech[0]}.wav")
    touch(tmp_path / "audio_speech_actors_01-24" / "Actor_13" / "03-01-08-01-01-01-13.WAV")
    clips = read_layout(tmp_path, "ravdess")
    assert clips is not None
    assert [(c.speaker, c.emotion, c.gender, c.fold, c.name) for c in clips] == [
        ("ravdess_12", "calm", "female", "2", "Actor_12/03-01-02-01-02-02-12.wav"),
        ("ravdess_12", "angry", "female", "2", "Actor_12/03-01-05-02-01-01-12.wav"),
        ("ravdess_13", "surprise", "male", "6", "audio_speech_actors_01-24/Actor_13/03-01-08-01-01-01-13.WAV"),
    ]


def test_cremad_tolerates_odd_names_and_splits_by_actor(tmp_path: Path) -> None:
    stems = ["1040_ITH_SAD_X", "1002_DFA_FEA_XX", "1091_IEO_DIS_HI", "1006_IEO_ANG_LO", "1004_TSI_NEU_XX", "1001_DFA_XXX_XX"]
    touch(*(tmp_path / "AudioWAV" / f"{stem}.wav" for stem in [*stems, "._1001_DFA_ANG_XX"]), tmp_path / "AudioWAV" / ".DS_Store")
    touch(tmp_path / "AudioWAV" / "1040_ITH_SAD_X.flac")
    clips = read_layout(tmp_path, "cremad")
    assert clips is not None
    assert [(c.speaker, c.emotion, c.split, c.gender) for c in clips] == [
        ("cremad_1002", "fear", "", ""),
        ("cremad_1004", "neutral", "test", ""),
        ("cremad_1006", "angry", "dev", ""),
        ("cremad_1040", "sad", "train", ""),
        ("cremad_1091", "disgust", "train", ""),
    ]
    assert clips[3].path.suffix == ".flac"


def test_cremad_split_is_48_10_14(tmp_path: Path) -> None:
    touch(*(tmp_path / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav" for actor in range(1001, 1092)))
    assert Counter(c.split for c in read_layout(tmp_path, "cremad") or ()) == {"train": 48, "dev": 10, "test": 14, "": 19}


def test_the_data_folder_itself_may_be_the_corpus(tmp_path: Path) -> None:
    touch(tmp_path / "wav" / "03a01Fa.wav", tmp_path / "wav" / "16b10Td.WAV", tmp_path / "wav" / "03a01F.txt")
    clips = read_corpus(tmp_path, "EmoDB")
    assert [(c.corpus, c.speaker, c.emotion, c.gender, c.name) for c in clips] == [
        ("EmoDB", "emodb_03", "happy", "male", "wav/03a01Fa.wav"),
        ("EmoDB", "emodb_16", "sad", "female", "wav/16b10Td.WAV"),
    ]
    for name in ("ravdess", "wav"):
        with pytest.raises(CorpusError, match=rf"no corpus '{name}' .* or the tree of a published corpus \(iemocap, "):
            read_corpus(tmp_path, name)


def test_other_folders_show_no_layout(tiny_data: Path, tmp_path: Path) -> None:
    touch(tmp_path / "wav" / "hello.wav", tmp_path / "Actor_01" / "hello.wav", tmp_path / "Session1" / "notes.txt")
    for folder in (tmp_path, tiny_data / "tiny", tmp_path / "gone", tmp_path / "wav" / "hello.wav"):
        assert read_layout(folder, "x") is None


def test_labels_csv_comes_first(tmp_path: Path) -> None:
    touch(tmp_path / "emodb" / "wav" / "03a01Fa.wav")
    (tmp_path / "emodb" / "labels.csv").write_text("file,speaker,emotion\nwav/03a01Fa.wav,me,mine\n")
    assert read_corpus(tmp_path, "emodb")[0].emotion == "mine"
