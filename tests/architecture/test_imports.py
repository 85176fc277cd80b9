from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorflow",
    "scipy",
    "soundfile",
    "soxr",
    "matplotlib",
    "click",
    "edge_ser_train",
)


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    code = f"import edge_ser, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_predicting_never_loads_the_training_side(backend: str) -> None:
    code = (
        "import sys, numpy as np\n"
        "from edge_ser import EmotionRecognizer\n"
        f"EmotionRecognizer(backend={backend!r}).predict((0.1 * np.sin(np.arange(16000)), 16000))\n"
        "print([n for n in ('torch', 'onnx', 'tensorflow', 'matplotlib', 'edge_ser_train') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
