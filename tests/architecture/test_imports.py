from __future__ import annotations

import pytest

from tests.commanding import python

HEAVY = ("torch", "onnx", "onnxruntime", "tensorflow", "scipy", "soundfile", "soxr", "matplotlib", "click", "edge_ser_train")
NEVER = ("torch", "onnx", "tensorflow", "matplotlib", "edge_ser_train")
OF_SCIPY = ("scipy", "scipy.fft", "scipy.sparse", "scipy.special", "numpy.f2py")


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    assert python(f"import edge_ser, sys; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]\n"


@pytest.mark.parametrize(("backend", "more"), [("auto", ()), ("onnx", ()), ("native", ("onnxruntime", "soxr"))])
def test_answering_loads_neither_the_training_side_nor_a_package_of_scipy(
    backend: str, more: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    if backend == "native":
        request.getfixturevalue("native_library")
    code = (
        "import sys, numpy as np\n"
        "from edge_ser import EmotionRecognizer\n"
        f"r = EmotionRecognizer(backend={backend!r})\n"
        "r.predict((0.1 * np.sin(np.arange(16000)), 16000))\n"
        "with r.stream() as s:\n"
        "    s.feed(0.1 * np.sin(np.arange(16000)))\n"
        "    s.finish()\n"
        f"print([name for name in {(*NEVER, *OF_SCIPY, *more)!r} if name in sys.modules])"
    )
    assert python(code) == "[]\n"
