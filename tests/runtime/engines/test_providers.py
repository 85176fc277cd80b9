"""What the engines run on. No GPU here: what can be shown is its absence."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from edge_ser import BackendError, EmotionRecognizer
from edge_ser.engines.providers import ONNX_PROVIDERS, onnx_session
from tests.commanding import complaint, run


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_provider_is_one_line_and_the_cpu_answers(provider: str, speech: Path) -> None:
    pytest.importorskip("onnxruntime")
    plain, other = run("predict", "--json", "--backend", "onnx", speech), run("predict", "--json", "--provider", provider, speech)
    assert other.returncode == 0
    assert other.stdout == plain.stdout
    (line,) = other.stderr.decode().splitlines()
    assert line.startswith(f"edge-ser: warning: provider {provider}: ")
    assert line.endswith("; answering on the CPU")
    assert "onnxruntime-gpu" in line


def test_the_recogniser_says_what_it_runs_on() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert EmotionRecognizer().provider == "cpu"
        assert not caught
        assert EmotionRecognizer(provider="cuda").provider == "cpu"
    assert [w.category for w in caught] == [RuntimeWarning]


class _Session:
    def __init__(self, content: bytes, options: object, providers: list[str], enable_fallback: int = 1) -> None:
        self.providers = providers
        if "TensorrtExecutionProvider" in providers:
            raise RuntimeError("no TensorRT libraries\nsecond line")

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"] if "CUDAExecutionProvider" in self.providers else self.providers


class _Gpu:
    """An ONNX Runtime built for GPUs on a machine without one: CUDA is dropped in silence, TensorRT raises."""

    __version__, __file__, InferenceSession = "9", "nowhere", _Session

    @staticmethod
    def get_available_providers() -> list[str]:
        return [*ONNX_PROVIDERS["tensorrt"], "CPUExecutionProvider"]

    @staticmethod
    def set_default_logger_severity(severity: int) -> None:
        pass


@pytest.mark.parametrize(("provider", "reason"), [("cuda", "did not start"), ("tensorrt", "no TensorRT libraries;")])
def test_a_provider_that_does_not_start_is_one_line(provider: str, reason: str) -> None:
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        session, used = onnx_session(_Gpu, b"", None, provider)
    assert (used, session.providers) == ("cpu", ["CPUExecutionProvider"])
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_unknown_providers_are_refused(speech: Path) -> None:
    assert "did you mean 'cuda'" in complaint(run("predict", "--provider", "cud", speech))
    for backend in ("tflite", "native"):
        with pytest.raises(BackendError, match="cpu alone"):
            EmotionRecognizer(backend=backend, provider="cuda")
