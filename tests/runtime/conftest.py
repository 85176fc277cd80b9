from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser import EmotionRecognizer


@pytest.fixture(scope="session")
def recognizer() -> EmotionRecognizer:
    """The model that ships; tests leave it as it is."""
    return EmotionRecognizer()


@pytest.fixture
def talk(data_dir: Path, tmp_path: Path) -> Path:
    """Two real recordings with silence around them, a WAV file."""
    parts = [np.zeros(8000, dtype=np.int16)]
    for clip in sorted((data_dir / "emodb" / "audio").glob("*.flac"))[10:40:20]:
        parts += [soundfile.read(clip, dtype="int16")[0], np.zeros(16000, dtype=np.int16)]
    soundfile.write(tmp_path / "talk.wav", np.concatenate(parts), 16000)
    return tmp_path / "talk.wav"
