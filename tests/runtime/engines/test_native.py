"""The native backend: its answers, its file, and what it says where something is missing."""

from __future__ import annotations

import ctypes
import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser import BackendError, EdgeSerError, EmotionRecognizer, ModelFileError
from edge_ser.engines import EncoderState, clib, shipped_backend
from edge_ser.engines.native import NativeBackend
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import LOGMEL_V1, extract
from edge_ser.geometry import ENCODER_SIZE, channel_major
from edge_ser.model import eser_file as eser
from edge_ser.model.manifest import Manifest, read_model_file, shipped_model_path

FILE = shipped_model_path(".eser")


@pytest.fixture(scope="module")
def recognizer(native_library: Path) -> EmotionRecognizer:
    return EmotionRecognizer(backend="native")


def resealed(path: Path, name: str, value: int) -> Path:
    """Write the shipped file with the first number of ``name`` changed and a hash that says it is right."""
    content = FILE.read_bytes()
    manifest = Manifest.from_json(eser.read_eser(content)[0])
    values = {key: array.copy() for key, array in eser.parse(content, 4).items()}
    values[name][0] = value
    digest = hashlib.sha256(eser.packed(values, 4)).hexdigest()
    path.write_bytes(eser.serialise(replace(manifest, graph_sha256=digest).to_json(), values, 4))
    return path


def test_it_answers_as_onnx_does(recognizer: EmotionRecognizer, real_clips: list[Path]) -> None:
    onnx = EmotionRecognizer(backend="onnx")
    ours, theirs = recognizer.predict_many(real_clips), onnx.predict_many(real_clips)
    assert len({p.label for p in ours}) > 1
    assert max(np.abs(a.logits - b.logits).max() for a, b in zip(ours, theirs, strict=True)) < 0.1
    assert max(np.abs(a.embedding - b.embedding).max() for a, b in zip(ours, theirs, strict=True)) < 0.1


def test_the_file_says_of_itself_what_the_onnx_file_says() -> None:
    ours, theirs = read_model_file(FILE).manifest, read_model_file(shipped_model_path()).manifest
    assert ours.training == theirs.training
    assert replace(ours, quantization=theirs.quantization, scores=theirs.scores, graph_sha256=theirs.graph_sha256) == theirs
    assert ours.quantization["agreement_with_int8_onnx"]["argmax"] >= 0.985


def test_features_are_nearly_numpys(recognizer: EmotionRecognizer, speech: Path) -> None:
    with AudioReader(speech) as reader:
        samples = reader.samples()
    expected, found = extract(samples), recognizer._backend.transform(samples, LOGMEL_V1)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.05
    assert recognizer._backend.transform(samples[:639], LOGMEL_V1).shape == (0, 128)
    every_second = np.repeat(samples, 2)[::2]
    broadcast = np.broadcast_arrays(samples, np.zeros((1, 1), dtype=np.float32))[0][0]  # calls itself writeable, and is not
    assert np.array_equal(recognizer._backend.transform(broadcast, LOGMEL_V1), found)
    samples.flags.writeable = False
    assert np.array_equal(recognizer._backend.transform(samples, LOGMEL_V1), found)
    assert np.array_equal(recognizer._backend.transform(every_second, LOGMEL_V1), found)


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.integers(1, 12), min_size=1, max_size=12), seed=st.integers(0, 2**16))
def test_the_encoder_in_parts_equals_the_encoder_at_once(native_library: Path, parts: list[int], seed: int) -> None:
    backend = NativeBackend(read_model_file(FILE))
    n = 33 + 16 * sum(parts)
    features = (25 * np.random.default_rng(seed).standard_normal((n, 128)) - 40).astype(np.float32)
    whole, _ = backend.encode(features)
    assert whole.shape == (sum(parts), backend.vector_size)
    assert len(np.unique(whole)) > 100
    state: EncoderState | None = None
    start, vectors = 0, []
    for part in parts:
        stop = start + 16 * part + (33 if state is None else 0)
        found, following = backend.encode(features[start:stop], state)
        again, _ = backend.encode(features[start:stop], state)
        assert np.array_equal(found, again), "a state is never changed in place"
        vectors.append(found)
        state, start = following, stop
    assert np.array_equal(np.concatenate(vectors), whole)
    for skipped in (0, sum(parts) // 2, sum(parts) - 1):
        late, alone = backend.judge(whole[skipped:]), backend.run(features[16 * skipped :])
        assert np.array_equal(late.logits, alone.logits), "the forward state of a stream is none of a later window's"
        assert np.array_equal(late.embedding, alone.embedding)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 85), span=st.integers(0, 255), seed=st.integers(0, 2**16))
def test_statistics_are_whole_numbers_rounded_as_stated(native_library: Path, n: int, span: int, seed: int) -> None:
    backend = NativeBackend(read_model_file(FILE))
    levels = 255 - np.random.default_rng(seed).choice([0, span, span // 2], (n, ENCODER_SIZE))
    vectors = np.full((n, backend.vector_size), -1, dtype=np.int32)
    vectors.view(np.uint8)[:, -ENCODER_SIZE:] = levels
    columns = channel_major(levels).T.tolist()
    means = [(256 * sum(x) + n // 2) // n for x in columns]
    deviations = [math.isqrt((n * sum(v * v for v in x) - sum(x) ** 2) << 16) // n for x in columns]
    assert backend.statistics(vectors).tolist() == means + deviations


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv2_weight", 64, "conv2 has a weight beyond"),
        ("gru_input_forward_weight", -128, "gru_input_forward has a weight beyond"),
        ("conv1_bias", 2**31 - 1, "conv1 has a bias beyond"),
        ("fc2_multiplier", 2**30, "fc2 has a multiplier beyond"),
        ("fc1_multiplier", -1, "fc1 has a multiplier beyond"),
        ("shift", 0, r"a shift is not within 1\.\.62"),
        ("shift", 63, r"a shift is not within 1\.\.62"),
        ("feature_gain", np.nan, "feature scales are not finite"),
    ],
)
def test_numbers_that_c_must_not_see_are_refused(
    native_library: Path, tmp_path: Path, name: str, value: float, message: str
) -> None:
    path = resealed(tmp_path / "m.eser", name, value)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=message):
        EmotionRecognizer(path)


def test_a_resealed_file_without_a_fault_is_taken(native_library: Path, tmp_path: Path, speech: Path) -> None:
    first = int(eser.parse(FILE.read_bytes(), 4)["conv1_weight"][0])
    path = resealed(tmp_path / "m.eser", "conv1_weight", first)
    assert path.read_bytes() == FILE.read_bytes()
    EmotionRecognizer(path).predict(speech)


@pytest.mark.parametrize("cut", [0, 7, 15, 16, 1000, -1, -4])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "short.eser"
    path.write_bytes(FILE.read_bytes()[:cut])
    with pytest.raises(ModelFileError):
        read_model_file(path)


def test_a_longer_file_is_refused_even_with_its_hash(native_library: Path, tmp_path: Path) -> None:
    content = FILE.read_bytes()
    text, digest, _ = eser.read_eser(content + bytes(4))
    manifest = replace(Manifest.from_json(text), graph_sha256=digest).to_json().encode()
    manifest += b" " * (-len(manifest) % 4)
    constants = content[16 + len(text.encode()) :]
    path = tmp_path / "long.eser"
    path.write_bytes(content[:12] + len(manifest).to_bytes(4, "little") + manifest + constants + bytes(4))
    with pytest.raises(ModelFileError, match="bytes of constants; expected"):
        EmotionRecognizer(path)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, FILE.stat().st_size - 1), change=st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: int, change: int) -> None:
    content = bytearray(FILE.read_bytes())
    content[position] ^= change
    path = tmp_path_factory.mktemp("fuzz") / "fuzzed.eser"
    path.write_bytes(content)
    try:
        manifest = read_model_file(path).manifest
    except EdgeSerError:
        return
    # What remains lies in the manifest, which the hash does not cover.
    assert 16 <= position < 16 + len(eser.read_eser(FILE.read_bytes())[0].encode())
    assert manifest.graph_sha256 == read_model_file(FILE).manifest.graph_sha256


def test_without_the_library_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clib, "library_path", lambda: None)
    clib.load_library.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"install one \(apt install gcc\), then pip install --force-reinstall") as caught:
            EmotionRecognizer(backend="native")
        assert "\n" not in str(caught.value)
        broken = tmp_path / "libeser.so"
        broken.write_bytes(b"no library")
        monkeypatch.setattr(clib, "library_path", lambda: broken)
        with pytest.raises(BackendError, match="cannot be loaded"):
            EmotionRecognizer(backend="native")
    finally:
        clib.load_library.cache_clear()


def test_winograd_changes_no_bit(recognizer: EmotionRecognizer, native_library: Path) -> None:
    direct = NativeBackend(read_model_file(FILE))
    direct._model.winograd[:] = (None, None)
    rng = np.random.default_rng(0)
    features = rng.uniform(-100, 20, (1397, 128)).astype(np.float32)
    for n in (49, 65, 297, 1397):
        (ours, ours_state), (theirs, theirs_state) = recognizer._backend.encode(features[:n]), direct.encode(features[:n])
        assert len(ours) == (n - 33) // 16
        assert np.array_equal(ours, theirs)
        assert len(np.unique(ours)) > 100
        again = recognizer._backend.encode(features[:48], ours_state)[0], direct.encode(features[:48], theirs_state)[0]
        assert np.array_equal(*again)


def test_wrong_shapes_never_reach_c(recognizer: EmotionRecognizer) -> None:
    backend = recognizer._backend
    for shape in ((48, 128), (49, 127), (0, 128), (49,)):
        with pytest.raises(BackendError, match="features have shape"):
            backend.encode(np.zeros(shape, dtype=np.float32))
    for shape in ((0, backend.vector_size), (1, 480), (backend.vector_size,)):
        with pytest.raises(BackendError, match="encoder vectors have shape"):
            backend.judge(np.zeros(shape, dtype=np.int32))
        with pytest.raises(BackendError, match="encoder vectors have shape"):
            backend.statistics(np.zeros(shape, dtype=np.int32))


def test_auto_takes_the_c_library_wherever_it_has_vector_kernels(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ".eser" if len(clib.kernels()) > 1 else ".onnx"
    assert EmotionRecognizer().path.suffix == here
    assert EmotionRecognizer(threads=2).path.suffix == ".onnx"
    for found, expected in ((["scalar", "avx2"], "native"), (["scalar", "neon", "met tomorrow"], "native"), (["scalar"], "onnx")):
        monkeypatch.setattr(clib, "kernels", lambda found=found: found)
        assert shipped_backend() == expected
        assert shipped_backend(provider="cuda") == "onnx"
    monkeypatch.undo()
    monkeypatch.setattr(clib, "library_path", lambda: None)
    clib.load_library.cache_clear()
    try:
        assert EmotionRecognizer().path.suffix == ".onnx"
    finally:
        clib.load_library.cache_clear()


def test_kernels_are_taken_by_name(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(5).normal(0, 0.1, 30000).astype(np.float32), 16000
    expected = EmotionRecognizer(backend="native").predict(samples)
    for name in clib.kernels():
        monkeypatch.setenv("EDGE_SER_KERNEL", name)
        recognizer = EmotionRecognizer()
        assert (recognizer.path.suffix, recognizer._backend.kernel) == (".eser", name)
        answer = recognizer.predict(samples)
        assert np.array_equal(answer.logits, expected.logits)
        assert np.array_equal(answer.embedding, expected.embedding)
    for name in {"avx3", "amx"} - set(clib.kernels()):
        monkeypatch.setenv("EDGE_SER_KERNEL", name)
        with pytest.raises(BackendError, match=rf"^EDGE_SER_KERNEL is '{name}'.*; this processor runs scalar"):
            EmotionRecognizer()


def test_the_fastest_kernels_are_in_use(recognizer: EmotionRecognizer) -> None:
    names = clib.kernels()
    assert names[0] == "scalar"
    library = clib.load_library()
    library.eser_kernels_best.restype = ctypes.c_void_p
    backend = recognizer._backend
    assert isinstance(backend, NativeBackend)
    assert backend._kernels == library.eser_kernels_best() == library.eser_kernels_at(len(names) - 1)
