"""The C library in other people's builds: CMake, pkg-config, C++, and the folder for ESP-IDF, PlatformIO and Arduino."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from edge_ser import EmotionRecognizer
from edge_ser._version import __version__
from tests.firmware.targets import EXAMPLES, ROOT, execute, make
from tests.needs import need

CSRC = ROOT / "edge_ser" / "csrc"
COMPONENT = EXAMPLES / "component"


@pytest.fixture(scope="module")
def pcm(speech: Path) -> bytes:
    """The recording as linux_c takes it."""
    import soundfile

    samples, _ = soundfile.read(speech, dtype="int16")
    return bytes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def gathered(c_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that goes to a board."""
    folder = tmp_path_factory.mktemp("component") / "edge-ser"
    make("component", f"MODEL={c_model}", f"BUILD={folder}")
    return folder


def installed(source: Path, folder: Path, *settings: str) -> Path:
    """Build and install with CMake; return the prefix."""
    need("cmake", "cc")
    places = (f"-DCMAKE_INSTALL_PREFIX={folder / 'prefix'}", "-DCMAKE_INSTALL_LIBDIR=lib")
    execute(["cmake", "-S", source, "-B", folder / "build", *places, *settings])
    execute(["cmake", "--build", folder / "build"])
    execute(["cmake", "--install", folder / "build", "--prefix", folder / "prefix"])
    return folder / "prefix"


@pytest.fixture(scope="module")
def prefix(gathered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is installed, a static one."""
    return installed(gathered, tmp_path_factory.mktemp("installed"))


@pytest.mark.parametrize("shared", [True, False])
def test_ten_lines_find_the_package_and_answer(shared: bool, prefix: Path, gathered: Path, pcm: bytes, tmp_path: Path) -> None:
    if shared:
        prefix = installed(gathered, tmp_path, "-DBUILD_SHARED_LIBS=ON")
    user = COMPONENT / "find_package"
    assert len((user / "CMakeLists.txt").read_text().splitlines()) <= 10
    execute(["cmake", "-S", user, "-B", tmp_path / "user", f"-DCMAKE_PREFIX_PATH={prefix}"])
    execute(["cmake", "--build", tmp_path / "user"])
    assert EmotionRecognizer(backend="native").labels[0] in execute([tmp_path / "user" / "tone"], pcm)
    assert bool(list((prefix / "lib").glob("libeser.so*"))) == shared


def test_a_wrong_version_is_not_found(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(x LANGUAGES NONE)\nfind_package(eser 99 REQUIRED)\n"
    )
    with pytest.raises(RuntimeError, match=rf"(?s)eserConfig\.cmake, version: {re.escape(__version__)}"):
        execute(["cmake", "-S", tmp_path, "-B", tmp_path / "user", f"-DCMAKE_PREFIX_PATH={prefix}"])


def test_pkg_config_gives_what_a_compiler_needs(prefix: Path, pcm: bytes, tmp_path: Path) -> None:
    need("pkg-config")
    environment = os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    done = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "eser"], env=environment, capture_output=True, text=True, check=True
    )
    program = tmp_path / "tone"
    execute(["cc", EXAMPLES / "linux_c" / "main.c", *done.stdout.split(), "-o", program])
    assert execute([program], pcm)


def test_the_repository_itself_can_be_a_subdirectory(c_model: Path, pcm: bytes, tmp_path: Path) -> None:
    need("cmake", "cc")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(x LANGUAGES C)\n"
        f"set(ESER_MODEL_DIR {c_model})\nadd_subdirectory({COMPONENT} eser)\nadd_executable(tone {EXAMPLES}/linux_c/main.c)\n"
        "target_link_libraries(tone PRIVATE eser::model)\n"
    )
    execute(["cmake", "-S", tmp_path, "-B", tmp_path / "build"])
    execute(["cmake", "--build", tmp_path / "build"])
    assert execute([tmp_path / "build" / "tone"], pcm)


def test_the_header_for_cpp_answers_as_c_does(c_model: Path, pcm: bytes, tmp_path: Path) -> None:
    need("g++", "cc")
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "eser.hpp"\n#include "eser_model.h"\n#include <cstdio>\n#include <vector>\n'
        "static eser_cpp::Stream stream(eser_default_model);\n"
        "int main() {\n"
        "    std::vector<std::int16_t> chunk(160);\n"
        '    if (stream.finish()) return 1;\n    std::printf("%s\\n", stream.message());\n    stream.reset();\n'
        "    while (std::fread(chunk.data(), 2, chunk.size(), stdin) == chunk.size())\n"
        "        if (!stream.feed(chunk)) return 2;\n"
        "    const auto answer = stream.finish();\n    if (!answer) return 3;\n"
        '    for (std::uint32_t i = 0; i < answer->n_labels; i++) std::printf("%d ", (int)answer->logits_q16[i]);\n'
        "    return stream.feed(chunk) || stream.status() != ESER_FINISHED;\n}\n"
    )
    flags = ["-Wall", "-Wextra", "-Werror", f"-I{CSRC}", f"-I{c_model}", "-O1"]
    objects = []
    for source in (*sorted(CSRC.glob("*.c")), c_model / "eser_model.c"):
        objects.append(tmp_path / f"{source.stem}.o")
        execute(["cc", "-std=c99", "-ffp-contract=off", *flags, "-c", source, "-o", objects[-1]])
    program = tmp_path / "program"
    execute(["g++", "-std=c++17", "-fno-exceptions", "-fno-rtti", *flags, main, *objects, "-lm", "-o", program])
    refused, logits = execute([program], pcm).splitlines()
    assert refused
    import numpy as np

    samples = np.frombuffer(pcm, dtype="<i2")
    recognizer = EmotionRecognizer(backend="native")
    answer = recognizer.predict((samples[: len(samples) // 160 * 160], 16000))
    assert [int(x) for x in logits.split()] == [round(float(x) * 65536) for x in answer.logits]


def test_metadata_tells_the_version_and_names_what_is_there(gathered: Path) -> None:
    assert json.loads((gathered / "library.json").read_text())["version"] == __version__
    for name, key in (("library.properties", "version="), ("idf_component.yml", "version: ")):
        lines = (gathered / name).read_text().splitlines()
        assert next(line for line in lines if line.startswith(key)).removeprefix(key).strip('"') == __version__
    properties = dict(line.split("=", 1) for line in (gathered / "library.properties").read_text().splitlines())
    needed = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert needed <= set(properties)  # the Arduino library specification
    for header in properties["includes"].split(","):
        assert (gathered / "src" / header).is_file()
    assert {"LICENSE", "NOTICE", "README.md", "CMakeLists.txt"} <= {path.name for path in gathered.iterdir()}


def test_no_multiplication_and_addition_becomes_one_without_the_flag(tmp_path: Path) -> None:
    need("gcc", "objdump")
    for source in sorted(CSRC.glob("*.c")):
        compiled = tmp_path / f"{source.stem}.o"
        execute(["gcc", "-std=gnu99", "-O3", "-march=haswell", "-ffp-contract=fast", "-c", source, "-o", compiled])
        assert not re.search(r"\bvfn?m(add|sub)", execute(["objdump", "-d", compiled])), source.name


BATCH = ("eser_features_batch", "eser_encode_batch", "eser_judge_batch", "eser_vectors_batch")
LARGE = {"eser_features_side_by_side": 72, "eser_winograd": 42, **dict.fromkeys(BATCH, 11)}
"""KB of stack of what Python alone uses, as edge_ser/csrc/README.md says."""


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang", "aarch64-linux-gnu-gcc"])
def test_functions_with_vector_kernels_take_no_more_stack_than_stated(compiler: str, tmp_path: Path) -> None:
    need(compiler)
    stated = (CSRC / "README.md").read_text()
    assert all(f"{kb} KB" in stated for kb in LARGE.values())
    sizes: dict[str, int] = {}
    for source in sorted(CSRC.glob("*.c")):
        usage = tmp_path / f"{source.stem}.su"
        options = ["-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-fstack-usage"]
        execute([compiler, *options, "-c", source, "-o", usage.with_suffix(".o")])
        for line in usage.read_text().splitlines() if usage.exists() else ():
            function, size, kind = line.split("\t")
            assert kind != "dynamic", function
            sizes[function.split(":")[-1]] = int(size)
    most = {function: next((kb for name, kb in LARGE.items() if function.startswith(name)), 2.2) for function in sizes}
    assert len(sizes) > 30
    assert not {function: taken for function, taken in sizes.items() if taken > 1024 * most[function]}


def test_no_function_of_a_stream_takes_a_kilobyte_of_stack(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc")
    for source in sorted(CSRC.glob("*.c")):
        if source.stem == "eser_batch":  # for bindings of languages, not for firmware
            continue
        usage = tmp_path / f"{source.stem}.su"
        options = ["-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-fstack-usage"]
        execute(["arm-none-eabi-gcc", *options, "-c", source, "-o", usage.with_suffix(".o")])
        for line in usage.read_text().splitlines():
            function, size, kind = line.split("\t")
            assert int(size) < 1024, function
            assert kind == "static", function
