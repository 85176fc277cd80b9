"""The C library with an exported model, built by this machine's compiler and driven as a backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.engines import clib
from edge_ser.engines.clib import SOURCES, Model, Stream
from edge_ser.engines.native import NativeBackend
from edge_ser.errors import ExportError
from edge_ser.frontend.features import LOGMEL_V1, extract

FLAGS = ("-std=c99", "-O3", "-ffp-contract=off")
FEATURE_TOLERANCE_DB = 0.05
"""Largest difference between a feature in C and in numpy, for speech."""


def compiler() -> str:
    """Return the C compiler: CC, or cc; ExportError where there is none."""
    name = os.environ.get("CC") or "cc"
    if shutil.which(name) is None:
        raise ExportError(
            f"--format c builds and runs what it writes, and there is no C compiler {name!r}; install one ({clib.COMPILER}) "
            "or set CC"
        )
    return name


def compiler_version() -> str:
    """Return the first line of what the compiler says of itself."""
    done = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or [compiler()])[0]


_compiling = Lock()  # a second thread's objects would take the place of the first one's, and remove them


@cache
def _objects(name: str, flags: tuple[str, ...]) -> tempfile.TemporaryDirectory[str]:
    """Compile the library's own sources, which every model shares, once a process; its end removes them."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    for source in SOURCES.glob("*.c"):
        _compile([name, *flags, "-fPIC", "-c", str(source), "-o", f"{folder.name}/{source.stem}.o"], "the library's sources")
    return folder


def _compile(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if "error" in x] or done.stderr.splitlines() or ["no message"]
        raise ExportError(f"the C compiler {command[0]} refused {what}: {lines[0]}")


def build(folder: Path, output: Path, *flags: str) -> Path:
    """Compile the library with the model in ``folder``, and the person if any, into the shared library ``output``; return it."""
    name, flags = compiler(), flags or FLAGS
    person = (folder / "eser_person.c",) if (folder / "eser_person.c").is_file() else ()
    with _compiling:
        objects = sorted(Path(_objects(name, flags).name).iterdir())
    parts = [str(p) for p in (folder / "eser_model.c", *person, *objects)]
    includes = (f"-I{SOURCES}", f"-I{folder}")
    _compile([name, *flags, "-shared", "-fPIC", *includes, *parts, "-lm", "-o", str(output)], "the exported model")
    return output


class CModel(NativeBackend):
    """The model that a library of exported sources holds, by the native engine's functions; its streams are the firmware's."""

    def __init__(self, library: Path) -> None:
        self.library = clib.bind(library)
        self._use(self.library, Model.in_dll(self.library, "eser_default_model"))
        self.state_bytes = self.stream().n_bytes

    @classmethod
    def of_sources(cls, folder: Path) -> CModel:
        """Build and load the model whose sources lie in ``folder``; ExportError when they do not compile."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows keeps what is loaded
            return cls(build(folder, Path(scratch) / "model.so"))

    def stream(self) -> Stream:
        """Begin a stream."""
        return Stream(self.library)

    def features(self, samples: Float32Array) -> Float32Array:
        """Return the features of samples [n], 16 kHz, in dB, [T, 128]."""
        return clib.features(self.library, clib.kernel_in_use(self.library)[0], samples)


def require_same_in_chunks(model: CModel) -> None:
    """Hold the C front end against numpy's, and streams in random chunks against the whole; ExportError if they differ."""
    rng = np.random.default_rng(0)
    for seconds in (0.3, 0.52, 3.21, 16.0):
        # Noise whose colour and level wander, as int16, which both take exactly.
        noise = np.cumsum(rng.standard_normal(int(16000 * seconds))) * rng.uniform(0, 1)
        noise = noise - np.convolve(noise, np.ones(50) / 50, mode="same") + 0.3 * rng.standard_normal(len(noise))
        samples = np.rint(2000 * noise).clip(-32768, 32767).astype(np.int16)
        floats = (samples / 32768).astype(np.float32)
        if len(samples) >= LOGMEL_V1.min_samples:
            expected = extract(floats[: 14 * 16000])
            error = float(np.abs(model.features(floats[: 14 * 16000]) - expected)[: len(expected)].max())
            if not error <= FEATURE_TOLERANCE_DB:
                raise ExportError(f"the C front end differs from numpy's by {error:.2g} dB; expected {FEATURE_TOLERANCE_DB} dB")
        whole, parts = model.stream(), model.stream()
        whole.feed(floats)
        position = 0
        while position < len(samples):
            n = int(rng.choice([1, 37, 160, 1000, 5000]))
            parts.feed((samples if rng.integers(2) else floats)[position : position + n])
            position += n
            if position >= LOGMEL_V1.min_samples and rng.integers(8) == 0:
                parts.estimate()
        result = whole.finish()
        if result.integers() != parts.finish().integers():
            raise ExportError(f"the C stream answers otherwise in chunks than as a whole ({seconds} s of noise)")
        if LOGMEL_V1.min_samples <= len(samples) <= 14 * 16000:
            answer = model.run(model.features(floats))
            if [*result.logits[: result.n_labels], *result.embedding] != [*answer.logits.tolist(), *answer.embedding.tolist()]:
                raise ExportError(f"the C stream answers otherwise than the functions it is made of ({seconds} s of noise)")
