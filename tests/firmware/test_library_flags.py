"""The C library under sanitisers, fed anything, and compiled with other flags."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_ser.engines.clib import SOURCES
from edge_ser_export.c_library import CModel, build
from tests.firmware.targets import ROOT, execute
from tests.firmware.test_library import speech_of
from tests.needs import refuse, tool


@pytest.fixture
def fuzzer(sources: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that builds the fuzzer under sanitisers."""

    def build_with(compiler: str, *flags: str) -> Path:
        files = (ROOT / "tests/firmware/fuzz.c", *SOURCES.glob("*.c"), sources / "eser_model.c")
        how = ("-std=c99", "-g", "-O1", "-fno-sanitize-recover=all", *flags, f"-I{SOURCES}", f"-I{sources}")
        execute([tool(compiler), *how, *files, "-lm", "-o", tmp_path / "f"])
        return tmp_path / "f"

    return build_with


@pytest.mark.slow
def test_random_calls_under_sanitisers(fuzzer: Callable[..., Path]) -> None:
    assert "20 scripts" in execute([fuzzer("gcc", "-fsanitize=address,undefined"), "20"])


@pytest.mark.slow
def test_libfuzzer_under_sanitisers(fuzzer: Callable[..., Path], tmp_path: Path) -> None:
    probe = (tool("clang"), "-xc", "-fsanitize=fuzzer,address,undefined", "-", "-o", tmp_path / "probe")
    source = "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d == 0 && n == 0; }"
    if subprocess.run(probe, input=source, capture_output=True, text=True, check=False).returncode:
        refuse("clang has no libFuzzer (apt install libclang-rt-14-dev)")
    (tmp_path / "corpus").mkdir()
    for i in range(4):
        (tmp_path / "corpus" / str(i)).write_bytes(np.random.default_rng(i).bytes(20000))
    program = fuzzer("clang", "-DWITH_LIBFUZZER", "-fsanitize=fuzzer,address,undefined")
    limits = ("-runs=200", "-max_total_time=30", "-timeout=120", "-max_len=30000")
    execute([program, *limits, "-seed=1", f"-artifact_prefix={tmp_path}/", tmp_path / "corpus"])


@pytest.mark.slow
def test_other_flags_give_the_same_bits(sources: Path, model: CModel, speech: Path, tmp_path: Path) -> None:
    samples = speech_of(speech)
    expected, features = None, model.features(samples)
    for compiler in ("gcc", "clang"):
        for flags in (("-O0",), ("-Os",), ("-O3", "-march=native", "-ffp-contract=off")):
            library = tmp_path / f"{compiler}{'-'.join(flags)}.so"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CC", tool(compiler))
                other = CModel(build(sources, library, "-std=c99", *flags))
            assert np.array_equal(other.features(samples), features)
            stream = other.stream()
            stream.feed(samples)
            found = stream.finish().integers()
            expected = expected or found
            assert found == expected
