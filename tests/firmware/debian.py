"""Debian for other processors, unpacked from its packages, no chroot and no kernel; its Python runs in QEMU.

What is fetched lies in EDGE_SER_BOARDS (default ~/.cache/edge-ser-boards), and is fetched once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.firmware.targets import execute

CACHE = Path(os.environ.get("EDGE_SER_BOARDS") or Path.home() / ".cache" / "edge-ser-boards")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Debian:
    """A root folder to be: what is in it."""

    architecture: str
    """Debian's name of the processor."""
    triplet: str
    """Debian's name of its folder of libraries."""
    suites: tuple[str, ...]
    """Where packages come from, the suite that is installed first."""
    python: str
    """Version of its Python."""
    packages: tuple[str, ...]
    """Installed with what they need."""
    alone: tuple[str, ...] = ()
    """Unpacked without what they need."""
    cpuinfo: str = ""
    """Without one, libraries under the emulator read this machine's and take it for what they run on."""

    def root(self) -> Path:
        """Return the folder, filled if it is not there."""
        texts = (self.architecture, *self.suites, *self.packages, *self.alone, self.cpuinfo)
        return once(f"root-{self.architecture}-{digest(*texts)}", self._fill)

    def _fill(self, folder: Path) -> None:
        apt = folder / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        line = f"deb [signed-by={_KEYRING}] http://deb.debian.org/debian {{}} main\n"
        (apt / "sources.list").write_text("".join(map(line.format, self.suites)))
        options = [
            f"Dir::State={apt / 'state'}",
            f"Dir::State::status={apt / 'status'}",
            f"Dir::Cache={apt / 'cache'}",
            f"Dir::Etc::sourcelist={apt / 'sources.list'}",
            "Dir::Etc::sourceparts=-",
            f"APT::Architecture={self.architecture}",
            f"APT::Architectures::={self.architecture}",
            f"APT::Default-Release={self.suites[0]}",
            "APT::Sandbox::User=root",
            "APT::Install-Recommends=false",
        ]
        apt_get = ["apt-get", "--quiet", "--yes", *(word for option in options for word in ("-o", option))]
        call(*apt_get, "update")
        call(*apt_get, "install", "--download-only", *self.packages)
        if self.alone:
            call("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", apt / "cache" / "archives", *apt_get, "download", *self.alone)
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            call("dpkg-deb", "--extract", package, folder)
        shutil.rmtree(apt)
        if not (folder / "lib").exists():  # Debian 13 keeps no library there; programs name their loader by it
            (folder / "lib").symlink_to("usr/lib")
        (folder / "proc").mkdir(exist_ok=True)
        (folder / "proc" / "cpuinfo").write_text(self.cpuinfo)

    def run(self, processor: Sequence[str], path: Sequence[Path], *arguments: str | Path) -> str:
        """Run its Python on an emulated processor, with packages in the folders of ``path``; return what it wrote."""
        root = self.root()
        libraries = root / "usr" / "lib" / self.triplet
        environment = {
            "PYTHONPATH": ":".join(map(str, path)),
            "QEMU_LD_PREFIX": str(root),
            "OMP_NUM_THREADS": "1",
            "LC_ALL": "C.UTF-8",
            # Nothing is configured, so no link leads to these.
            "LD_LIBRARY_PATH": f"{libraries / 'blas'}:{libraries / 'lapack'}",
        }
        words: list[str | Path] = ["env", "-i", *(f"{k}={v}" for k, v in environment.items()), *processor]
        # -P: this source tree, where the command runs, is not what was installed.
        return execute([*words, root / "usr" / "bin" / f"python{self.python}", "-P", *arguments])


def once(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache, filled if it is not there; never half filled."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            fill(fresh)
            if not folder.is_dir():  # nobody else was faster
                fresh.rename(folder)
    return folder


def call(*command: str | Path, **environment: str) -> None:
    """Run a command; RuntimeError with the end of what it wrote where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=os.environ | environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout.decode()[-3000:]}")


def digest(*texts: str) -> str:
    """Return a name for what the texts describe."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
