"""The command calibrate: what it writes and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from edge_ser import EmotionRecognizer
from edge_ser.cli import cli
from edge_ser.commands.calibrate import ORDINARY
from edge_ser.frontend.features import LOGMEL_V1, bin_centres_hz, extract
from edge_ser.model.manifest import Manifest, read_model_file, shipped_model_path
from edge_ser.personal.profile import Profile

MANIFEST: Manifest = read_model_file(shipped_model_path()).manifest
WEIGHTS = MANIFEST.training["weights_sha256"]


def test_calibrate_writes_what_the_recordings_show(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "mic.json"
    result = CliRunner().invoke(cli, ["calibrate", *3 * [str(speech)], "-o", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    samples, _ = soundfile.read(speech, dtype="float32")
    expected = EmotionRecognizer().statistics()
    for _ in range(3):
        expected.add(extract(samples))
    microphone = Profile.load(path).microphone
    assert microphone is not None
    assert (microphone.n_vectors, microphone.speech) == (expected.n_vectors, "ordinary")
    np.testing.assert_allclose(microphone.vector, expected.vector, atol=0.01)
    level_db = np.interp(bin_centres_hz(LOGMEL_V1), *ORDINARY[:2])
    level = float((expected.mean - np.array(MANIFEST.speech_mean) - level_db).mean())
    assert f"{expected.speech_s:.1f} s in 13.0 s of audio" in result.output
    assert f"level     {level:+.1f} dB" in result.output
    # The same from raw samples, at another rate, against speech of every emotion.
    import soxr

    raw = np.rint(32767 * soxr.resample(np.tile(samples, 3), 16000, 48000).clip(-1, 1)).astype("<i2").tobytes()
    command = ["calibrate", "-", "--rate", "48000", "--speech", "mixed", "-o", str(path)]
    result = CliRunner().invoke(cli, command, input=raw, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    again = Profile.load(path).microphone
    assert again is not None
    assert again.speech == "mixed"
    assert np.corrcoef(again.vector, microphone.vector)[0, 1] > 0.9
    found = re.search(r"level     (\S+) dB", result.output)
    assert found is not None
    assert float(found[1]) == pytest.approx(float((expected.mean - np.array(MANIFEST.speech_mean)).mean()), abs=1.5)


def test_calibrate_refuses_what_is_no_minute_of_speech(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "mic.json"
    soundfile.write(tmp_path / "silent.flac", np.zeros(320000), 16000)
    t = np.arange(320000) / 16000
    soundfile.write(tmp_path / "hum.flac", 0.1 * np.sin(2 * np.pi * 100 * t), 16000)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(320000)) / np.sqrt(np.maximum(1, np.arange(160001)))
    soundfile.write(tmp_path / "pink.flac", 4 * np.fft.irfft(spectrum), 16000)
    soundfile.write(tmp_path / "tone.flac", 0.3 * np.sin(2 * np.pi * 440 * t), 16000)
    swell = np.random.default_rng(0).standard_normal(320000) * (1 + 0.8 * np.sin(np.pi * t))
    soundfile.write(tmp_path / "swell.flac", 0.1 * swell, 16000)
    for arguments, raw, message in (
        ([speech], b"", "s of speech; expected at least 10 s"),
        ([tmp_path / "silent.flac"], b"", "no speech was found"),
        ([tmp_path / "hum.flac"], b"", "takes 0.0 s for speech and 19.5 s for noise"),
        ([tmp_path / "gone.flac"], b"", "cannot open"),
        ([tmp_path / "pink.flac"], b"", "takes 0.0 s for speech and 19.5 s for noise"),
        ([tmp_path / "tone.flac"], b"", "takes 0.0 s for speech and 19.5 s for noise"),
        ([tmp_path / "swell.flac"], b"", "takes 0.0 s for speech and 19.5 s for noise"),
        (["-"], b"", "ended without a sample"),
        (["-"], b"abc", "no speech was found"),
        (["-", "--rate", "10"], b"ab", "rate of 10; expected"),
    ):
        result = CliRunner().invoke(cli, ["calibrate", *map(str, arguments), "-o", str(path)], input=raw)
        assert result.exit_code == 1
        assert message in str(result.exception)
        assert not path.exists()
    path.write_text("my notes")
    result = CliRunner().invoke(cli, ["calibrate", *3 * [str(speech)], "-o", str(path)])
    assert "expected a profile that edge-ser wrote" in str(result.exception)
    assert path.read_text() == "my notes"


def test_noise_and_tones_beside_speech_count_for_nothing(speech: Path, tmp_path: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="float32")
    noise = 0.1 * np.random.default_rng(0).standard_normal(56 * 16000)
    soundfile.write(tmp_path / "speech_noise.flac", np.concatenate([samples, noise]), 16000)
    soundfile.write(tmp_path / "tone.flac", 0.3 * np.sin(2 * np.pi * 440 * np.arange(60 * 16000) / 16000), 16000)
    path = tmp_path / "mic.json"
    for files in ([tmp_path / "speech_noise.flac"], [tmp_path / "tone.flac", speech], [speech, tmp_path / "tone.flac"]):
        result = CliRunner().invoke(cli, ["calibrate", *map(str, files), "-o", str(path)])
        assert result.exit_code == 1
        found = re.search(r"takes (\S+) s for speech and (\S+) s for noise.*; expected at least 10 s", str(result.exception))
        assert found is not None, result.exception
        assert float(found[1]) == pytest.approx(len(samples) / 16000, abs=2.6)  # a piece
        assert float(found[2]) == pytest.approx(58, abs=4)
        assert not path.exists()
    vectors = []
    for others in ([], [tmp_path / "tone.flac"]):
        command = ["calibrate", *map(str, [speech, speech, speech, *others]), "-o", str(path)]
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert ("s of noise, tones or music left out" in result.output) == bool(others), result.output
        microphone = Profile.load(path).microphone
        assert microphone is not None
        vectors.append(microphone.vector)
    assert np.array_equal(vectors[0], vectors[1])
