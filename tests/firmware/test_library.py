"""The C library on this machine: what it is made of, that it equals its definition, that nothing it is fed breaks it."""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

import numpy as np
import pytest

import edge_ser
from edge_ser.arrays import Float32Array, UInt8Array
from edge_ser.engines.clib import SOURCES, Result, Stream, at
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import LOGMEL_V1, extract
from edge_ser.personal.microphone import silence_db
from edge_ser_export.c_library import CModel
from edge_ser_export.quantize import QuantizedNet
from edge_ser_train.method.model import EmotionNet
from tests.firmware import reference
from tests.firmware.targets import execute
from tests.golden.make_c_tables import TABLES, tables
from tests.needs import tool

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror")
LIBC = {"math.h", "stddef.h", "stdint.h", "string.h"}
COMPILER = {"arm_mve.h", "arm_neon.h", "cpuid.h", "immintrin.h", "sys/auxv.h", "sys/sysctl.h", "wasm_simd128.h"}
"""What SIMD needs beyond it, where there is any."""
STATUS = {"OK": 0, "TOO_SHORT": 1, "SILENT": 2, "ARGUMENT": 3, "MEMORY": 4, "MODEL": 5, "SAMPLES": 6, "FINISHED": 7}


def push(stream: Stream, what: str, values: UInt8Array) -> None:
    """Feed frames of quantised features [T, 128] (``levels``), or encoder vectors [P, 480] (``vectors``)."""
    assert getattr(stream._library, f"eser_push_{what}")(stream._stream, at(values), len(values)) == STATUS["OK"]


def speech_of(path: Path) -> Float32Array:
    with AudioReader(path) as reader:
        return np.concatenate(list(reader.blocks()))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_it_compiles_without_a_warning(sources: Path, tmp_path: Path, compiler: str, standard: str) -> None:
    # gcc finds some of what it warns of where it optimises, whatever the standard; clang finds all of it before.
    how = ("-O2", "-c", "-o", tmp_path / "object.o") if (compiler, standard) == ("gcc", "c99") else ("-fsyntax-only",)
    for path in (*SOURCES.glob("*.c"), sources / "eser_model.c"):
        execute([tool(compiler), *WARNINGS, f"-std={standard}", f"-I{SOURCES}", f"-I{sources}", path, *how])


@pytest.mark.parametrize(("compiler", "language", "standard"), [("gcc", "c", "c99"), ("g++", "c++", "c++17")])
@pytest.mark.parametrize("header", ["eser.h", "eser_parts.h", "eser_model.h"])
def test_headers_compile_alone(sources: Path, compiler: str, language: str, standard: str, header: str) -> None:
    path = sources / header if header == "eser_model.h" else SOURCES / header
    warnings = [w for w in WARNINGS if language == "c" or "prototypes" not in w]
    execute([tool(compiler), *warnings, f"-I{SOURCES}", f"-std={standard}", "-fsyntax-only", "-x", language, path])


def test_it_stands_on_libc_alone(tmp_path: Path) -> None:
    own = {path.name for path in SOURCES.iterdir()}
    for path in (*SOURCES.glob("*.c"), *SOURCES.glob("*.h")):
        for name in re.findall(r'^#include [<"](.*?)[>"]', path.read_text(), re.M):
            assert name in own | LIBC | (COMPILER if path.name.startswith("eser_kernels_") else set()), path
    undefined: set[str] = set()
    defined: set[str] = set()
    for path in SOURCES.glob("*.c"):
        execute([tool("cc"), "-std=c99", "-O2", "-fno-pie", "-fno-stack-protector", "-c", path, "-o", tmp_path / "object.o"])
        for line in execute([tool("nm"), tmp_path / "object.o"]).splitlines():
            kind, name = line.split()[-2:]
            (undefined if kind == "U" else defined).add(name)
            assert kind not in "bBdDC", f"{name} is writable"
    outside = {name for name in undefined - defined if not name.startswith("_")}
    assert "__cpu_model" not in undefined, "not every compiler's runtime library fills it in"
    assert outside <= {"memcpy", "memmove", "memset", "expf", "sqrtf"}, "neither heap nor printing"


def test_the_tables_are_those_of_python() -> None:
    assert TABLES.read_text() == tables(), "run python tests/golden/make_c_tables.py"


def test_versions_and_sizes(model: CModel) -> None:
    header = (SOURCES / "eser.h").read_text()
    assert f'#define ESER_VERSION "{edge_ser.__version__}"' in header
    assert model.library.eser_version() == edge_ser.__version__.encode()
    for_x86, stated = map(int, re.findall(r"ESER_STATE_BYTES (\d+)", header))
    here = for_x86 if platform.machine() == "x86_64" else stated
    assert here - 4096 <= model.state_bytes <= here <= 96 * 1024
    assert for_x86 % 8 == stated % 8 == 0


def test_code_tables_and_weights_fit_the_flash(sources: Path, tmp_path: Path) -> None:
    total = 0
    for path in (*SOURCES.glob("*.c"), sources / "eser_model.c"):
        execute([tool("cc"), "-std=c99", "-Os", f"-I{SOURCES}", f"-I{sources}", "-c", path, "-o", tmp_path / "object.o"])
        text, data = execute([tool("size"), tmp_path / "object.o"]).splitlines()[1].split()[:2]
        total += int(text) + int(data)
    assert total <= 800_000


def test_features_are_those_of_numpy(model: CModel, speech: Path) -> None:
    rng = np.random.default_rng(0)
    signals = [speech_of(speech)]
    signals += [(10.0**level * rng.standard_normal(16000)).astype(np.float32) for level in (-6, -4, -2, 0)]
    signals += [np.zeros(16000, dtype=np.float32), np.full(16000, 8.0, dtype=np.float32)]
    t = np.arange(16000) / 16000
    signals += [np.sin(2 * np.pi * f * t).astype(np.float32) for f in (50, 440, 3999.5, 7990)]
    for samples in signals:
        expected, found = extract(samples), model.features(samples)
        # A pure tone leaves bands to the rounding errors of a float32 DFT, 120 dB below it; those differ.
        heard = expected > expected.max(axis=1, keepdims=True) - 100
        assert np.abs(found - expected)[heard].max() <= 0.05


def test_features_of_real_speech_are_those_of_numpy(model: CModel, real_clips: list[Path]) -> None:
    for path in real_clips:
        samples = speech_of(path)
        expected = extract(samples)
        assert np.abs(model.features(samples)[: len(expected)] - expected).max() <= 0.05


@pytest.mark.parametrize("n_frames", [49, 64, 65, 100, 401, 1400])
def test_the_integers_are_those_of_the_definition(
    model: CModel, integers: tuple[EmotionNet, QuantizedNet], n_frames: int
) -> None:
    net, quantized = integers
    rng = np.random.default_rng(n_frames)
    levels = rng.integers(0, 256, (n_frames, 128), dtype=np.uint8)
    levels[n_frames // 2 :] //= 3
    stream = model.stream()
    push(stream, "levels", levels)
    vectors = reference.encode(quantized, levels)
    assert np.array_equal(stream.vectors(), vectors)
    assert len(np.unique(vectors)) > 10
    embedding, logits = reference.head(net, quantized, vectors)
    assert stream.finish().integers() == (*logits.tolist(), *embedding.tolist())


def test_extreme_levels_and_vectors_are_exact_too(model: CModel, integers: tuple[EmotionNet, QuantizedNet]) -> None:
    net, quantized = integers
    for value in (0, 255):
        levels = np.full((81, 128), value, dtype=np.uint8)
        stream = model.stream()
        push(stream, "levels", levels)
        assert np.array_equal(stream.vectors(), reference.encode(quantized, levels))
        vectors = np.full((85, 480), value, dtype=np.uint8)
        stream = model.stream()
        push(stream, "vectors", vectors)
        embedding, logits = reference.head(net, quantized, vectors.astype(np.int64))
        assert stream.finish().integers() == (*logits.tolist(), *embedding.tolist())


def test_chunks_of_any_size_equal_the_whole(model: CModel, speech: Path) -> None:
    rng = np.random.default_rng(1)
    samples = speech_of(speech)
    as_int16 = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
    whole = model.stream()
    whole.feed(as_int16)
    expected = whole.finish().integers()
    for sizes in ([1], [160], [640], [1, 7, 159, 161, 4096]):
        stream, position = model.stream(), 0
        while position < len(samples):
            n = int(rng.choice(sizes))
            chunk = slice(position, position + n)
            stream.feed((as_int16 if rng.integers(2) else (as_int16 / np.float32(32768)))[chunk])
            position += n
            if sizes != [1] and position > 9000:
                stream.estimate()
        assert stream.finish().integers() == expected


def test_of_a_long_stream_the_last_14_s_are_judged(model: CModel) -> None:
    rng = np.random.default_rng(2)
    for n_frames in (1393, 1400, 1409, 1500, 3333):
        samples = (0.1 * rng.standard_normal(640 + 160 * (n_frames - 1))).astype(np.float32)
        samples *= np.linspace(0, 1, len(samples), dtype=np.float32)
        stream = model.stream()
        stream.feed(samples)
        result = stream.finish()
        n_vectors = (n_frames - 49) // 16 + 1
        start = 16 * max(0, n_vectors - 85)
        again = model.stream()
        again.feed(samples[160 * start :])
        assert again.finish().integers() == result.integers()
        assert result.judged_s == pytest.approx((n_frames - start - 1) * 0.01 + 0.04, abs=1e-4)
        assert result.judged_s <= 14.2


def test_short_and_silent_speech(model: CModel) -> None:
    samples = (0.1 * np.random.default_rng(3).standard_normal(5000)).astype(np.float32)
    short, padded = model.stream(), model.stream()
    short.feed(samples)
    padded.feed(np.pad(samples, (0, LOGMEL_V1.min_samples - len(samples))))
    assert short.finish().integers() == padded.finish().integers()
    with pytest.raises(Exception, match="silent"):
        model.stream().finish()
    stream = model.stream()
    stream.feed(np.zeros(50000, dtype=np.int16))
    with pytest.raises(Exception, match="silent"):
        stream.estimate()
    stream.feed(samples)
    stream.estimate()
    # Once the sound has left the last 14 s, there is nothing to judge again.
    stream.feed(np.zeros(15 * 16000, dtype=np.int16))
    with pytest.raises(Exception, match="silent"):
        stream.finish()
    # The same line between sound and silence as in Python.
    for level in (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5):
        quiet = (level * np.random.default_rng(4).standard_normal(16000)).astype(np.float32)
        silent = extract(quiet).max() <= silence_db(LOGMEL_V1)
        stream = model.stream()
        stream.feed(quiet)
        if silent:
            with pytest.raises(Exception, match="silent"):
                stream.finish()
        else:
            stream.finish()


def test_every_mistake_has_its_status(model: CModel) -> None:
    lib = model.library
    size = model.state_bytes
    memory = (ctypes.c_uint64 * (size // 8 + 2))()
    stream, result = ctypes.c_void_p(), Result()
    the_model = ctypes.byref(ctypes.c_char.in_dll(lib, "eser_default_model"))
    pointer, at = ctypes.byref(stream), ctypes.addressof(memory)
    n = ctypes.c_size_t

    assert lib.eser_init(None, the_model, memory, n(size)) == STATUS["ARGUMENT"]
    assert lib.eser_init(pointer, None, memory, n(size)) == STATUS["ARGUMENT"]
    assert lib.eser_init(pointer, the_model, None, n(size)) == STATUS["ARGUMENT"]
    assert lib.eser_init(pointer, the_model, memory, n(size - 1)) == STATUS["MEMORY"]
    assert lib.eser_init(pointer, the_model, ctypes.c_void_p(at + 4), n(size)) == STATUS["MEMORY"]
    assert not stream
    other = ctypes.create_string_buffer(ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(lib, "eser_default_model")), 512))
    other[0] = b"\x63"
    assert lib.eser_size(other) == 0
    assert lib.eser_size(None) == 0
    assert lib.eser_init(pointer, other, memory, n(size)) == STATUS["MODEL"]
    assert lib.eser_init(pointer, the_model, memory, n(size)) == STATUS["OK"]
    good = np.linspace(-8, 8, 9000, dtype=np.float32)
    for bad in (np.nan, np.inf, -np.inf, 8.001, -1e30):
        broken = good.copy()
        broken[-1] = bad
        assert lib.eser_feed_f32(stream, ctypes.c_void_p(broken.ctypes.data), n(len(broken))) == STATUS["SAMPLES"]
    assert lib.eser_feed_i16(stream, None, n(1)) == STATUS["ARGUMENT"]
    assert lib.eser_feed_i16(stream, None, n(0)) == STATUS["OK"]
    assert lib.eser_estimate(stream, ctypes.byref(result)) == STATUS["TOO_SHORT"]  # of the broken samples none was taken
    assert lib.eser_feed_f32(stream, ctypes.c_void_p(good.ctypes.data), n(len(good))) == STATUS["OK"]
    assert lib.eser_estimate(stream, None) == lib.eser_finish(stream, None) == STATUS["ARGUMENT"]
    assert lib.eser_finish(stream, ctypes.byref(result)) == STATUS["OK"]
    first = result.integers()
    for again in (lib.eser_finish, lib.eser_estimate):
        assert again(stream, ctypes.byref(result)) == STATUS["FINISHED"]
    assert lib.eser_feed_i16(stream, None, n(0)) == STATUS["FINISHED"]
    assert lib.eser_reset(stream) == STATUS["OK"]
    assert lib.eser_feed_f32(stream, ctypes.c_void_p(good.ctypes.data), n(len(good))) == STATUS["OK"]
    assert lib.eser_finish(stream, ctypes.byref(result)) == STATUS["OK"]
    assert result.integers() == first
    assert lib.eser_reset(None) == lib.eser_finish(None, ctypes.byref(result)) == STATUS["ARGUMENT"]
    assert lib.eser_feed_i16(None, None, n(0)) == STATUS["ARGUMENT"]
    texts = {lib.eser_strerror(i) for i in range(8)}
    assert len(texts) == 8
    assert lib.eser_strerror(8) == lib.eser_strerror(-1) == b"unknown status"
