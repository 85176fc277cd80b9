"""The model in C that the firmware is built with: the one that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ser.model.c_source import source_of


@pytest.fixture(scope="session")
def c_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``eser_model.c`` and ``eser_model.h``."""
    folder = tmp_path_factory.mktemp("c_model")
    source_of().write(folder)
    return folder
