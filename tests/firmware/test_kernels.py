"""Every set of SIMD kernels gives the bits of plain C: on this processor, and on emulated Arm."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from edge_ser.engines.clib import SOURCES
from tests.needs import tool

PROGRAM = Path(__file__).with_name("kernels.c")
SANITISED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiled(compiler: str, output: Path, *flags: str, sources: Path = SOURCES) -> Path:
    command = [
        compiler,
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffp-contract=off",
        f"-I{sources}",
        *flags,
        *map(str, (*sorted(sources.glob("*.c")), PROGRAM)),
    ]
    done = subprocess.run([*command, "-lm", "-o", str(output)], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return output


def kernels(*command: str | Path) -> list[str]:
    """Run the program; return the sets that it compared."""
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [("-O3",), pytest.param(SANITISED, marks=pytest.mark.slow)])
def test_kernels_of_this_processor(tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    found = kernels(compiled(tool(compiler), tmp_path / "kernels", *flags))
    flags_of_processor = Path("/proc/cpuinfo").read_text().split()
    assert found[0] == "scalar"
    for flag, name in (("avx2", "avx2"), ("avx_vnni", "avxvnni"), ("avx512_vnni", "avx512vnni"), ("asimddp", "dotprod")):
        assert (flag in flags_of_processor) == (name in found)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-VNNI is for x86-64")
@pytest.mark.parametrize(("compiler", "version"), [("gcc", "__GNUC__=10"), ("clang", "__clang_major__=11")])
def test_a_compiler_without_avx_vnni_has_the_other_kernels(tmp_path: Path, compiler: str, version: str) -> None:
    posing = (f"-U{version.partition('=')[0]}", f"-D{version}")
    program = compiled(tool(compiler), tmp_path / "kernels", "-O1", *posing)
    found = kernels(program)
    assert "avxvnni" not in found
    assert ("avx2" in Path("/proc/cpuinfo").read_text().split()) == ("avx2" in found)
    assert b"avxvnni" not in program.read_bytes()


def test_without_simd_there_is_plain_c(tmp_path: Path) -> None:
    assert kernels(compiled(tool("gcc"), tmp_path / "kernels", "-O2", "-DESER_NO_SIMD")) == ["scalar"]


@pytest.mark.slow
@pytest.mark.parametrize(("processor", "expected"), [("cortex-a53", "scalar neon"), ("cortex-a76", "scalar neon dotprod")])
def test_kernels_of_arm(tmp_path: Path, processor: str, expected: str) -> None:
    emulator = tool("qemu-aarch64-static")
    program = compiled(tool("aarch64-linux-gnu-gcc"), tmp_path / "kernels", "-O2", "-static")
    assert kernels(emulator, "-cpu", processor, program) == expected.split()


@pytest.mark.skipif("avx512_vnni" not in Path("/proc/cpuinfo").read_text().split(), reason="its stand-in is AVX-512 VNNI")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_kernels_of_avx_vnni_in_the_encoding_of_avx_512(tmp_path: Path, compiler: str) -> None:
    """A processor with AVX-512 VNNI has AVX-VNNI's instructions in another encoding: the same C, compiled for that."""
    for source in SOURCES.glob("*.[ch]"):
        text = source.read_text(encoding="utf-8").replace('"avx2,avxvnni"', '"avx2,avx512vl,avx512vnni"')
        text = text.replace("dpbusd_avx_epi32", "dpbusd_epi32").replace("dpwssd_avx_epi32", "dpwssd_epi32")
        # CPUID's word on AVX-VNNI is AVX-512 VNNI's here.
        text = text.replace("a >= 1 && __get_cpuid_count(7, 1, &others, &a, &a, &d) && others >> 4 & 1", "(others = c) >> 11 & 1")
        (tmp_path / source.name).write_text(text, encoding="utf-8")
    assert "avxvnni" in kernels(compiled(tool(compiler), tmp_path / "kernels", "-O3", sources=tmp_path))
