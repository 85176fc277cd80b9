"""A model in C for the firmware: EDGE_SER_C_MODEL, or the tiny network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def c_model(request: pytest.FixtureRequest, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``eser_model.c`` and ``eser_model.h``, of the size of the model that ships."""
    if os.environ.get("EDGE_SER_C_MODEL"):
        return Path(os.environ["EDGE_SER_C_MODEL"]).resolve()
    import soundfile

    from edge_ser.features import extract
    from edge_ser.model_file import read_model_file
    from edge_ser_export.c_source import build_c
    from edge_ser_export.quantize import activation_ranges, quantize
    from edge_ser_train.run import load_run

    net = load_run(request.getfixturevalue("tiny_run")).net
    samples, _ = soundfile.read(speech, dtype="float32")
    quantized = quantize(net, activation_ranges(net, [extract(samples)]))
    written = build_c(net, quantized, read_model_file(request.getfixturevalue("tiny_model")).manifest)
    folder = tmp_path_factory.mktemp("c_model")
    (folder / "eser_model.c").write_text(written.source)
    (folder / "eser_model.h").write_text(written.header)
    return folder
