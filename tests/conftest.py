"""What the tests share: the golden recording, real corpora where there are any, and a miniature corpus and run."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch counts the cores: runs in this process and in others must agree bit for bit

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.needs import refuse

if TYPE_CHECKING:
    from tests.runtime.services.mqtt_broker import Home, Mosquitto

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job; children would inherit it, and those that are to be interrupted never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


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
    """No traces in the user's cache, but of zig, which takes a minute to compile its C runtimes."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(user / "zig"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def speech() -> Path:
    """The synthetic recording that ships with the project."""
    return ROOT / "tests" / "golden" / "synthetic_speech.flac"


@pytest.fixture(scope="session")
def native_library() -> Path:
    """The compiled C library of the native backend."""
    from edge_ser.engines.clib import library_path

    found = library_path()
    if found is None:
        refuse("no libeser.so (install a C compiler, then: make native)")
    return found


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that make wheels writes: the one that EDGE_SER_DIST names, or built now."""
    if named := os.environ.get("EDGE_SER_DIST"):
        return Path(named)
    for module in ("ziglang", "scikit_build_core"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "release/wheels.py", "-o", folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real corpora: where EDGE_SER_DATA says, and there they must be, or data/ beside the checkout."""
    named = os.environ.get("EDGE_SER_DATA")
    folder = Path(named or ROOT.parent / "data")
    if not (folder / "cremad" / "labels.csv").is_file():
        (pytest.fail if named else pytest.skip)(f"no real speech at {folder} (set EDGE_SER_DATA)")
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
def iemocap_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a miniature of IEMOCAP as its publisher ships it: ten speakers, seven utterances each a dialogue."""
    folder, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(11)
    for session in range(1, 6):
        home = folder / "iemocap" / f"Session{session}"
        for dialogue in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1"):
            sounds, table = home / "sentences/wav" / dialogue, home / "dialog/EmoEvaluation" / f"{dialogue}.txt"
            sounds.mkdir(parents=True)
            table.parent.mkdir(parents=True, exist_ok=True)
            lines = []
            for letter in "FM":
                for number, code in enumerate(("neu", "neu", "ang", "hap", "exc", "sad", "fru")):
                    name = f"{dialogue}_{letter}{number:03}"
                    samples = 0.02 * (1 + number) * rng.standard_normal(int(16000 * rng.uniform(0.6, 0.8)))
                    soundfile.write(sounds / f"{name}.wav", samples, 16000, subtype="PCM_16")
                    lines.append(f"[6.2901 - 8.2357]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\n")
            table.write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def train_tiny(tiny_data: Path) -> Callable[..., Path]:
    """A function that trains on the miniature corpus through the command line and returns the run's folder."""
    from tests.training import TINY_SETTINGS, edge_ser, setting

    def train(out: Path, preset: str = "edge", *settings: str) -> Path:
        where = ("--data", tiny_data, "--corpus", "tiny", "--preset", preset, "--out", out)
        edge_ser("train", *where, *setting(*TINY_SETTINGS, *settings))
        return out

    return train


@pytest.fixture(scope="session")
def tiny_run(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the ``edge`` preset."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "edge")


@pytest.fixture(scope="session")
def learnt(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the ``edge`` preset whose network answers clearly and is the same everywhere: nothing is trained for it.

    It is the shipped network in float, off the integers' grid, and with a batch normalisation that its convolutions undo.
    """
    import torch

    from edge_ser.model.manifest import shipped_model_path
    from edge_ser_train.corpora.splits import training_split
    from edge_ser_train.method.config import load_preset
    from edge_ser_train.method.dequantize import read_network
    from edge_ser_train.method.run import REPORT, describe_data, record_run
    from edge_ser_train.method.weights import save_model
    from tests.training import TINY_SETTINGS

    folder = tmp_path_factory.mktemp("runs") / "learnt"
    folder.mkdir()
    config = load_preset("edge").with_settings(TINY_SETTINGS)
    data = training_split(tiny_data, ["tiny"], config.labels)
    record_run(config, describe_data(data, tiny_data, ["tiny"], config), data, folder)
    net, manifest = read_network(shipped_model_path(".eser"), config.model)
    state, rng = net.state_dict(), np.random.default_rng(0)

    def drawn(n: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(n).astype(np.float32))

    # The file's inputs are 0 to 255, a trained network's are around 0.
    state["feature_mean"] += 128 * state["feature_std"]
    state["feature_std"] *= 64
    state["convs.0.bias"] += 128 * state["convs.0.weight"].sum(dim=(1, 2, 3))
    state["convs.0.weight"] *= 64
    for name, values in state.items():
        if "weight" in name:
            values *= 1 + 0.01 * drawn(values.numel()).reshape(values.shape)
    for i in range(len(net.convs)):
        mean, std = drawn(len(state[f"convs.{i}.bias"])), torch.exp(0.5 * drawn(len(state[f"convs.{i}.bias"])))
        state[f"convs.{i}.weight"] *= std[:, None, None, None]
        state[f"convs.{i}.bias"] *= std
        state[f"norms.{i}.norm.running_mean"].copy_(mean)
        state[f"norms.{i}.norm.running_var"].copy_(std**2)
        state[f"norms.{i}.shift"].copy_(mean / std)
    names = ("speech_mean", "speech_std", "speech_vector", "ordinary_vector")
    measured = {name: torch.tensor(getattr(manifest, name)) for name in names}
    centres = torch.tensor(manifest.centres)
    save_model(folder, state, config, 1, centres, measured, manifest.speech, manifest.distance, manifest.temperature)
    (folder / REPORT).write_text("{}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's exported model file."""
    from tests.exporting import export_run

    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    export_run(tiny_run, {"onnx": path})
    return path


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        refuse("mosquitto is not installed")
    from tests.runtime.services.mqtt_broker import Mosquitto

    made: list[Mosquitto] = []

    def make(*lines: str) -> Mosquitto:
        made.append(Mosquitto(program, tmp_path, *lines))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    broker = make_broker()
    broker.start()
    return broker


@pytest.fixture
def listen_at() -> Iterator[Callable[..., Home]]:
    from tests.runtime.services.mqtt_broker import Home

    homes: list[Home] = []

    def listen(port: int, **login: str) -> Home:
        homes.append(Home(port, **login))
        return homes[-1]

    yield listen
    for home in homes:
        home.client.disconnect()
        home.client.loop_stop()
