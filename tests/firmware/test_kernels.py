"""Every set of SIMD kernels gives the bits of plain C: on this processor, on emulated Arm and on emulated tiles of AMX."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_ser.engines import clib
from edge_ser.engines.clib import SOURCES
from edge_ser.engines.native import NativeBackend
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import LOGMEL_V1
from edge_ser.model.manifest import read_model_file, shipped_model_path
from tests.firmware.exactness import SPEECH
from tests.firmware.targets import EXAMPLES, execute
from tests.needs import need, tool

PROGRAM = Path(__file__).with_name("kernels.c")
FLAGS = set(Path("/proc/cpuinfo").read_text().split())
"""What the processor has, in the system's words."""
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


on_avx512 = pytest.mark.skipif("avx512_vnni" not in FLAGS, reason="what stands in, or works beside it, is AVX-512 VNNI")
elsewhere = pytest.mark.skipif("avx512_vnni" in FLAGS, reason="sanitised, test_kernels_of_amx_emulated runs these and AMX's")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [("-O3",), pytest.param(SANITISED, marks=[pytest.mark.slow, elsewhere])])
def test_kernels_of_this_processor(tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    found = kernels(compiled(tool(compiler), tmp_path / "kernels", *flags))
    assert found[0] == "scalar"
    names = {"avx2": "avx2", "avx_vnni": "avxvnni", "avx512_vnni": "avx512vnni", "amx_int8": "amx", "asimddp": "dotprod"}
    for flag, name in names.items():
        assert (flag in FLAGS) == (name in found)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="they are for x86-64")
@pytest.mark.parametrize(("compiler", "version"), [("gcc", "__GNUC__=10"), ("clang", "__clang_major__=11")])
def test_a_compiler_without_avx_vnni_and_amx_has_the_other_kernels(tmp_path: Path, compiler: str, version: str) -> None:
    posing = (f"-U{version.partition('=')[0]}", f"-D{version}")
    program = compiled(tool(compiler), tmp_path / "kernels", "-O1", *posing)
    found = kernels(program)
    assert "avxvnni" not in found
    assert ("avx2" in FLAGS) == ("avx2" in found)
    assert not [name for name in (b"avxvnni", b"eser_convolve_amx") if name in program.read_bytes()]


def test_without_simd_there_is_plain_c(tmp_path: Path) -> None:
    assert kernels(compiled(tool("gcc"), tmp_path / "kernels", "-O2", "-DESER_NO_SIMD")) == ["scalar"]


@pytest.mark.parametrize(("flag", "has_dsp"), [("-mlittle-endian", True), ("-mbig-endian", False), ("-DESER_NO_SIMD", False)])
def test_pairs_of_16_bits_are_for_little_endian_cortex_m(flag: str, has_dsp: bool) -> None:
    compiler = tool("arm-none-eabi-gcc")
    macros = execute([compiler, "-mcpu=cortex-m4", "-mthumb", flag, "-E", "-dM", SOURCES / "eser_parts.h"])
    assert ("#define ESER_HAS_DSP" in macros) == has_dsp


@pytest.mark.slow
@pytest.mark.parametrize(("processor", "expected"), [("cortex-a53", "scalar neon"), ("cortex-a76", "scalar neon dotprod")])
def test_kernels_of_arm(tmp_path: Path, processor: str, expected: str) -> None:
    emulator = tool("qemu-aarch64-static")
    program = compiled(tool("aarch64-linux-gnu-gcc"), tmp_path / "kernels", "-O2", "-static")
    assert kernels(emulator, "-cpu", processor, program) == expected.split()


# The example's linker script, with as much RAM as the program takes: the board's external memory.
EXTERNAL = {"m4f": "0x21000000", "m55": "0x60000000"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("board", "level", "expected"),
    [("m4f", "-O0", "dsp"), ("m4f", "-O2", "dsp"), ("m55", "-O2", "helium"), ("m55", "-Os", "helium")],
)
def test_kernels_of_cortex_m(c_model: Path, tmp_path: Path, board: str, level: str, expected: str) -> None:
    need("make", "arm-none-eabi-gcc", "qemu-system-arm")
    example = Path(shutil.copytree(EXAMPLES / "cortex_m", tmp_path / "cortex_m", ignore=shutil.ignore_patterns("build")))
    shutil.copy(EXAMPLES / "clip.py", tmp_path)
    script = (example / "board.ld").read_text()
    ram = "ORIGIN = 0x20000000, LENGTH = RAM_KB * 1K"
    assert ram in script
    (example / "board.ld").write_text(script.replace(ram, f"ORIGIN = {EXTERNAL[board]}, LENGTH = 16M"))
    settings = [f"MAIN={PROGRAM}", f"CSRC={SOURCES}", f"MODEL={c_model}", f"CLIP={SPEECH}", f"PYTHON={sys.executable}"]
    settings += [f"BOARD={board}", f"CFLAGS={level}", "STATE_KB=960"]
    assert execute(["make", "--silent", "-C", example, "run", *settings]).split() == ["scalar", expected]


def rewritten(folder: Path, changes: Mapping[str, str]) -> Path:
    """Write the sources with texts replaced into a folder and return it."""
    for source in SOURCES.glob("*.[ch]"):
        text = source.read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        (folder / source.name).write_text(text, encoding="utf-8")
    return folder


@on_avx512
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_kernels_of_avx_vnni_in_the_encoding_of_avx_512(tmp_path: Path, compiler: str) -> None:
    """A processor with AVX-512 VNNI has AVX-VNNI's instructions in another encoding: the same C, compiled for that."""
    changes = {
        '"avx2,avxvnni"': '"avx2,avx512vl,avx512vnni"',
        "dpbusd_avx_epi32": "dpbusd_epi32",
        "%{vex%} vpdpwssd": "vpdpwssd",
        # CPUID's word on AVX-VNNI is AVX-512 VNNI's here.
        "a >= 1 && __get_cpuid_count(7, 1, &others, &a, &a, &a) && others >> 4 & 1": "(others = c) >> 11 & 1",
    }
    sources = rewritten(tmp_path, changes)
    assert "avxvnni" in kernels(compiled(tool(compiler), tmp_path / "kernels", "-O3", sources=sources))


EMULATED = ("-include", str(Path(__file__).with_name("amx_emulated.h")))


@pytest.fixture
def on_tiles_in_c(tmp_path: Path) -> Path:
    """The sources, to be compiled with EMULATED: neither the processor nor the system is asked for AMX."""
    changes = {"d >> 24 & 1 && d >> 25 & 1 && eser_amx_works()": "eser_amx_works()"}
    return rewritten(tmp_path, {**changes, "tiles_are_allowed() &&": "(tiles_are_allowed(), 1) &&"})


@on_avx512
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [("-O3",), pytest.param(SANITISED, marks=pytest.mark.slow)])
def test_kernels_of_amx_emulated(on_tiles_in_c: Path, tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    found = kernels(compiled(tool(compiler), tmp_path / "kernels", *flags, *EMULATED, sources=on_tiles_in_c))
    assert found[-2:] == ["avx512vnni", "amx"]


@on_avx512
def test_kernels_of_amx_that_are_wrong_are_not_offered(on_tiles_in_c: Path, tmp_path: Path) -> None:
    header = Path(EMULATED[1]).read_text(encoding="utf-8")
    assert header.count("(int8_t)tiles.row[b]") == 1
    wrong = tmp_path / "wrong.h"  # a processor on which the weights have no sign
    wrong.write_text(header.replace("(int8_t)tiles.row[b]", "tiles.row[b]"), encoding="utf-8")
    found = kernels(compiled(tool("gcc"), tmp_path / "kernels", "-O2", "-include", str(wrong), sources=on_tiles_in_c))
    assert found[-1] == "avx512vnni"


@pytest.mark.skipif("amx_int8" not in FLAGS, reason="this processor has no AMX; it was emulated")
def test_amx_answers_where_the_processor_has_it() -> None:
    assert clib.kernels()[-1] == "amx"


@pytest.fixture
def plain_and_tiles(on_tiles_in_c: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[NativeBackend]:
    """The shipped model in plain C and on emulated tiles."""
    library = tmp_path / "libeser.so"
    flags = ("-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared", *EMULATED)
    execute([tool("gcc"), *flags, *on_tiles_in_c.glob("*.c"), "-lm", "-o", library])
    bound = clib.bind(library)
    monkeypatch.setattr(clib, "load_library", lambda: bound)
    backends = []
    for name in ("scalar", "amx"):
        monkeypatch.setenv(clib.KERNEL_VARIABLE, name)
        backends.append(NativeBackend(read_model_file(shipped_model_path(".eser"))))
    return backends


def require_the_same_vectors(backends: list[NativeBackend], path: Path) -> None:
    with AudioReader(path) as reader:
        features = backends[0].transform(reader.samples()[: 14 * 16000], LOGMEL_V1)
    expected, found = (backend.encode(features)[0] for backend in backends)
    assert len(np.unique(expected)) > 100
    assert np.array_equal(expected, found), path.name


@on_avx512
def test_amx_emulated_has_the_vectors_of_plain_c(plain_and_tiles: list[NativeBackend], speech: Path) -> None:
    require_the_same_vectors(plain_and_tiles, speech)


@on_avx512
@pytest.mark.slow
def test_amx_emulated_has_the_vectors_of_plain_c_on_real_speech(
    plain_and_tiles: list[NativeBackend], real_clips: list[Path]
) -> None:
    for path in real_clips:
        require_the_same_vectors(plain_and_tiles, path)
