"""What the engines run on. No GPU and no accelerator here: what can be shown is their absence, and an idle delegate."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from edge_ser import BackendError, EmotionRecognizer
from edge_ser.engines.providers import ONNX_PROVIDERS, onnx_session
from tests.runtime.test_cli import COMMAND, complaint, run

IDLE_DELEGATE = """
#include <stddef.h>
#include <stdint.h>
/* TfLiteDelegate and the two functions of an external delegate, as LiteRT's C headers lay them out. */
struct delegate {
  void *data;
  int (*prepare)(void *, struct delegate *);
  void *copies[3];
  int64_t flags;
  void *builder;
};
static int prepare(void *context, struct delegate *self) { (void)context; (void)self; return 0; }
static struct delegate idle = {NULL, prepare, {NULL, NULL, NULL}, 1, NULL};
struct delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t n, void (*report)(const char *)) {
  (void)keys; (void)values; (void)n; (void)report;
  return &idle;
}
void tflite_plugin_destroy_delegate(struct delegate *self) { (void)self; }
"""


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
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(BackendError, match="path of a delegate"):
        EmotionRecognizer(backend="tflite", provider="cuda")


def test_a_delegate_that_cannot_be_loaded_is_one_line(speech: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    done = run("predict", "--backend", "tflite", "--provider", "libnosuch.so", speech)
    assert done.returncode == 0
    lines = [line for line in done.stderr.decode().splitlines() if "XNNPACK" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("edge-ser: warning: provider libnosuch.so: ")


def test_a_delegate_is_used(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler; install one with: apt-get install gcc")
    library = tmp_path / "libidle.so"
    source = library.with_suffix(".c")
    source.write_text(IDLE_DELEGATE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = (
        "import sys, numpy as np; from edge_ser import EmotionRecognizer\n"
        "r = EmotionRecognizer(backend='tflite', provider=sys.argv[1])\n"
        "print(r.provider, *r.predict((0.1 * np.sin(np.arange(16000)), 16000)).logits)"
    )
    done = [subprocess.run([COMMAND[0], "-c", code, p], capture_output=True, check=True, text=True) for p in (library, "cpu")]
    (used, *logits), (cpu, *plain) = (d.stdout.split() for d in done)
    assert (used, cpu) == (str(library), "cpu")
    # A delegate takes XNNPACK's place, so that these are the engine's plain kernels: they round otherwise, and answer alike.
    assert np.argmax([float(v) for v in logits]) == np.argmax([float(v) for v in plain])
