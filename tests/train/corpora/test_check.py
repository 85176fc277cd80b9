from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from edge_ser.cli import cli
from edge_ser.errors import CorpusError
from edge_ser_train.corpora.check import check_corpus, format_check


def tone(path: Path, peak: float = 0.5, seconds: float = 1.0, rate_hz: int = 16000, pitch_hz: float = 200.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    soundfile.write(path, np.clip(peak * np.sin(2 * np.pi * pitch_hz * t), -1, 1), rate_hz, subtype="PCM_16")
    return path


def table(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "speaker", "emotion", "split"), *rows])
    return folder


def found(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for finding in result["findings"]:
        kinds.setdefault((finding["level"], finding["kind"]), []).append(finding)
    return kinds


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["corpus", "check", *map(str, arguments)], catch_exceptions=False)


def test_a_sound_corpus(tiny_data: Path) -> None:
    result = run(tiny_data / "tiny")
    assert result.exit_code == 0
    head, _, columns, whole, dev, test, train, *speakers, _, verdict = result.stdout.splitlines()
    assert head.startswith("tiny: 48 clips of 6 speakers, 0.7")
    assert columns.split() == ["angry", "happy", "neutral", "sad", "clips", "speakers"]
    assert whole.split() == ["tiny", "12", "12", "12", "12", "48", "6"]
    assert [row.split()[0::6] for row in (dev, test, train)] == [["dev", "1"], ["test", "1"], ["train", "4"]]
    assert speakers == ["6 speakers each        2     2       2     2      8"]
    assert verdict == "nothing wrong found"
    record = json.loads(run(tiny_data / "tiny", "--json").stdout)
    assert record["ok"]
    assert record["findings"] == []
    assert record["per"]["speaker"]["s0"]["classes"] == {"angry": 2, "happy": 2, "neutral": 2, "sad": 2}
    assert record["duration_s"]["total"] == pytest.approx(48 * record["duration_s"]["median"], rel=0.1)


def test_everything_wrong_is_found_and_nothing_stops_it(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for i, name in enumerate(("fine", "same", "conflict_a", "split_a", "speaker_a")):
        tone(folder / f"{name}.wav", pitch_hz=100 + 10 * i)
    for name, copy in (("same", "same_too"), ("conflict_a", "conflict_b"), ("split_a", "split_b"), ("speaker_a", "speaker_b")):
        shutil.copy(folder / f"{name}.wav", folder / f"{copy}.wav")
    tone(folder / "quiet.wav", peak=0.01)
    tone(folder / "short.wav", seconds=0.5)
    tone(folder / "enough.wav", seconds=0.53)
    tone(folder / "long.wav", seconds=14.2, rate_hz=8000)
    tone(folder / "clipped.wav", peak=1.5)
    for name in ("silent", "silent_too"):
        tone(folder / f"{name}.wav", peak=0)
    normalised = np.zeros(16000, dtype=np.int16)
    normalised[100:120] = -32768, *[5] * 19
    soundfile.write(folder / "normalised.wav", normalised, 16000)
    (folder / "broken.wav").write_bytes(b"RIFF not audio")
    tone(folder / "extra" / "unlisted.flac")
    for hidden in ("._fine.wav", ".DS_Store"):
        (folder / hidden).write_bytes(b"\0\5\26\7")
    plain = [
        "fine",
        "same",
        "same_too",
        "quiet",
        "short",
        "enough",
        "long",
        "clipped",
        "silent",
        "silent_too",
        "normalised",
        "broken",
    ]
    rows = [(f"{name}.wav", "s1", "happy", "train") for name in plain]
    rows += [("conflict_a.wav", "s1", "happy", "train"), ("conflict_b.wav", "s1", "sad", "train")]
    rows += [("split_a.wav", "s2", "happy", "train"), ("split_b.wav", "s2", "happy", "dev")]
    rows += [("speaker_a.wav", "s3", "happy", "test"), ("speaker_b.wav", "s4", "happy", "test")]
    rows += [("fine.wav", "s1", "happy", "train"), ("gone.wav", "s1", "happy", "train"), ("", "s1", "happy", "train")]
    result = check_corpus(table(folder, rows))
    kinds = found(result)
    assert {key: [finding["files"] for finding in findings] for key, findings in kinds.items() if key[1] != "table"} == {
        ("error", "unreadable"): [()],
        ("error", "silent"): [("silent.wav", "silent_too.wav")],
        ("error", "identical"): [(f"{x}_a.wav", f"{x}_b.wav") for x in ("conflict", "split", "speaker")],
        ("warning", "quiet"): [("quiet.wav",)],
        ("warning", "full scale"): [("clipped.wav", "normalised.wav")],
        ("warning", "short"): [("short.wav",)],
        ("warning", "long"): [("long.wav",)],
        ("warning", "identical"): [("same.wav", "same_too.wav")],
        ("warning", "unlisted"): [("extra/unlisted.flac",)],
    }
    messages = [finding["message"].removeprefix(f"{folder}/labels.csv") for finding in kinds["error", "table"]]
    assert messages == [
        ", line 20: fine.wav is listed twice",
        f", line 21: {folder}/gone.wav does not exist",
        ", line 22: file, speaker and emotion must not be empty",
        ": speakers in both train and dev: s2; a speaker belongs to one",
    ]
    lines = format_check(result).splitlines()
    assert "error    identical audio but emotion happy / sad: conflict_a.wav, conflict_b.wav" in lines
    assert "error    identical audio but split train / dev: split_a.wav, split_b.wav" in lines
    assert "error    identical audio but speaker s3 / s4: speaker_a.wav, speaker_b.wav" in lines
    assert "warning  2 of 17 clips at full scale, 1 of them clipped: clipped.wav, normalised.wav" in lines
    assert "warning  1 of 17 clips under 0.52 s, to be padded: short.wav" in lines
    assert "warning  1 of 17 clips over 14 s, to be cut: long.wav" in lines
    assert [line for line in lines if line.startswith("error") and "broken.wav is not readable audio" in line]
    levels = [line.split()[0] for line in lines if line.startswith(("error", "warning"))]
    assert levels == sorted(levels)
    assert run(folder).exit_code == 1
    assert not json.loads(run(folder, "--json").stdout)["ok"]


def test_warnings_are_no_failure_and_many_alike_are_cut_short(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    rows = []
    for i in range(12):
        for take in (1, 2):
            tone(folder / f"{i}_{take}.wav", peak=0.001 * (i + 5))
            rows.append((f"{i}_{take}.wav", f"s{i}", "happy" if i else "sad", "train"))
    result = run(table(folder, rows))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "11 speakers each       2     -      2" in lines
    assert "s0                     -     2      2" in lines
    assert sum("identical audio" in line for line in lines) == 10
    assert "         and 2 more of this kind; --json lists all" in lines
    assert "warning  24 of 24 clips very quiet (peak below 0.02): 0_1.wav and 23 more" in lines
    assert all(len(line) <= 100 for line in lines)


def test_a_broken_table_is_a_finding_and_no_corpus_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,emotion\na.wav,happy\n")
    tone(tmp_path / "a.wav")
    kinds = found(check_corpus(tmp_path))
    assert "has no column 'speaker'" in kinds["error", "table"][0]["message"]
    assert kinds["warning", "unlisted"][0]["files"] == ("a.wav",)
    for folder in (tmp_path / "gone", Path(__file__).parent):
        with pytest.raises(CorpusError, match=r"expected labels\.csv, or the tree of iemocap"):
            check_corpus(folder)


def test_a_published_corpus(tmp_path: Path) -> None:
    home = tmp_path / "CREMA-D"
    for i, name in enumerate(("1001_DFA_ANG_XX", "1004_DFA_SAD_XX", "1002_DFA_FEA_XX")):
        tone(home / "AudioWAV" / f"{name}.wav", pitch_hz=200 + i)
    tone(home / "processed" / "1001.mp3.wav")
    result = check_corpus(home)
    assert result["ok"]
    assert {split: group["speakers"] for split, group in result["per"]["split"].items()} == {"test": 1, "train": 1}
    assert found(result)["warning", "unlisted"][0]["files"] == ("processed/1001.mp3.wav",)


def test_an_incomplete_copy_of_iemocap_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    utterances = ["Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses01F_impro01_F001"]
    evaluation = tmp_path / "Session1" / "dialog" / "EmoEvaluation"
    evaluation.mkdir(parents=True)
    labels = [f"[1.0000 - 2.0000]\t{u}\t{e}\t[2.5, 2.5, 2.5]\r\n" for u, e in zip(utterances, ("fru", "neu", "xxx"), strict=True)]
    (evaluation / "Ses01F_impro01.txt").write_text("".join(labels))
    tone(tmp_path / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / f"{utterances[0]}.wav")
    result = check_corpus(tmp_path)
    assert result["per"]["session"] == {"1": {"speakers": 1, "classes": {"frustrated": 1}}}
    assert [f["message"].rpartition("/")[2] for f in found(result)["error", "table"]] == [
        f"{u}.wav does not exist" for u in utterances[1:]
    ]


def test_wide_tables_stay_within_100_columns() -> None:
    names = ["neutral", "angry", "happy", "excited", "sad", "frustrated", "fear", "surprise", "disgust", "other", "undecided"]
    classes = dict.fromkeys(sorted(names), 1000)
    result = {
        "corpus": "iemocap",
        "clips": 11000,
        "speakers": 10,
        "duration_s": {"total": 44000.0, "min": 0.58, "median": 3.6, "max": 34.1},
        "per": {
            **{of: {} for of in ("gender", "split", "fold", "session")},
            "corpus": {"iemocap": {"speakers": 10, "classes": classes}},
            "speaker": {"iemocap_1F": {"speakers": 1, "classes": classes}},
        },
        "findings": [],
    }
    lines = format_check(result).splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert lines[2].split() == [*(name[:5] for name in classes), "clips", "speakers"]
