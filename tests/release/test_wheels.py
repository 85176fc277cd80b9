from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_ser.engines import clib
from release.wheels import TARGETS, machine_of
from tests.conftest import ROOT
from tests.needs import need

pytestmark = pytest.mark.slow


def test_every_platform_has_a_wheel_with_its_library_licence_and_parts_list(dist: Path) -> None:
    built = sorted(dist.iterdir())
    wheels = [path for path in built if path.suffix == ".whl"]
    assert len(wheels) == len(TARGETS) == 6
    assert [path.suffixes[-2:] for path in built if path not in wheels] == [[".tar", ".gz"]]
    for target in TARGETS:
        (wheel,) = (path for path in wheels if path.stem.endswith(".".join(target.tags)))
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        libraries = [name for name in files if name.endswith((".so", ".dylib", ".dll"))]
        assert libraries == [f"edge_ser/{target.library}"]
        library = files[libraries[0]]
        assert machine_of(library) == target.machine
        info = next(name.partition("/")[0] for name in files if ".dist-info/" in name)
        assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} < set(files)
        assert b"Root-Is-Purelib: false" in files[f"{info}/WHEEL"]
        recorded = {row[0] for row in csv.reader(io.StringIO(files[f"{info}/RECORD"].decode()))}
        assert recorded == set(files)
        parts = json.loads(files[f"{info}/sboms/edge-ser.cdx.json"])
        digests = {part["name"]: part["hashes"][0]["content"] for part in parts["components"] if "hashes" in part}
        assert digests[libraries[0]] == hashlib.sha256(library).hexdigest()
        assert {"numpy", "scipy", "onnxruntime", "soundfile", "soxr", "click"} < {part["name"] for part in parts["components"]}


def test_the_same_sources_give_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    kinds = [TARGETS[i].tags[0] for i in (0, 3, 5)]  # one of each format of libraries
    subprocess.run([sys.executable, "release/wheels.py", "-o", tmp_path, *kinds], cwd=ROOT, check=True, capture_output=True)
    again = sorted(tmp_path.iterdir())
    assert len(again) >= len(kinds)
    for path in again:
        assert path.read_bytes() == (dist / path.name).read_bytes(), path.name


def test_a_library_by_zig_has_this_processors_kernels_and_the_same_bits(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*manylinux_2_17_x86_64*.whl")
    with zipfile.ZipFile(wheel) as archive:
        library = clib.bind(Path(archive.extract("edge_ser/libeser.so", tmp_path)))
    installed = clib.load_library()
    assert clib.kernels(library) == clib.kernels(installed)
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    ours, theirs = (clib.features(found, clib.kernel_in_use(found)[0], noise) for found in (library, installed))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("system", [("Linux", "libeser.so"), ("Darwin", "libeser.dylib"), ("Windows", "libeser.dll")])
def test_a_build_from_source_installs_the_library_that_python_looks_for(system: tuple[str, str], tmp_path: Path) -> None:
    need("cmake", "gcc")
    options = [f"-DCMAKE_SYSTEM_NAME={system[0]}", "-DCMAKE_C_COMPILER=gcc", "-DCMAKE_C_COMPILER_WORKS=1"]
    options.append("-DCMAKE_INSTALL_NAME_TOOL=true")  # which configuring for macOS looks for
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Unix Makefiles", *options], check=True, capture_output=True)
    installed = (tmp_path / "cmake_install.cmake").read_text()
    assert f'/edge_ser" TYPE MODULE FILES "{tmp_path}/{system[1]}"' in installed
    assert system[1] in {target.library for target in TARGETS}


def test_an_unknown_target_is_named() -> None:
    command = [sys.executable, "release/wheels.py", "amiga"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown target amiga" in done.stderr
