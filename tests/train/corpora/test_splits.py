from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser.errors import CorpusError
from edge_ser_train.corpora.clips import PARTS, Clip
from edge_ser_train.corpora.splits import Split, check_leaks, find_leaks, load_split, make_splits, relabel, training_split
from edge_ser_train.corpora.tables import read_corpus
from edge_ser_train.paper.experiments import PLANS
from tests.training import TINY_SETTINGS, edge_ser, refused, setting

LABELS = ("neutral", "angry", "happy", "sad")


def clip(i: int, speaker: str, emotion: str = "happy", **other: str) -> Clip:
    return Clip("c", Path(f"{i}.wav"), speaker, emotion, "", f"{i}.wav", **other)


def conversations(n_sessions: int = 5, per: int = 4) -> list[Clip]:
    """Pairs of speakers in dialogues, as IEMOCAP has them."""
    return [
        clip(0, f"{s}{g[0]}", e, gender=g, session=str(s), dialogue=f"Ses{s}_{k}", scenario=k)
        for s in range(1, n_sessions + 1)
        for g in ("female", "male")
        for k in ("improvised", "scripted")
        for e in LABELS
        for _ in range(per)
    ]


def numbered(clips: list[Clip]) -> list[Clip]:
    return [replace(c, name=f"{i}.wav", path=Path(f"{i}.wav")) for i, c in enumerate(clips)]


def test_the_papers_protocol_stratifies_and_mixes_speakers() -> None:
    clips = numbered(conversations())
    splits = make_splits(clips, "paper")
    assert len(splits) == 25
    assert len({s.sha256 for s in splits}) == 25
    for repeat in range(5):
        folds = splits[5 * repeat : 5 * repeat + 5]
        tested = Counter(c.key for s in folds for c in (*s.dev, *s.test))
        assert set(tested.values()) == {1}
        assert len(tested) == len(clips)  # the five pairs cover everything once
    for s in splits:
        sizes = [len(part) for part in s.parts().values()]
        assert sum(sizes) == len(clips)
        assert sizes == [256, 32, 32]
        assert s.speaker_dependent
        assert "SPEAKER-DEPENDENT" in s.title
        counts = Counter(c.emotion for c in s.test)
        assert max(counts.values()) - min(counts.values()) <= 4
    assert [s.sha256 for s in make_splits(clips, "paper")] == [s.sha256 for s in splits]
    with pytest.raises(CorpusError, match="at least ten clips"):
        make_splits(clips[:9], "paper")


def test_leaving_out_a_session_shares_neither_speaker_nor_dialogue() -> None:
    splits = make_splits(numbered(conversations()), "leave-one-session-out")
    assert [s.fold for s in splits] == ["1", "2", "3", "4", "5"]
    for s in splits:
        assert not find_leaks(s, {})
        assert {c.session for c in s.test} == {s.fold}
        assert len({c.session for c in s.dev}) == 1


def test_leaving_out_a_speaker_takes_the_partner_as_dev() -> None:
    splits = make_splits(numbered(conversations()), "leave-one-speaker-out")
    assert len(splits) == 10
    for s in splits:
        assert {c.speaker for c in s.test} == {s.fold}
        assert {c.session for c in s.dev} == {c.session for c in s.test}
        leaks = find_leaks(s, {})
        assert [(k.kind, k.parts) for k in leaks] == [("dialogue", ("dev", "test"))]
        said: list[str] = []
        check_leaks(s, {}, said.append)
        assert "dialogues in both dev and test" in said[0]


def test_every_published_fold_is_tested_once(data_dir: Path) -> None:
    clips, _ = relabel(read_corpus(data_dir, "ravdess"), {}, PLANS["ravdess", 8].labels)
    splits = make_splits(clips, "folds")
    assert [s.fold for s in splits] == list("123456")
    assert sum(len(s.test) for s in splits) == len(clips)
    for s in splits:
        assert len({c.speaker for c in s.test}) == len({c.speaker for c in s.dev}) == 4
        assert not find_leaks(s, {})


def test_a_corpus_without_what_the_protocol_goes_by_is_refused() -> None:
    clips = numbered([clip(0, f"s{i % 3}") for i in range(12)])
    with pytest.raises(CorpusError, match="needs a fold for every clip"):
        make_splits(clips, "folds")
    with pytest.raises(CorpusError, match="at least 3; it has 2 of them"):
        make_splits([c for c in clips if c.speaker != "s0"], "leave-one-speaker-out")
    with pytest.raises(CorpusError, match="did you mean 'paper'"):
        make_splits(clips, "papr")


def test_a_split_file_comes_back_as_it_was(tmp_path: Path) -> None:
    clips = numbered(conversations())
    split = make_splits(clips, "leave-one-session-out")[2]
    path = tmp_path / "split.json"
    path.write_text(split.to_json())
    assert load_split(path, clips, {}) == split
    with pytest.raises(CorpusError, match="is not in the corpora given"):
        load_split(path, clips[10:], {})
    table = json.loads(split.to_json())
    path.write_text(json.dumps(table | {"dev": [*table["dev"], table["train"][0]]}))
    with pytest.raises(CorpusError, match="is listed twice"):
        load_split(path, clips, {})
    for content in ("", "[]", '{"train": 3}'):
        path.write_text(content)
        with pytest.raises(CorpusError, match="expected JSON with lists train, dev and test"):
            load_split(path, clips, {})


def test_a_label_map_renames_and_counts_what_is_left_out() -> None:
    clips = [clip(0, "a", "excited"), clip(1, "a", "happy"), clip(2, "a", "disgust")]
    kept, left_out = relabel(clips, {"excited": "happy"}, LABELS)
    assert [c.emotion for c in kept] == ["happy", "happy"]
    assert left_out == {"c/disgust": 1}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("speaker", "1 speaker in both train and test: s0"),
        ("dialogue", "1 dialogue in both train and test: d0"),
        ("audio", "1 identical audio in both train and test: c/5.wav"),
    ],
)
def test_a_leak_is_refused(kind: str, message: str) -> None:
    clips = [clip(i, f"s{i}", dialogue=f"d{i}") for i in range(6)]
    digests = {c.key: str(i) for i, c in enumerate(clips)}
    if kind == "speaker":
        clips[5] = replace(clips[5], speaker="s0")
    elif kind == "dialogue":
        clips[5] = replace(clips[5], dialogue="d0")
    else:
        digests["c/5.wav"] = "0"
    split = Split("fixed", "", tuple(clips[:2]), tuple(clips[2:4]), tuple(clips[4:]), {})
    with pytest.raises(CorpusError, match=message):
        check_leaks(split, digests, lambda line: None)
    # The paper's protocol leaks by design: said, labelled, run.
    assert check_leaks(replace(split, protocol="paper"), digests, lambda line: None)


def test_training_refuses_identical_audio_in_train_and_test(tiny_data: Path, tmp_path: Path) -> None:
    clips = read_corpus(tiny_data, "tiny")
    folder = tmp_path / "data" / "tiny"
    (folder / "audio").mkdir(parents=True)
    for c in clips:
        (folder / c.name).write_bytes(c.path.read_bytes())
    (folder / "labels.csv").write_bytes((tiny_data / "tiny" / "labels.csv").read_bytes())
    one, other = (next(c for c in clips if c.split == part) for part in ("train", "test"))
    samples, rate = soundfile.read(folder / one.name, dtype="int16")
    soundfile.write(folder / other.name, samples, rate, subtype="PCM_24")  # other bytes, the same sound
    where = ("--data", folder.parent, "--corpus", "tiny", "--out", tmp_path / "run")
    command = ("train", *where, *setting(*TINY_SETTINGS))
    assert f"1 identical audio in both train and test: tiny/{other.name}" in refused(*command)
    # Nothing is left in the way of the same command on data set right.
    (folder / other.name).write_bytes((tiny_data / "tiny" / other.name).read_bytes())
    edge_ser(*command)


def test_a_run_by_protocol_saves_its_split(tiny_data: Path, tiny_run: Path) -> None:
    split = training_split(tiny_data, ["tiny"], LABELS, protocol="leave-one-speaker-out", fold="s2")
    assert {c.speaker for c in split.test} == {"s2"}
    assert {c.speaker for c in split.dev} == {"s3"}
    with pytest.raises(CorpusError, match="no fold 's9'"):
        training_split(tiny_data, ["tiny"], LABELS, protocol="leave-one-speaker-out", fold="s9")
    saved = json.loads((tiny_run / "split.json").read_text())
    assert {part: len(saved[part]) for part in PARTS} == {"train": 32, "dev": 8, "test": 8}
    assert load_split(tiny_run / "split.json", read_corpus(tiny_data, "tiny"), {}).protocol == "fixed"


def test_silence_is_no_reason_to_cry_leak() -> None:
    split = Split("fixed", "", (clip(0, "a"),), (clip(1, "b"),), (clip(2, "c"),), {})
    assert find_leaks(split, {}) == []
    assert np.array([str(k) for k in find_leaks(split, {"c/0.wav": "x", "c/2.wav": "x"})]).tolist() == [
        "1 identical audio in both train and test: c/2.wav"
    ]
