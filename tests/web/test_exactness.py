"""WebAssembly gives the bits of native C, with its SIMD kernels and with plain C."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ser.model.c_source import source_of
from tests.firmware.exactness import PROGRAM, clip_source, hashes
from tests.firmware.targets import LINUXES
from tests.firmware.test_kernels import PROGRAM as KERNELS
from tests.needs import need_module
from tests.web.node import run_wasi
from web.build import compiled


def test_simd_kernels_give_the_bits_of_plain_c(tmp_path: Path) -> None:
    need_module("ziglang")
    compiled(tmp_path / "kernels.wasm", [KERNELS])
    assert run_wasi(tmp_path / "kernels.wasm").split() == ["scalar", "wasm"]


def test_features_network_and_answers_are_those_of_native_c(tmp_path: Path) -> None:
    need_module("ziglang")
    source_of().write(tmp_path)
    sources = [PROGRAM, clip_source(tmp_path), tmp_path / "eser_model.c"]
    compiled(tmp_path / "exactness.wasm", sources, f"-I{tmp_path}")
    found = [tuple(line.split()) for line in run_wasi(tmp_path / "exactness.wasm").splitlines()]
    assert [row[0] for row in found] == ["scalar", "wasm"]
    (tmp_path / "native").mkdir()
    native = hashes(LINUXES[0], tmp_path, tmp_path / "native")
    assert {row[1:] for row in found} == {row[1:] for row in native}


@pytest.mark.timing
def test_simd_is_four_times_as_fast_as_what_the_compiler_makes_of_plain_c(tmp_path: Path) -> None:
    """Both kernels lie in one module, built with SIMD; processor time, side by side in one run."""
    import subprocess

    from web.build import wasm

    need_module("ziglang")
    (tmp_path / "eser.wasm").write_bytes(wasm())
    script = Path(__file__).with_name("speed.mjs")
    done = subprocess.run(["node", "--no-liftoff", script, tmp_path / "eser.wasm"], capture_output=True, text=True, check=True)
    plain_ms, simd_ms = map(float, done.stdout.split())
    assert plain_ms / simd_ms >= 4
