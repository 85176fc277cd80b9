"""One negative test for each invariant of the model file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser import EmotionRecognizer
from edge_ser.errors import BackendError, EdgeSerError, ModelFileError
from edge_ser.model.manifest import Manifest, read_model_file, shipped_model_path

SHIPPED = shipped_model_path()
CONTENT = SHIPPED.read_bytes()


def rewritten(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Return a copy of the shipped model whose manifest was changed."""
    model = onnx.load_from_string(CONTENT)
    table = json.loads(model.metadata_props[0].value)
    change(table)
    model.metadata_props[0].value = json.dumps(table)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def test_manifest_survives_a_round_trip() -> None:
    manifest = read_model_file(SHIPPED).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("format"), "format is not 'edge-ser-model'"),
        (lambda t: t.update(format="other"), "format is not 'edge-ser-model'"),
        (lambda t: t.update(format_version=99), "format_version is 99"),
        (lambda t: t.update(format_version=1), "format_version is 1"),
        (lambda t: t.pop("temperature"), "'temperature' is missing"),
        (lambda t: t.update(code="import os"), "'code' is unknown"),
        (lambda t: t.update(labels=["a"]), "two or more different names"),
        (lambda t: t.update(labels=["a", "a", "b", "c"]), "two or more different names"),
        (lambda t: t.update(labels="abcd"), "labels is 'abcd'; expected a list"),
        (lambda t: t.update(encoder_size=0), "encoder_size is 0"),
        (lambda t: t.update(embedding_size="64"), "embedding_size is '64'"),
        (lambda t: t.update(temperature=0), "temperature is 0"),
        (lambda t: t.update(temperature=float("nan")), "temperature is nan; expected a finite number below 2"),
        (lambda t: t.pop("speech"), "'speech' is missing"),
        (lambda t: t["speech"].update(weights="AAAA"), r"speech\.weights is 'AAAA'; expected 960 numbers of 8 bits in base64"),
        (lambda t: t["speech"].update(weights="Ä" * 1280), r"speech\.weights is .*; expected 960 numbers of 8 bits in base64"),
        (lambda t: t["speech"].update(weights=[1] * 960), r"speech\.weights is \[1, .*; expected a text"),
        (lambda t: t["speech"].update(scale=-1.0), r"speech\.scale is -1\.0; expected a number from 0 to"),
        (lambda t: t["speech"].update(bias=float("nan")), r"speech\.bias is nan"),
        (lambda t: t["speech"].update(threshold=1.5), r"speech\.threshold is 1\.5; expected a number from 0 to 1"),
        (lambda t: t["speech"].pop("threshold"), "speech has no threshold"),
        (lambda t: t.pop("distance"), "'distance' is missing"),
        (lambda t: t["distance"].update(mean="AAAA"), r"distance\.mean is 'AAAA'; expected 960 numbers of 8 bits in base64"),
        (lambda t: t["distance"].update(scale=float("inf")), r"distance\.scale is inf"),
        (lambda t: t["distance"].update(unit=-1.0), r"distance\.unit is -1\.0; expected a number from 0 to"),
        (lambda t: t.pop("speech_mean"), "'speech_mean' is missing"),
        (lambda t: t["speech_mean"].pop(), "length of speech_mean is 127; expected 128"),
        (lambda t: t["speech_mean"].__setitem__(0, -1001), r"speech_mean\[0\] is -1001; expected a number from -1000 to 1000"),
        (lambda t: t["speech_std"].append(1.0), "length of speech_std is 129; expected 128"),
        (lambda t: t["speech_std"].__setitem__(0, float("inf")), r"speech_std\[0\] is inf"),
        (lambda t: t["speech_std"].__setitem__(0, 0.0), r"speech_std\[0\] is 0.0; expected a number from 1e-06"),
        (lambda t: t["speech_std"].__setitem__(0, "1"), r"speech_std\[0\] is '1'"),
        (lambda t: t.update(speech_std="loud"), "speech_std is 'loud'; expected a list"),
        (lambda t: t["speech_vector"].pop(), "length of speech_vector is 479; expected 480"),
        (lambda t: t["ordinary_vector"].__setitem__(0, -1.0), r"ordinary_vector\[0\] is -1.0; expected a number from 0"),
        (lambda t: t["ordinary_vector"].__setitem__(0, float("nan")), r"ordinary_vector\[0\] is nan"),
        (lambda t: t["ordinary_vector"].__setitem__(0, "1"), r"ordinary_vector\[0\] is '1'"),
        (lambda t: t.update(centres=[[0.0]]), "length of centres is 1; expected 4"),
        (lambda t: t.update(centres=[["x"] * 64] * 4), r"centres\[0\]\[0\] is 'x'"),
        (lambda t: t["centres"][3].pop(), r"length of centres\[3\] is 63"),
        (lambda t: t["centres"][1].__setitem__(2, float("nan")), r"centres\[1\]\[2\] is nan"),
        (lambda t: t["centres"][1].__setitem__(2, 10**400), r"centres\[1\]\[2\] is 1000.*…; expected a finite number below 2"),
        (lambda t: t["centres"][1].__setitem__(2, 2e6), r"centres\[1\]\[2\] is 2000000.0; expected a number from -1e\+06"),
        (lambda t: t.update(centres=3), "centres is 3; expected a list"),
        (lambda t: t.update(scores=[1]), r"scores\[0\] is 1; expected a table"),
        (lambda t: t.update(training=[]), r"training is \[\]; expected a table"),
        (lambda t: t["front_end"].update(hop_samples=320), "front_end.hop_samples is 320; expected 160, as 'logmel-v1' has"),
        (lambda t: t["front_end"].update(name="logmel-v9"), "unknown to this version"),
        (lambda t: t["front_end"].update(hops=320), "unknown field 'hops'"),
        (lambda t: t["front_end"].pop("hop_samples"), "missing field 'hop_samples'"),
        (lambda t: t["front_end"].update(n_fft="big"), "front_end.n_fft is 'big'"),
        (lambda t: t.update(labels=[[1], [2], [3], [4]]), r"labels\[0\] is \[1\]; expected a text"),
        (lambda t: t["labels"].__setitem__(0, "sad\x1b[2J"), r"labels\[0\] is .*; expected a text without control characters"),
        (lambda t: t["labels"].__setitem__(0, "\ud800"), r"labels\[0\] is .*; expected a text without control characters"),
        (lambda t: t.update(temperature=10**400), "temperature is 1000"),
        (lambda t: t["front_end"].update(name=[]), "manifest:"),
        (lambda t: t.update(training={}), "training has no train_clips"),
        (lambda t: t["training"].update(corpora=[{}]), r"training.corpora\[0\] has no name"),
        (lambda t: t["training"].update(seed="7"), "training.seed is '7'"),
        (lambda t: t["training"].update(train_clips=True), "training.train_clips is True; expected a whole number"),
        (lambda t: t.update(quantization={}), "quantization has no scheme"),
        (lambda t: t["quantization"].update(vector_scale=0), "quantization.vector_scale is 0"),
        (lambda t: t["quantization"].update(layers=[10**400]), r"quantization.layers\[0\] is 1000"),
        (lambda t: t.update(scores=[{}]), r"scores\[0\] has no corpus"),
        (lambda t: t["scores"][0].update(ua_95=[0.5]), r"scores\[0\].ua_95 is \[0.5\]; expected two numbers"),
        (lambda t: t["scores"][0].update(ua_95=[0.9, 0.5]), r"scores\[0\].ua_95 is \[0.9, 0.5\]; expected two numbers"),
        (lambda t: t["scores"][0].update(ua=83), r"scores\[0\].ua is 83; expected a number from 0 to 1"),
        (lambda t: t["scores"][0].pop("by_gender"), r"scores\[0\] has no by_gender"),
        (lambda t: t["scores"][0].update(by_gender={"female": {"n_clips": 1}}), "by_gender.female has no ua"),
        (lambda t: t["scores"][0].update(by_gender={"male": 0.8}), "by_gender.male is 0.8; expected a table"),
        (lambda t: t.update(intended_use=None), "intended_use is None; expected a text"),
        (lambda t: t.update(intended_use=" "), "intended_use is ' '; expected a text"),
        (lambda t: t.update(created_with={}), "created_with is {}"),
        (lambda t: t.update(created_with={"onnx": 1}), "created_with.onnx is 1; expected a text"),
        (lambda t: t["training"].update(notes=nested(500)), "nested more than 12 deep"),
        (lambda t: t["training"].update(notes="x" * 5_000_000), "expected at most 4000000"),
        (lambda t: t.update(graph_sha256="0" * 64), "its manifest says 000000000000"),
        (lambda t: t.update(graph_sha256=7), "graph_sha256 is 7; expected a text"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        EmotionRecognizer(rewritten(tmp_path, change))


@pytest.mark.parametrize("depth", [20_000, 2_000_000])
def test_json_too_deep_to_parse_is_refused(depth: int) -> None:
    with pytest.raises(ModelFileError, match="manifest"):
        Manifest.from_json("[" * depth + "]" * depth)


def test_a_key_that_comes_twice_is_refused() -> None:
    text = read_model_file(SHIPPED).manifest.to_json()
    with pytest.raises(ModelFileError, match="'seed' comes twice"):
        Manifest.from_json(text.replace('"seed": ', '"seed": 1, "seed": '))


def resized(table: dict[str, Any], encoder_size: int) -> None:
    vectors = {name: [0.0] * encoder_size for name in ("speech_vector", "ordinary_vector")}
    table.update(encoder_size=encoder_size, **vectors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(labels=["a", "b", "c"], centres=t["centres"][:3]), "graph and manifest disagree"),
        (lambda t: resized(t, 512), "encoder_size is 512; expected 480, as a graph of 128 bins has"),
        (lambda t: t.update(embedding_size=2, centres=[[0.0, 0.0]] * 4), "embedding_size is 2; expected 64"),
        (lambda t: t["quantization"].update(scheme="float32"), "where the float32 graph of 128 bins and 4 labels has"),
    ],
)
def test_a_manifest_at_odds_with_the_graph_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        EmotionRecognizer(rewritten(tmp_path, change))


def test_scores_may_know_no_gender(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda t: t["scores"][0].update(by_gender={}))
    assert read_model_file(path).manifest.scores[0]["by_gender"] == {}


def test_an_edited_weight_is_noticed(tmp_path: Path) -> None:
    model = onnx.load_from_string(CONTENT)
    weight = next(w for w in model.graph.initializer if w.name == "fc2.weight.int8")
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    path = tmp_path / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="edited or damaged"):
        EmotionRecognizer(path)


def test_a_foreign_onnx_file_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(CONTENT)
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="no edge-ser manifest"):
        EmotionRecognizer(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "short.onnx"
    path.write_bytes(CONTENT[: int(len(CONTENT) * share)])
    with pytest.raises(ModelFileError, match=r"no complete ONNX file|no edge-ser manifest"):
        EmotionRecognizer(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.onnx", "No such file"), ("folder.onnx", "Is a directory"), ("model.h5", "expected .onnx"), ("model", "nothing")],
)
def test_a_wrong_path_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelFileError, match=message):
        EmotionRecognizer(tmp_path / name)


def test_wrong_engine_settings_are_refused() -> None:
    with pytest.raises(BackendError, match="did you mean 'onnx'"):
        EmotionRecognizer(backend="onx")
    with pytest.raises(BackendError, match="threads is 0"):
        EmotionRecognizer(threads=0)


@settings(max_examples=200, deadline=None)
@given(start=st.integers(0, 4000), content=st.binary(max_size=40), end=st.booleans())
def test_any_bytes_fail_only_with_our_errors(
    tmp_path_factory: pytest.TempPathFactory, start: int, content: bytes, end: bool
) -> None:
    at = len(CONTENT) - 4000 + start if end else start  # the manifest lies at the end
    path = tmp_path_factory.mktemp("fuzz") / "fuzzed.onnx"
    path.write_bytes(CONTENT[:at] + content + CONTENT[at + len(content) :])
    with contextlib.suppress(EdgeSerError):
        read_model_file(path)
