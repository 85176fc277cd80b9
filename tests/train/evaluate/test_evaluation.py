from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser.errors import CorpusError, EdgeSerError, RunError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import extract
from edge_ser.model.manifest import shipped_model_path
from edge_ser_train.corpora.clips import PARTS
from edge_ser_train.corpora.tables import read_corpus
from edge_ser_train.evaluate.adaptation import adaptation
from edge_ser_train.evaluate.conditions import CONDITIONS, add_noise, coloured_noise, cut, level, telephone
from edge_ser_train.evaluate.evaluation import (
    Training,
    evaluate_model,
    evaluate_run,
    format_comparison,
    format_evaluation,
    open_run_or_model,
)
from edge_ser_train.evaluate.personal import calibration, leave_corpus_out
from edge_ser_train.evaluate.robustness import robustness
from edge_ser_train.method.run import MODEL
from edge_ser_train.method.weights import load_run
from tests.exporting import export_run
from tests.training import TINY_SETTINGS, edge_ser, refused, setting


@pytest.fixture(scope="module")
def learnt_model(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network whose answers are clear, so that rounding errors change none."""
    path = tmp_path_factory.mktemp("models") / "learnt.onnx"
    export_run(learnt, {"onnx": path})
    return path


def test_run_and_exported_file_score_alike(learnt: Path, learnt_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    in_torch = evaluate_run(learnt, tiny_data, "tiny", "test", tmp_path)
    in_runtime = evaluate_model(learnt_model, tiny_data, "tiny", "test")
    assert in_torch["confusion"] == in_runtime["confusion"]
    assert in_torch["ua_95"] == in_runtime["ua_95"]
    assert in_torch["ece"] == pytest.approx(in_runtime["ece"], abs=1e-4)
    assert "speaker" in in_torch["protocol"]
    assert evaluate_model(learnt_model, tiny_data, "tiny", "train")["protocol"] == "seen in training"


def test_a_run_is_tested_on_its_own_split(tiny_data: Path, tmp_path: Path) -> None:
    out, where = tmp_path / "run", ["--data", str(tiny_data), "--corpus", "tiny"]
    edge_ser("train", *where, "--protocol", "leave-one-speaker-out", "--fold", "s1", "--out", out, *setting(*TINY_SETTINGS))
    training = open_run_or_model(out).training
    own = {part: {c.speaker for c in training.read(tiny_data, "tiny") if c.split == part} for part in PARTS}
    assert own == {"test": {"s1"}, "dev": {"s2"}, "train": {"s0", "s3", "s4", "s5"}}  # labels.csv says: test s5, dev s4
    result = evaluate_run(out, tiny_data, "tiny", "test", tmp_path / "cache")
    assert (result["n_clips"], result["protocol"]) == (8, "leave-one-speaker-out s1, 4 classes")
    # A model file does not list the split: what labels.csv calls test was trained on, and the score says so.
    export_run(out, {"onnx": tmp_path / "m.onnx"})
    stated = evaluate_model(tmp_path / "m.onnx", tiny_data, "tiny", "test")["protocol"]
    assert stated == "seen in training, but for the test clips of leave-one-speaker-out s1"


def test_a_run_is_evaluated_by_its_label_map(tiny_data: Path) -> None:
    keys = {c.key: part for c, part in zip(read_corpus(tiny_data, "tiny"), ("train", "dev", "test"), strict=False)}
    training = Training(("tiny",), (), "paper repeat 1 fold 1 (SPEAKER-DEPENDENT)", {"sad": "neutral"}, keys)
    clips = training.read(tiny_data, "tiny")
    assert {c.emotion for c in clips} == {"neutral", "angry", "happy"}
    assert {c.key: c.split for c in clips if c.split} == keys  # a speaker on both sides says nothing of other clips
    assert training.protocol("tiny", "test", "abcd") == "paper repeat 1 fold 1 (SPEAKER-DEPENDENT), 4 classes"


def test_excited_is_happy_to_a_model_that_has_no_such_label(iemocap_data: Path) -> None:
    def happy(*labels: str) -> int:
        training = Training(("cremad",), (), "fixed", {label: label for label in labels}, {})
        return sum(c.emotion == "happy" for c in training.read(iemocap_data, "iemocap"))

    assert happy("neutral", "happy") == 40
    assert happy("neutral", "happy", "excited") == 20


def test_the_command_prints_every_score(tiny_model: Path, tiny_data: Path) -> None:
    arguments = ("evaluate", tiny_model, "--data", tiny_data, "--corpus", "tiny")
    text = edge_ser(*arguments)
    for word in ("UA", "WA", "macro-F1", "ECE", "95 % interval over clips", "neutral", "8 clips of 1 speaker;"):
        assert word in text
    record = json.loads(edge_ser(*arguments, "--json").splitlines()[-1])
    assert {"ua", "wa", "macro_f1", "confusion", "ua_95", "protocol", "n_clips"} <= record.keys()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("evaluate", "MODEL", "--data", "DATA", "--corpus", "tiny"),
        ("evaluate", "MODEL", "--data", "DATA", "--corpus", "tiny", "--robustness"),
        ("evaluate", "MODEL", "--data", "DATA", "--leave-corpus-out"),
        ("corpus", "check", "DATA/tiny"),
    ],
)
def test_the_runtime_alone_scores_a_model_file_and_checks_a_corpus(arguments: tuple[str, ...], tiny_data: Path) -> None:
    extras = ("torch", "safetensors", "tqdm", "matplotlib", "sklearn", "tomli", "tomli_w", "onnx", "ai_edge_litert")
    without = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
    places = {"MODEL": shipped_model_path(), "DATA": tiny_data}
    given = [re.sub("MODEL|DATA", lambda name: str(places[name[0]]), argument) for argument in arguments]
    command = [sys.executable, "-c", without + "from edge_ser.cli import main; main()", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_scores_by_gender(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert evaluate_model(tiny_model, tiny_data, "tiny", "test")["by_gender"] == {}
    shutil.copytree(tiny_data / "tiny", tmp_path / "voices")
    table = tmp_path / "voices" / "labels.csv"
    header, *rows = table.read_text().splitlines()
    genders = {"s0": "female", "s1": "male", "s2": "female"}
    rows = [row.replace(f"{s},,", f"{s},{genders.get(s, '')},") for row in rows for s in [row.split(",")[1]]]
    table.write_text("\n".join([header, *rows]) + "\n")
    result = evaluate_model(tiny_model, tmp_path, "voices", "all")
    assert {gender: of["n_clips"] for gender, of in result["by_gender"].items()} == {"female": 16, "male": 8}
    assert all(0 <= of["ua"] <= 1 for of in result["by_gender"].values())
    text = format_evaluation(result)
    assert f"    female  {result['by_gender']['female']['ua']:6.1%}  16 clips\n" in text
    table.write_text("\n".join([header, *(row for row in rows if "female" in row)]) + "\n")
    alone = evaluate_model(tiny_model, tmp_path, "voices", "all")
    assert alone["by_gender"] == {"female": {"n_clips": 16, "ua": alone["ua"]}}
    assert alone["by_gender"]["female"] == result["by_gender"]["female"]


def test_a_run_without_a_classifier_is_scored_by_its_centres(
    train_tiny: Callable[..., Path], tiny_data: Path, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "run", "paper", "loss.kind=triplet", "optimizer.max_steps=2")
    dev = evaluate_run(run, tiny_data, "tiny", "dev", tmp_path / "cache")
    report = json.loads((run / "report.json").read_text())
    assert (dev["confusion"], dev["ece"]) == (report["dev"]["confusion"], pytest.approx(report["dev"]["ece"], abs=1e-4))
    trained = load_run(run)
    clips = [c for c in read_corpus(tiny_data, "tiny") if c.split == "dev"]
    subject = open_run_or_model(run)
    logits, z, _ = subject.answer([extract(soundfile.read(c.path, dtype="float32")[0], subject.front_end) for c in clips])
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, trained.centres.numpy())]
    squared = np.square(unit[0][:, None] - unit[1]).sum(axis=2)
    assert logits == pytest.approx(-squared, abs=1e-5)


@pytest.mark.parametrize("what", ["run", "model"])
def test_a_class_that_does_not_occur_counts_nowhere(
    what: str, learnt: Path, learnt_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Nobody is sad there, and speakers are not told apart."""
    shutil.copytree(tiny_data / "tiny", tmp_path / "data" / "calm")
    table = tmp_path / "data" / "calm" / "labels.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    kept = [row for row in rows if row[3] != "sad" and not row[0].endswith("_1.flac")]
    table.write_text("".join(f"{row[0]},{row[1][0]},{row[3]}\n" for row in kept))  # of s0 to s5, s is left
    table.write_text("file,speaker,emotion" + table.read_text().removeprefix("file,s,emotion"))
    subject = tmp_path / ("run" if what == "run" else "m.onnx")
    (shutil.copytree if what == "run" else shutil.copy)(learnt if what == "run" else learnt_model, subject)
    command = ("evaluate", subject, "--data", tmp_path / "data", "--corpus", "calm", "--split", "all")
    result = json.loads(edge_ser(*command, "--json").splitlines()[-1])
    recalls = [row[i] / sum(row) for i, row in enumerate(result["confusion"][:3])]
    assert result["ua"] == pytest.approx(np.mean(recalls))
    assert result["confusion"][3] == [0, 0, 0, 0]
    assert result["protocol"] == "zero-shot (corpus not trained on), 3 of 4 classes (nobody is sad)"
    assert (result["n_clips"], result["n_speakers"], result["interval_over"]) == (18, 1, "clips")
    assert result["ua_95"][0] < result["ua"] < result["ua_95"][1]
    text = format_evaluation(result)
    assert re.search(r"\n  sad +no clip$", text)
    assert "95 % interval over clips" in text
    text = edge_ser(*command, "--robustness")
    assert text.endswith("  calm: zero-shot (corpus not trained on), 3 of 4 classes (nobody is sad)\n")
    assert "95 % over clips" in text
    if what == "run":
        assert (subject / "evaluation-calm-all.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((subject / "evaluation-calm-all.json").read_text()) == result
        return
    edge_ser(*command, "--record")
    told = " ".join(edge_ser("info", subject).split())
    assert "18 clips, no two speakers told apart, interval over clips; zero-shot (corpus not trained on), 3 of 4 classes" in told


def test_mistakes(tiny_run: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus 'cremad'"):
        evaluate_model(tiny_model, tiny_data, "cremad", "test")
    with pytest.raises(RunError, match="does not exist"):
        load_run(tmp_path)
    (tmp_path / MODEL).write_bytes((tiny_run / MODEL).read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        load_run(tmp_path)
    (tmp_path / MODEL).write_bytes((tiny_run / MODEL).read_bytes())
    with pytest.raises(EdgeSerError, match=r"config\.toml"):
        load_run(tmp_path)
    text = (tiny_run / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace("batch_norm = true", "batch_norm = false"))
    with pytest.raises(RunError, match="another network"):
        load_run(tmp_path)
    (tmp_path / "config.toml").write_text(text.replace("logmel-v1", "logstft-v1"))
    with pytest.raises(RunError, match="disagree"):
        load_run(tmp_path)


def test_conditions_do_what_they_say(speech: Path) -> None:
    samples = np.asarray(soundfile.read(speech, dtype="float32")[0][:32000])
    rng = np.random.default_rng(0)
    assert np.abs(level(samples, 12) / np.maximum(1e-9, np.abs(samples)))[np.abs(samples) > 0.01] == pytest.approx(
        10**0.6, rel=1e-4
    )
    noisy = add_noise(samples, coloured_noise(len(samples), 1, rng), 20)
    assert 10 * np.log10(np.mean(samples**2) / np.mean((noisy - samples) ** 2)) == pytest.approx(20, abs=0.01)
    noise = np.abs(np.fft.rfft(noisy - samples)) ** 2
    assert 7 < 10 * np.log10(noise[100:200].mean() / noise[1000:2000].mean()) < 13  # 10 dB a decade
    called = telephone(samples)
    assert called.shape == samples.shape
    power = np.abs(np.fft.rfft(called)) ** 2
    hz = np.fft.rfftfreq(len(called), 1 / 16000)
    assert power[hz > 4100].sum() < 1e-4 * power.sum()
    assert power[hz < 150].sum() < 1e-2 * power.sum()
    assert set(CONDITIONS) >= {"as recorded", "level +12 dB", "level -12 dB"}
    room = 1e-4 * rng.standard_normal(48000).astype(np.float32)
    kept = cut(np.concatenate([room[:24000], samples, room[24000:32000]]))
    left = len(kept) - len(samples)
    assert 0 < left < 2 * 0.25 * 16000, "0.2 s at either end, give or take what the speech's own ends are"
    assert samples.tobytes() in kept.tobytes()


def test_codecs_keep_the_length_and_lose_more_at_fewer_bits(speech: Path) -> None:
    with AudioReader(speech, 16000) as reader:
        samples = reader.samples()
    error = {}
    for name in ("Opus, 6 kbit/s", "Opus, 16 kbit/s", "MP3, 23 kbit/s"):
        back = CONDITIONS[name](samples, np.random.default_rng(0))
        assert back.shape == samples.shape
        assert back.dtype == np.float32
        error[name] = float(((back - samples) ** 2).sum() / (samples**2).sum())
    assert 0 < error["MP3, 23 kbit/s"] < 0.1, "not delayed"
    assert 0 < error["Opus, 16 kbit/s"] < error["Opus, 6 kbit/s"] < 1


def test_codecs_do_not_call_back_into_python(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("libsndfile's callbacks swallow a Ctrl-C")

    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", refuse)
    samples = np.asarray(soundfile.read(speech, dtype="float32")[0][:32000])
    for name in ("Opus, 6 kbit/s", "MP3, 23 kbit/s"):
        assert len(CONDITIONS[name](samples, np.random.default_rng(0))) == len(samples)


@pytest.mark.parametrize("what", ["run", "model"])
def test_other_corpora_and_conditions(what: str, learnt: Path, learnt_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    subject = learnt if what == "run" else learnt_model
    with pytest.raises(CorpusError, match="expected one at least to leave out"):
        leave_corpus_out(subject, tiny_data, tmp_path / "cache")
    shutil.copytree(tiny_data / "tiny", tmp_path / "data" / "other")
    results = leave_corpus_out(subject, tmp_path / "data", tmp_path / "cache")
    assert results[0]["calibration"] == "none"
    assert {r["calibration"].removeprefix("a minute of ") for r in results[1:]} == {
        f"{who}, {speech}" for who in ("others", "the speaker") for speech in ("ordinary", "mixed")
    }
    assert "zero-shot" in results[0]["protocol"]
    # The calibration error depends on every confidence: it shows any change at all.
    answers = {r["calibration"]: r["ece"] for r in results}
    # Seven vowels of a second are too short a measurement, those of five speakers are not.
    assert answers["a minute of the speaker, mixed"] == answers["none"]
    assert answers["a minute of others, mixed"] != answers["none"]
    conditions = robustness(subject, tiny_data, "tiny", "test")
    plain = (evaluate_run(learnt, tiny_data, "tiny", "test", None) if what == "run" else None) or evaluate_model(
        learnt_model, tiny_data, "tiny", "test"
    )
    assert conditions[0]["condition"] == "as recorded"
    assert conditions[0]["confusion"] == plain["confusion"]
    for change in conditions[1:]:
        low, high = change["change_95"]
        assert change["change"] == pytest.approx(change["ua"] - conditions[0]["ua"])
        assert low <= change["change"] <= high
    text = format_comparison(conditions, "condition")
    assert "telephone (8 kHz, G.711)" in text
    copied = tmp_path / "run"
    shutil.copytree(learnt, copied)
    command = ("evaluate", copied, "--data", tmp_path / "data", "--leave-corpus-out")
    assert "a minute of others, ordinary" in edge_ser(*command)
    assert json.loads((copied / "leave-corpus-out.json").read_text())[0]["corpus"] == "other"
    for wrong in (["--corpus", "tiny"], ["--robustness"], ["--calibration"], ["--adaptation"]):
        assert refused(*command, *wrong).startswith("2 ")


def test_calibration_is_scored_on_a_split_of_any_corpus(learnt: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(learnt, tmp_path / "run")
    command = ("evaluate", tmp_path / "run", "--data", tiny_data, "--corpus", "tiny", "--split", "all", "--calibration")
    assert "a minute of others, mixed" in edge_ser(*command)
    results = json.loads((tmp_path / "run" / "calibration-tiny-all.json").read_text())
    assert results[0]["confusion"] == evaluate_run(learnt, tiny_data, "tiny", "all", None)["confusion"]
    assert results[3]["calibration"] == "a minute of others, mixed"
    assert results[3]["ece"] != results[0]["ece"]
    with pytest.raises(CorpusError, match="no clips of split 'tset'"):
        calibration(learnt, tiny_data, "tiny", "tset", None)


def test_adaptation_is_scored_on_clips_that_it_did_not_hear(learnt: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(learnt, tmp_path / "run")
    command = ("evaluate", tmp_path / "run", "--data", tiny_data, "--corpus", "tiny", "--split", "all", "--adaptation")
    assert "4 utterances an emotion" in edge_ser(*command)
    results = json.loads((tmp_path / "run" / "adaptation-tiny-all.json").read_text())
    assert (tmp_path / "run" / "adaptation-tiny-all.png").read_bytes().startswith(b"\x89PNG")
    names = ["none", *(f"{n} utterance{'s' * (n > 1)} an emotion" for n in (1, 2, 4, 8)), "4 neutral ones alone"]
    assert [r["adaptation"] for r in results][:7] == [*names, "2, one label in 8 wrong"]
    assert results[0]["confusion"] == evaluate_run(learnt, tiny_data, "tiny", "all", None)["confusion"]
    # There are two takes of every emotion: one is heard, and one judged, however many are asked for.
    assert results[1]["confusion"] == results[2]["confusion"]
    assert np.sum(results[1]["confusion"]) == 5 * 24
    alone = results[5]
    assert alone["change"] == alone["harmed"] == 0  # one label teaches nothing
    for r in results[1:]:
        low, high = r["change_95"]
        assert low <= r["change"] <= high
        assert 0 <= r["harmed"] <= 1
        assert r["worst"] <= 0
    assert adaptation(tmp_path / "run", tiny_data, "tiny", "all", None)[3]["confusion"] == results[3]["confusion"]
