"""What the tests share: the golden recording, real corpora where there are any, and a miniature corpus and run."""

from __future__ import annotations

import csv
import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch counts the cores: runs in this process and in others must agree bit for bit

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job; children would inherit it, and those that are to be interrupted never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
TINY_SETTINGS = (
    "optimizer.max_steps=6",
    "optimizer.batch_size=8",
    "selection.every_steps=2",
    "selection.after_step=1",
    "loss.warmup_steps=2",
)


def write_corpus(folder: Path, n_speakers: int = 6, per_label: int = 2) -> Path:
    """Write a corpus of synthetic vowels, one pitch contour an emotion; speakers 0.. train, the last two dev and test."""
    rng = np.random.default_rng(7)
    (folder / "audio").mkdir(parents=True)
    slopes = {"neutral": 0.0, "angry": 80.0, "happy": 40.0, "sad": -40.0}
    rows = []
    for speaker in range(n_speakers):
        split = {n_speakers - 1: "test", n_speakers - 2: "dev"}.get(speaker, "train")
        for emotion, slope in slopes.items():
            for take in range(per_label):
                seconds = rng.uniform(0.7, 1.1)
                t = np.arange(int(16000 * seconds)) / 16000
                pitch = 110 + 15 * speaker + slope * t
                phase = 2 * np.pi * np.cumsum(pitch) / 16000
                voice = sum(np.sin(k * phase) / k for k in range(1, 12))
                samples = 0.1 * voice + 0.003 * rng.standard_normal(len(t))
                name = f"audio/s{speaker}_{emotion}_{take}.flac"
                soundfile.write(folder / name, samples, 16000, subtype="PCM_16")
                rows.append([name, f"s{speaker}", "", emotion, split])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "speaker", "gender", "emotion", "split"], *rows])
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No traces in the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def speech() -> Path:
    """The synthetic recording that ships with the project."""
    return ROOT / "tests" / "golden" / "synthetic_speech.flac"


@pytest.fixture(scope="session")
def native_library() -> Path:
    """The compiled C library of the native backend."""
    from edge_ser.engines.native import library_path

    found = library_path()
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no libeser.so (install a C compiler, then: make native)")
    return found


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real corpora: EDGE_SER_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("EDGE_SER_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "cremad" / "labels.csv").is_file():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no real speech at {folder} (set EDGE_SER_DATA)")
    return folder


@pytest.fixture(scope="session")
def real_clips(data_dir: Path) -> list[Path]:
    """Fifty real recordings of different lengths, from all corpora there."""
    found = sorted(data_dir.glob("*/audio/*.flac"))
    return found[:: max(1, len(found) // 50)][:50]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one miniature corpus, ``tiny``."""
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def train_tiny(tiny_data: Path) -> Callable[..., Path]:
    """A function that trains on the miniature corpus through the command line and returns the run's folder."""
    from click.testing import CliRunner

    from edge_ser.cli import cli

    def train(out: Path, preset: str = "edge", *settings: str) -> Path:
        arguments = ["train", "--data", str(tiny_data), "--corpus", "tiny", "--preset", preset, "--out", str(out)]
        for setting in (*TINY_SETTINGS, *settings):
            arguments += ["--set", setting]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return out

    return train


@pytest.fixture(scope="session")
def tiny_run(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the ``edge`` preset."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "edge")


@pytest.fixture(scope="session")
def learnt(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt its vowels on any processor: every dev clip is right, and clearly so."""
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    quickly = ("optimizer.max_steps=160", "optimizer.schedule=constant", "selection.every_steps=40", "selection.after_step=150")
    mildly = (
        "augment.gain_db=8.0",
        "augment.denoise=0.0",
        "augment.noise=0.3",
        "augment.noise_snr_db=15.0",
        "augment.band_limit=0.1",
    )
    return train_tiny(folder, "edge", *quickly, *mildly)


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's exported model file."""
    from edge_ser_export.exporter import export_run

    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    export_run(tiny_run, {"onnx": path}, lambda line: None)
    return path
