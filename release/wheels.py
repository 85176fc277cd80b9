"""The source distribution and a wheel for every platform, the C library inside, from one machine: make wheels.

One wheel of Python alone is built from the source distribution; for every platform zig compiles the library, which is packed
into a copy. The same sources give the same bytes: times are SOURCE_DATE_EPOCH's, by default the last commit's.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-shared", "-s")
_ELF = ("-fPIC", "-lm")
_MACHO = ("-fPIC", "-Wl,-install_name,@rpath/libeser.dylib")


@dataclass(frozen=True)
class Target:
    """A platform that a wheel is built for."""

    tags: tuple[str, ...]
    """Of the wheel, pip's names."""
    triple: str
    """zig's name."""
    library: str
    """Name of the library in the package, as ``edge_ser.engines.clib`` looks for it."""
    machine: tuple[str, int]
    """File format of the library, and the processor in its header."""
    flags: tuple[str, ...]


def _linux(arch: str, triple: str, machine: int) -> Target:
    return Target((f"manylinux_2_17_{arch}", f"manylinux2014_{arch}"), f"{triple}.2.17", "libeser.so", ("ELF", machine), _ELF)


TARGETS = (
    _linux("x86_64", "x86_64-linux-gnu", 62),
    _linux("aarch64", "aarch64-linux-gnu", 183),
    _linux("armv7l", "arm-linux-gnueabihf", 40),
    Target(("macosx_11_0_arm64",), "aarch64-macos.11.0", "libeser.dylib", ("Mach-O", 0x0100000C), _MACHO),
    Target(("macosx_10_13_x86_64",), "x86_64-macos.10.13", "libeser.dylib", ("Mach-O", 0x01000007), _MACHO),
    Target(("win_amd64",), "x86_64-windows-gnu", "libeser.dll", ("PE", 0x8664), ()),
)


def machine_of(library: bytes) -> tuple[str, int]:
    """Return a library's file format and the processor that its header names."""
    if library[:4] == b"\x7fELF":
        return "ELF", struct.unpack_from("<H", library, 18)[0]
    if library[:4] == b"\xcf\xfa\xed\xfe":
        return "Mach-O", struct.unpack_from("<I", library, 4)[0]
    if library[:2] == b"MZ":
        return "PE", struct.unpack_from("<H", library, struct.unpack_from("<I", library, 60)[0] + 4)[0]
    return "unknown", 0


def compiled(target: Target, csrc: Path, folder: Path) -> bytes:
    """Compile the sources in ``csrc`` for a target; SystemExit where the compiler fails or answers with something else."""
    library = folder / target.library
    sources = sorted(path.name for path in csrc.glob("*.c"))
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        target.triple,
        *FLAGS,
        *sources,
        "-o",
        str(library),
        *target.flags,
    ]
    done = subprocess.run(command, cwd=csrc, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.triple}: the compiler failed\n{done.stderr[-2000:]}")
    content = library.read_bytes()
    if machine_of(content) != target.machine or b"eser_sizes" not in content:
        raise SystemExit(f"{target.triple}: the library is for {machine_of(content)}; expected {target.machine}, with eser_sizes")
    return content


def sbom(metadata: str, files: dict[str, bytes]) -> bytes:
    """Return what a wheel holds and asks for, as CycloneDX 1.6: library and models by SHA-256, dependencies by requirement."""
    told = Parser().parsestr(metadata)
    name, version, licence = told["Name"], told["Version"], {"license": {"id": "Apache-2.0"}}
    ours = f"pkg:pypi/{name}@{version}"
    parts: list[dict[str, Any]] = [
        {
            "type": "machine-learning-model" if "/model/files/" in path else "library",
            "bom-ref": path,
            "name": path,
            "version": version,
            "licenses": [licence],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
        }
        for path, content in sorted(files.items())
        if path.endswith((".so", ".dylib", ".dll", ".eser", ".onnx", ".tflite"))
    ]
    for line in told.get_all("Requires-Dist") or []:
        if "extra ==" not in line:
            package = line.split(";")[0].strip(" ").split("<")[0].split(">")[0].split("!")[0].split("=")[0]
            requirement = {"name": "requirement", "value": line}
            parts.append(
                {"type": "library", "bom-ref": f"pkg:pypi/{package}", "name": package, "purl": f"pkg:pypi/{package}"}
                | {"scope": "required", "properties": [requirement]}
            )
    component = {"type": "library", "bom-ref": ours, "name": name, "version": version, "purl": ours, "licenses": [licence]}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts))}",
        "version": 1,
        "metadata": {"component": component},
        "components": parts,
        "dependencies": [{"ref": ours, "dependsOn": [str(part["bom-ref"]) for part in parts]}],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def packed(pure: Path, target: Target, library: bytes, out: Path, epoch: int) -> Path:
    """Write the wheel of a target: what is in the wheel ``pure``, the library, the SBOM; return its path."""
    with zipfile.ZipFile(pure) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    info = next(name.partition("/")[0] for name in files if name.endswith(".dist-info/WHEEL"))
    for wanted in ("licenses/LICENSE", "licenses/NOTICE", "METADATA"):
        if f"{info}/{wanted}" not in files:
            raise SystemExit(f"{pure.name} has no {wanted}")
    if any(path.endswith((".so", ".dylib", ".dll")) for path in files):
        raise SystemExit(f"{pure.name} holds a library already; expected Python alone")
    files[f"edge_ser/{target.library}"] = library
    tag = f"py3-none-{'.'.join(target.tags)}"
    kept = [line for line in files[f"{info}/WHEEL"].decode().splitlines() if line and not line.startswith(("Tag", "Root"))]
    tags = [f"Tag: py3-none-{name}" for name in target.tags]
    files[f"{info}/WHEEL"] = "\n".join([*kept, "Root-Is-Purelib: false", *tags, ""]).encode()
    files[f"{info}/sboms/edge-ser.cdx.json"] = sbom(files[f"{info}/METADATA"].decode(), files)
    del files[f"{info}/RECORD"]
    rows = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    path = out / f"{info.removesuffix('.dist-info')}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # The wheel's own description comes last, as the format asks for.
        for name in sorted(files, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (0o100755 if name == f"edge_ser/{target.library}" else 0o100644) << 16
            archive.writestr(entry, files[name])
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def build(out: Path, targets: tuple[Target, ...], epoch: int) -> list[Path]:
    """Write the source distribution and the targets' wheels into ``out``; return their paths."""
    from scikit_build_core.build import build_sdist, build_wheel

    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    sdist = out / build_sdist(str(out))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch)
        (source,) = scratch.iterdir()
        os.chdir(source)
        pure = scratch / build_wheel(str(scratch), {"wheel.cmake": "false"})
        written = [sdist]
        for target in targets:
            library = compiled(target, source / "edge_ser" / "csrc", scratch)
            written.append(packed(pure, target, library, out, epoch))
        os.chdir(ROOT)
    return written


def _epoch() -> int:
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
        told = done.stdout.strip()
    if not told.isdecimal() or int(told) < 315532800:  # zip knows no time before 1980
        raise SystemExit(f"SOURCE_DATE_EPOCH is {told!r}; expected seconds since 1970, from 1980 on (or a git checkout)")
    return int(told)


def main() -> None:
    """Build what was asked for and print names, sizes and hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {target.tags[0]: target for target in TARGETS}
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    unknown = [name for name in given.targets if name not in names]
    if unknown:
        parser.error(f"unknown target {unknown[0]}; expected one of {', '.join(names)}")
    for path in build(given.output, tuple(names[name] for name in given.targets or names), _epoch()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size / 1e6:.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
