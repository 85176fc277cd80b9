"""What ONNX Runtime runs a graph on: the CPU unless a GPU is asked for and really there.

A provider that is missing or does not start is no reason to stop: the CPU answers instead, a RuntimeWarning of one line says so
and why, and ``backend.provider`` tells what is used.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

from edge_ser.errors import BackendError, did_you_mean, first_line

ONNX_PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
"""ONNX Runtime's execution providers, in the order in which they may take a node; the CPU takes what they leave."""

_CPU = "CPUExecutionProvider"
FATAL, _WARNING = 4, 2
"""Severities of ONNX Runtime's own log; 2 is its default."""


def onnx_session(ort: Any, content: bytes, options: Any, provider: str) -> tuple[Any, str]:
    """Load the graph ``content`` on ``provider``; return the session and the provider that it really has.

    Raises BackendError for an unknown provider, and what ONNX Runtime raises for a graph that it refuses.
    """
    if provider not in ONNX_PROVIDERS:
        raise BackendError(
            f"unknown provider {provider!r}{did_you_mean(provider, ONNX_PROVIDERS)}; ONNX Runtime expects one of "
            f"{', '.join(ONNX_PROVIDERS)}"
        )
    if provider != "cpu":
        wanted = ONNX_PROVIDERS[provider]
        available = ort.get_available_providers()
        if wanted[0] in available:
            session, reason = _try(ort, content, options, wanted)
            if session is not None:
                return session, provider
        else:
            have = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
            reason = f"this ONNX Runtime ({ort.__version__}) has {have}; install onnxruntime-gpu in its place"
        warnings.warn(f"provider {provider}: {reason}; answering on the CPU", RuntimeWarning, stacklevel=2)
    # With its fallback it prints a refused graph's error on standard output, and tries once more.
    return ort.InferenceSession(content, options, providers=[_CPU], enable_fallback=0), "cpu"


def _try(ort: Any, content: bytes, options: Any, wanted: tuple[str, ...]) -> tuple[Any, str]:
    """Return a session on ``wanted``, or None and why there is none; ONNX Runtime itself would say it in many lines."""
    failure = "it did not start (is there a GPU, and a driver for it?)"
    ort.set_default_logger_severity(FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if hasattr(ort, "preload_dlls"):  # CUDA's libraries may lie in pip's packages
                ort.preload_dlls()
            session = ort.InferenceSession(content, options, providers=[*wanted, _CPU], enable_fallback=0)
        if wanted[0] in session.get_providers():
            return session, ""
    except Exception as error:  # the engine's exceptions share no narrower base
        failure = first_line(error)
    finally:
        ort.set_default_logger_severity(_WARNING)
    library = f"libonnxruntime_providers_{wanted[0].removesuffix('ExecutionProvider').lower()}.so"
    missing = _missing_libraries(Path(ort.__file__).parent / "capi" / library)
    return None, f"{', '.join(missing)} not found" if missing else failure


def _missing_libraries(library: Path) -> list[str]:
    """Return the shared libraries that ``library`` needs and the dynamic linker does not find."""
    import shutil
    import subprocess

    if shutil.which("ldd") is None or not library.is_file():
        return []
    lines = subprocess.run(["ldd", library], capture_output=True, text=True, check=False).stdout.splitlines()
    return [line.split()[0] for line in lines if "not found" in line and "libonnxruntime" not in line]
