from __future__ import annotations

import csv
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ser.arrays import Float32Array
from edge_ser.errors import CorpusError, RunError
from edge_ser.frontend.features import LOGMEL_V1, FrontEndConfig, bin_centres_hz
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.splits import training_split
from edge_ser_train.corpora.tables import corpus_facts, label_map_of, read_corpus, select
from edge_ser_train.method.augment import augment, stretched_lengths
from edge_ser_train.method.config import AugmentConfig, load_config
from edge_ser_train.method.dataset import (
    clip_features,
    crop_batch,
    default_cache_dir,
    epoch_batches,
    load_features,
    normalisation,
)
from edge_ser_train.method.run import CONFIG, read_data
from tests.training import TINY_SETTINGS, edge_ser, setting

LABELS = ("neutral", "angry", "happy", "sad")


def corpus(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.wav").touch()
    (folder / "b.wav").touch()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def row(file: str = "a.wav", speaker: str = "s", emotion: str = "happy", split: str = "train") -> dict[str, str]:
    return {"file": file, "speaker": speaker, "emotion": emotion, "split": split}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a.wav", "emotion": "happy"}], "no column 'speaker'"),
        ([row(), row()], "line 3: a.wav is listed twice"),
        ([row(file="gone.wav")], "gone.wav does not exist"),
        ([row(emotion="")], "line 2: file, speaker and emotion must not be empty"),
    ],
)
def test_a_broken_table_is_named_by_line(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_corpus(corpus(tmp_path, rows), "mine")


def test_a_byte_order_mark_is_no_column_and_a_path_no_corpus(tiny_data: Path, tmp_path: Path) -> None:
    folder = corpus(tmp_path, [row()])
    table = folder / "mine" / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert read_corpus(folder, "mine")[0].speaker == "s"
    for name in ("tiny/", "../tiny", "", "."):
        with pytest.raises(CorpusError, match="expected the name of one folder"):
            read_corpus(tiny_data, name)


def test_a_missing_corpus_names_those_there(tiny_data: Path) -> None:
    with pytest.raises(CorpusError, match="did you mean 'tiny'"):
        read_corpus(tiny_data, "tinny")
    with pytest.raises(CorpusError, match="splits dev, test, train and all"):
        select(read_corpus(tiny_data, "tiny"), "validation", LABELS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row("b.wav")], "no clip has split 'dev'"),
        ([row(), row("b.wav", split="dev")], "speakers in both train and dev: s"),
        ([row(), row("b.wav", split="test")], "speakers in both train and test: s"),
        ([row(), row("b.wav", split="train ")], "line 3: split is 'train '"),
        ([row(), row("b.wav", split="")], "line 3: split is ''"),
        ([row(), row("b.wav", speaker="t", split="dev")], "no train clip is labelled neutral, angry, sad"),
    ],
)
def test_training_data_that_cannot_work_is_refused(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        training_split(corpus(tmp_path, rows), ["mine"], LABELS)


def test_cremad_has_no_speaker_in_two_splits(data_dir: Path) -> None:
    clips = read_corpus(data_dir, "cremad")
    speakers = {split: {c.speaker for c in clips if c.split == split} for split in ("train", "dev", "test")}
    assert [len(s) for s in speakers.values()] == [48, 10, 14]
    assert not speakers["train"] & speakers["dev"]
    assert not (speakers["train"] | speakers["dev"]) & speakers["test"]


@pytest.mark.parametrize("name", ["iemocap", "IEMOCAP_full_release"])
def test_excited_is_happy_on_iemocap_where_it_is_no_label_of_its_own(name: str) -> None:
    assert label_map_of(["cremad", name], LABELS) == {"excited": "happy"}
    assert label_map_of([name], ("excited", *LABELS)) == label_map_of([name], ("neutral", "sad")) == {}
    assert label_map_of(["cremad"], LABELS) == {}
    assert corpus_facts(name).licence == "by request from its authors"


@pytest.mark.parametrize(("settings", "happy", "left_out"), [((), 24, 20), (("label_map.frustrated=angry",), 24, 0)])
def test_any_preset_trains_on_iemocap_by_its_own_custom(
    iemocap_data: Path, tmp_path: Path, settings: tuple[str, ...], happy: int, left_out: int
) -> None:
    where = ("--data", iemocap_data, "--corpus", "iemocap", "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    how = ("--preset", "paper", "--protocol", "leave-one-session-out", "--fold", "1")
    edge_ser("train", *where, *how, *setting(*TINY_SETTINGS, "optimizer.max_steps=2", *settings))
    data = read_data(tmp_path / "run")
    assert data["train"]["per_label"]["happy"] == happy
    assert sum(data["left_out"].values()) == left_out
    assert load_config(tmp_path / "run" / CONFIG).label_map["excited"] == data["label_map"]["excited"] == "happy"
    edge_ser("train", "--out", tmp_path / "run", "--resume")


def test_cached_features_are_the_runtimes_and_change_with_the_file(tiny_data: Path, tmp_path: Path) -> None:
    clips = read_corpus(tiny_data, "tiny")[:3]
    first = load_features(clips, LOGMEL_V1, tmp_path)
    again = load_features(clips, LOGMEL_V1, tmp_path)
    (cached,) = tmp_path.glob("*.f32")
    cached.unlink()  # what is mapped stays as it was
    cached.write_bytes(b"torn")
    load_features(clips, LOGMEL_V1, tmp_path)
    with pytest.raises(RunError, match="choose another --cache"):
        load_features(clips, LOGMEL_V1, cached)
    assert len(list(tmp_path.glob("*.f32"))) == 1
    for clip, a, b in zip(clips, first, again, strict=True):
        assert np.array_equal(a, clip_features(clip, LOGMEL_V1))
        assert np.array_equal(a, b)
    clips[0].path.touch()
    load_features(clips, LOGMEL_V1, tmp_path)
    assert len(list(tmp_path.glob("*.f32"))) == 2


def test_a_clip_is_cached_once_whatever_list_it_stands_in(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = read_corpus(tiny_data, "tiny")
    computed: list[str] = []

    def counted(clip: Clip, config: FrontEndConfig) -> Float32Array:
        computed.append(clip.key)
        return clip_features(clip, config)

    monkeypatch.setattr("edge_ser_train.method.dataset.clip_features", counted)
    (tmp_path / "0123456789abcdef01234567.json").write_text("[49, 50]")  # of a version that cached lists
    (tmp_path / "0123456789abcdef01234567.f32").write_bytes(bytes(99 * LOGMEL_V1.n_bins * 4))
    lists = [clips[:5], clips[3:8], clips[7:1:-1], [clips[0], clips[9], clips[0]]]
    for listed in lists:
        for clip, x in zip(listed, load_features(listed, LOGMEL_V1, tmp_path), strict=True):
            assert np.array_equal(x, clip_features(clip, LOGMEL_V1))
    assert computed == [c.key for c in [*clips[:8], clips[9]]]
    load_features(clips[:1], replace(LOGMEL_V1, name="other", n_mels=64), tmp_path)
    assert computed[-1] == clips[0].key
    assert len(list(tmp_path.glob("*-*.f32"))) == 4


def test_processes_fill_one_cache_together(tiny_data: Path, tmp_path: Path) -> None:
    clips = read_corpus(tiny_data, "tiny")
    lists = [clips[:20], clips[10:30], clips[:20], clips[5:40]]
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(load_features, lists, [LOGMEL_V1] * 4, [tmp_path] * 4))
    for listed, features in zip(lists, found, strict=True):
        for clip, x in zip(listed, features, strict=True):
            assert np.array_equal(x, clip_features(clip, LOGMEL_V1))
    assert {path.suffix for path in tmp_path.iterdir()} == {".f32", ".json"}


def test_features_that_nobody_asked_to_keep_are_kept_nowhere(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = read_corpus(tiny_data, "tiny")[:3]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept_nowhere = load_features(clips, LOGMEL_V1, None)
    assert list(tmp_path.iterdir()) == []
    cached = load_features(clips, LOGMEL_V1, default_cache_dir())
    monkeypatch.setattr("edge_ser_train.method.dataset.clip_features", lambda *_: pytest.fail("they lie in the user's cache"))
    for x, y, z in zip(kept_nowhere, cached, load_features(clips, LOGMEL_V1, None), strict=True):
        assert np.array_equal(x, y)
        assert np.array_equal(x, z)


def test_normalisation_is_per_bin_over_all_frames() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, size=(n, 5)).astype(np.float32) for n in (10, 200)]
    mean, std = normalisation(parts)
    together = np.concatenate(parts)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, together.std(axis=0), rtol=1e-5)


def test_batches_hold_every_clip_once_and_alike_lengths() -> None:
    lengths = np.random.default_rng(0).integers(49, 1400, size=700)
    batches = epoch_batches(lengths, 32, np.random.default_rng(1))
    seen = np.concatenate(batches)
    assert len(batches) == 700 // 32
    assert len(np.unique(seen)) == len(seen)
    spread = np.mean([np.ptp(lengths[b]) for b in batches])
    assert spread < 0.2 * np.ptp(lengths)


def test_cropped_batches_are_real_frames_of_whole_strides() -> None:
    clips = [np.arange(n, dtype=np.float32)[:, None] * np.ones(3, dtype=np.float32) for n in (70, 100, 81)]
    batch, lengths = crop_batch(clips, np.random.default_rng(0))
    assert batch.shape == (3, 65, 3)
    assert lengths.tolist() == [65, 65, 65]
    for row_of_batch in batch.numpy():
        assert np.array_equal(np.diff(row_of_batch[:, 0]), np.ones(64))


def test_augmentation_changes_what_it_says() -> None:
    x = np.add.outer(np.arange(100.0), np.zeros(128)).astype(np.float32)
    fill = np.full(128, -1.0, dtype=np.float32)
    rng = np.random.default_rng(0)
    off = AugmentConfig()
    assert np.array_equal(augment(x, 100, fill, off, rng, LOGMEL_V1), x)
    assert augment(x, 115, fill, off, rng, LOGMEL_V1).shape == (115, 128)
    np.testing.assert_allclose(augment(x, 199, fill, off, rng, LOGMEL_V1)[:, 0], np.arange(199) / 2, atol=1e-4)
    louder = augment(x, 100, fill, AugmentConfig(gain_db=8), rng, LOGMEL_V1) - x
    assert np.ptp(louder) < 1e-4
    assert 0 < abs(louder[0, 0]) <= 8
    masked = augment(x + 5, 100, fill, AugmentConfig(freq_masks=2, time_masks=2), rng, LOGMEL_V1)
    assert ((masked == -1) | (masked == x + 5)).all()
    assert (masked == -1).any()
    lengths = stretched_lengths(np.full(1000, 200), AugmentConfig(time_stretch=0.15), rng)
    assert 170 <= lengths.min() < 180 < 220 < lengths.max() <= 230


def test_the_channel_changes_what_it_says() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((120, 128)) * 5 - 40).astype(np.float32)
    x[60:] = -100  # speech, then digital silence
    fill = x.mean(axis=0)

    def changed(**settings: float) -> Float32Array:
        return augment(x, 120, fill, AugmentConfig(**settings), np.random.default_rng(0), LOGMEL_V1)  # type: ignore[arg-type]

    noisy = changed(noise=1.0, noise_snr_db=10.0)
    assert (noisy >= x - 1e-3).all()  # power only adds
    snr = 10 * np.log10((10 ** (x / 10)).sum() / (10 ** (noisy / 10) - 10 ** (x / 10)).sum())
    assert 10 <= snr <= 40
    room = np.vstack([rng.standard_normal((60, 128)) * 2 - 70, rng.standard_normal((60, 128)) * 2 - 20]).astype(np.float32)
    quieter = [augment(room, 120, fill, AugmentConfig(denoise=1.0), np.random.default_rng(i), LOGMEL_V1) for i in range(200)]
    np.testing.assert_allclose(np.stack(quieter)[:, 64:], np.broadcast_to(room[64:], (200, 56, 128)), atol=1e-2)
    lowered = np.array([np.median((room - y)[:56]) for y in quieter])
    assert 0 <= lowered.min() < 5 < 25 < lowered.max() <= 30.1  # by up to 60 dB, but to the floor of -100 at most
    tail = changed(reverb=1.0)
    np.testing.assert_allclose(tail[0], x[0], atol=1e-3)
    level = tail[60:].mean(axis=1)
    assert (np.diff(level[:20]) < 0).all()  # silence fills with a decaying tail
    narrow = changed(band_limit=1.0)
    hz = bin_centres_hz(LOGMEL_V1)
    assert (narrow[:60, hz > 7000] < -75).all()
    np.testing.assert_array_equal(narrow[60:, hz > 7000], x[60:, hz > 7000])
    np.testing.assert_array_equal(narrow[:, (hz > 400) & (hz < 3300)], x[:, (hz > 400) & (hz < 3300)])
    narrowing, loud = AugmentConfig(band_limit=1.0), x[:60] + 40
    louder = [augment(loud, 60, fill, narrowing, np.random.default_rng(i), LOGMEL_V1) for i in range(20)]
    leaks = [float(np.median(y.max(axis=1, keepdims=True) - y[:, hz > 7000])) for y in louder]
    assert 65.5 < max(leaks) < 67.5  # however deep the cut; the median of an exponential lies 1.6 dB below its mean
    lows = np.array([(loud - y)[:, 2].mean() for y in louder])  # at 70 Hz
    assert (lows < 1).sum() > 4
    assert 20 < lows.max() < 48 * 2.4
    long = np.full((8192, 128), -20, dtype=np.float32)
    with np.errstate(divide="raise"):  # the leak of this seed holds an exponential draw of 0
        augment(long, 8192, fill, narrowing, np.random.default_rng(2), LOGMEL_V1)
    tilted = (changed(equaliser_db=3.0) - x)[:60]  # silence stays at the floor or above
    np.testing.assert_allclose(tilted, np.broadcast_to(tilted[0], tilted.shape), atol=1e-4)
    assert 0.5 < tilted[0].std() < 9
