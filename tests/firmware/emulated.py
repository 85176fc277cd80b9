"""The wheels installed on emulated boards, against this machine: python -m tests.firmware.emulated RECORDING...

On 64-bit Arm Debian 12's Python takes the wheels that pip would install there. On 32-bit Arm, where ONNX Runtime has none,
Debian 13's own pip installs edge-ser's wheel beside Debian's numpy, scipy, soundfile and soxr.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.firmware.debian import Debian, call, digest, once
from tests.firmware.targets import A53, A76, ARM7, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOOLS = ("qemu-aarch64-static", "qemu-arm-static", "apt-get", "dpkg-deb")
EXACT = "native"
"""The engine whose logits and embedding have the same bits everywhere."""

# The boards of which libraries under the emulator read: a Raspberry Pi 4, and a Zero 2 W with a 32-bit system.
_CPUINFO = {
    "arm64": "Features\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd08\n\n",
    "armhf": "Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32\n"
    "CPU implementer\t: 0x41\nCPU architecture: 7\nCPU part\t: 0xd03\n\n",
}
ARM64 = Debian(
    "arm64",
    "aarch64-linux-gnu",
    ("bookworm", "trixie"),
    "3.11",
    ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgcc-s1", "zlib1g"),
    ("libonnxruntime-dev",),  # of Debian 13, for the C++ example; the header alone, not the libraries it would pull in
    "".join(f"processor\t: {i}\nBogoMIPS\t: 108.00\n{_CPUINFO['arm64']}" for i in range(2)),
)
ARMHF = Debian(
    "armhf",
    "arm-linux-gnueabihf",
    ("trixie",),
    "3.13",
    tuple(f"python3-{name}" for name in ("minimal", "numpy", "scipy", "soundfile", "soxr", "click", "packaging", "pip")),
    cpuinfo="".join(f"processor\t: {i}\nBogoMIPS\t: 38.40\n{_CPUINFO['armhf']}" for i in range(2)),
)
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")

_PROBE = """
import hashlib, json, platform, sys, edge_ser
from importlib.util import find_spec
from edge_ser import EmotionRecognizer
print(json.dumps([edge_ser.__file__, platform.machine(), find_spec("onnxruntime") is not None]))
for backend in sys.argv[1].split(","):
    recognizer = EmotionRecognizer(backend=backend)
    for recording in sys.argv[2:]:
        answer = recognizer.predict(recording)
        bits = hashlib.sha256(answer.logits.tobytes() + answer.embedding.tobytes()).hexdigest()
        print(json.dumps([backend, recording, answer.label, list(map(float, answer.probabilities.values())), bits]), flush=True)
"""


@dataclass(frozen=True)
class Installed:
    """The package as it is installed on a board."""

    system: Debian
    path: tuple[Path, ...]
    """Folders of packages: edge-ser's own first."""
    has_onnxruntime: bool

    def answers(self, processor: Sequence[str], backends: Sequence[str], recordings: Sequence[Path]) -> list[Any]:
        """Return [backend, recording, label, probabilities, hash of logits and embedding] of each, on an emulated processor."""
        output = self.system.run(processor, self.path, "-c", _PROBE, ",".join(backends), *recordings)
        first, *lines = (json.loads(line) for line in output.splitlines())
        machine = {"arm64": "aarch64", "armhf": "armv7l"}[self.system.architecture]
        if not first[0].startswith(f"{self.path[0]}/") or first[1:] != [machine, self.has_onnxruntime]:
            raise RuntimeError(
                f"the board tells {first}; expected a package in {self.path[0]}, {machine}, {self.has_onnxruntime}"
            )
        return list(lines)

    def command(self, processor: Sequence[str], *arguments: str | Path) -> str:
        """Run ``edge-ser`` on an emulated processor; return what it wrote."""
        return self.system.run(processor, self.path, "-c", "from edge_ser.cli import main; main()", *arguments)


def dependencies() -> Path:
    """Return a folder with the wheels that the package and its extra ``tflite`` need on 64-bit Arm, resolved by pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["tflite"]]
    return once(f"wheels-{digest(*required, *_PLATFORMS)}", lambda folder: _unpack(folder, *required))


def _unpack(folder: Path, *wanted: str | Path) -> None:
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    wheels = ["--only-binary=:all:", "--python-version", ARM64.python, "--implementation", "cp", *platforms]
    call(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", folder, *wheels, *wanted)


def on_64_bits(wheel: Path, folder: Path) -> Installed:
    """Install the wheel for aarch64 into ``folder``, with all it depends on."""
    _unpack(folder, "--no-deps", wheel)
    return Installed(ARM64, (folder, dependencies()), has_onnxruntime=True)


def on_32_bits(wheel: Path, folder: Path) -> Installed:
    """Install the wheel for armv7l into ``folder`` by the board's own pip, which sees what Debian has and nothing else."""
    options = ("--quiet", "--no-index", "--no-cache-dir", "--no-compile", "--prefix", folder)
    ARMHF.run(ARM7, (), "-m", "pip", "install", *options, wheel)
    (package,) = folder.rglob("edge_ser/__init__.py")
    return Installed(ARMHF, (package.parents[1],), has_onnxruntime=False)


BOARDS = {
    "aarch64, Cortex-A53": (A53, on_64_bits, ("onnx", "tflite", "native")),
    "aarch64, Cortex-A76": (A76, on_64_bits, ("onnx", "tflite", "native")),
    "armv7l, Cortex-A7": (ARM7, on_32_bits, ("native",)),
}
"""Processor, how the wheel is installed, engines."""


def differences(board: str, installed: Installed, recordings: Sequence[Path], say: Callable[[str], None]) -> Iterator[str]:
    """Answer on a board; yield what is not as on this machine: a label, or any bit of the C library's answers."""
    from edge_ser import EmotionRecognizer

    processor, _, backends = BOARDS[board]
    here = {b: EmotionRecognizer(backend=b) for b in backends}
    expected = {(b, str(r)): here[b].predict(r) for b in backends for r in recordings}
    found = installed.answers(processor, backends, recordings)
    if [(backend, recording) for backend, recording, *_ in found] != list(expected):
        raise RuntimeError(f"{board}: {len(found)} answers, or others than asked for; expected {len(expected)}")
    for backend, recording, label, probabilities, bits in found:
        other = expected[backend, recording]
        same = bits == hashlib.sha256(other.logits.tobytes() + other.embedding.tobytes()).hexdigest()
        apart = max(abs(p - q) for p, q in zip(probabilities, other.probabilities.values(), strict=True))
        line = f"{board:21}{backend:8}{Path(recording).name:32}{label:10}{other.label:10}{apart:.1e}  {'yes' if same else 'no'}"
        say(line)
        if label != other.label or (backend == EXACT and not same):
            yield line


def _main(recordings: Sequence[Path]) -> int:
    print(f"{'board':21}{'engine':8}{'recording':32}{'there':10}{'here':10}apart    same bits")
    differing: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        targets = ("manylinux_2_17_aarch64", "manylinux_2_17_armv7l")
        subprocess.run([sys.executable, "release/wheels.py", "-o", scratch, *targets], cwd=ROOT, check=True, capture_output=True)
        for i, (board, (_, install, _)) in enumerate(BOARDS.items()):
            (wheel,) = scratch.glob(f"*_{board.partition(',')[0]}.whl")
            installed = install(wheel, scratch / str(i))
            differing += differences(board, installed, recordings, lambda line: print(line, flush=True))
    print(f"{len(differing)} answers differ")
    return bool(differing)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(_main([Path(x).resolve() for x in sys.argv[1:]]))
