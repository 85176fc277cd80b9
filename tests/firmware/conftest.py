"""Models in C, the one that ships and one that is exported here, and a recording of two utterances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import extract
from edge_ser.model.c_source import source_of
from edge_ser.model.manifest import read_model_file, shipped_model_path
from tests.needs import tool

if TYPE_CHECKING:
    from edge_ser_export.c_library import CModel
    from edge_ser_export.quantize import QuantizedNet
    from edge_ser_train.method.model import EmotionNet


@pytest.fixture(scope="session")
def c_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``eser_model.c`` and ``eser_model.h``."""
    folder = tmp_path_factory.mktemp("c_model")
    source_of().write(folder)
    return folder


@pytest.fixture
def conversation(speech: Path, tmp_path: Path) -> Path:
    """The recording's first two seconds, a pause, and they again, at another rate: the examples hear it as long as it is."""
    samples, rate_hz = soundfile.read(speech)
    samples = samples[: 2 * rate_hz]
    path = tmp_path / "conversation.wav"
    soundfile.write(path, np.concatenate([samples, np.zeros(rate_hz), samples])[::2], rate_hz // 2)
    return path


@pytest.fixture(scope="session")
def integers(learnt: Path, speech: Path) -> tuple[EmotionNet, QuantizedNet]:
    """A network in integers."""
    from edge_ser_export.quantize import activation_ranges, quantize
    from edge_ser_train.method.weights import load_run

    net = load_run(learnt).net
    with AudioReader(speech) as reader:
        features = extract(reader.samples())
    noise = (20 * np.random.default_rng(0).standard_normal((300, 128)) - 40).astype(np.float32)
    return net, quantize(net, activation_ranges(net, [features, noise]))


@pytest.fixture(scope="session")
def sources(integers: tuple[EmotionNet, QuantizedNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported network."""
    from edge_ser_export.c_source import build_c, constants_of

    folder = tmp_path_factory.mktemp("c")
    written = build_c(constants_of(*integers), read_model_file(shipped_model_path()).manifest)
    (folder / "eser_model.c").write_text(written.source)
    (folder / "eser_model.h").write_text(written.header)
    return folder


@pytest.fixture(scope="session")
def model(sources: Path) -> CModel:
    from edge_ser_export.c_library import CModel

    tool("cc")
    return CModel.of_sources(sources)
