"""Hostile graphs under a right seal: no engine sees them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_ser import EmotionRecognizer
from edge_ser.engines import open_backend
from edge_ser.errors import BackendError, ModelFileError
from edge_ser.model.graph import METADATA_KEY
from edge_ser.model.manifest import read_model_file, shipped_model_path

SHIPPED, TFLITE = shipped_model_path(), shipped_model_path(".tflite")
SAMPLES = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)


def resealed(tmp_path: Path, change: Callable[[Any], object]) -> Path:
    """Return a copy of the shipped ONNX file that was changed and has the right hash."""
    model = onnx.load(SHIPPED)
    change(model)
    table = json.loads(model.metadata_props[0].value)
    table["graph_sha256"] = hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()
    model.metadata_props[0].value = json.dumps(table)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def weight(model: Any, name: str) -> Any:
    return next(w for w in model.graph.initializer if w.name == name)


def node(model: Any, op: str) -> Any:
    return next(n for n in model.graph.node if n.op_type == op)


def external(model: Any) -> None:
    tensor = weight(model, "mean")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.insert(0, helper.make_node("Loop", ["end", ""], ["x"], body=body))


def constant(model: Any) -> None:
    node(model, "Sub").attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(2))))


def not_finite(model: Any) -> None:
    tensor = weight(model, "fc1.bias")
    tensor.raw_data = struct.pack("<f", float("nan")) + tensor.raw_data[4:]


def test_the_shipped_model_survives_sealing(tmp_path: Path) -> None:
    assert EmotionRecognizer(resealed(tmp_path, lambda model: None)).predict((SAMPLES, 16000)).confidence > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "a Tensor in it has external_data, numbers kept in another file"),
        (loop, "holds node input='end' input='' output='x' op_type='Loop'"),
        (constant, "a Attribute in it has field 5"),
        (lambda m: setattr(node(m, "Sub"), "op_type", "ConstantOfShape"), "op_type='ConstantOfShape'"),
        (lambda m: setattr(node(m, "Sub"), "domain", "ai.onnx.ml"), "a Node in it has domain, operators of another library"),
        (lambda m: m.functions.add(name="f", domain="x"), "a Model in it has functions"),
        (lambda m: m.graph.sparse_initializer.add(), "a Graph in it has sparse_initializer"),
        (lambda m: m.opset_import.add(domain="x", version=1), "holds opset_import domain='x'"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "holds input name='features'"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.ClearField("dim"), r"shape\(\)\)\), where the int8 graph"),
        (lambda m: setattr(m.graph, "name", "\x1b[2J\n"), r"holds name '\\x1b\[2J\\n'"),
        (lambda m: setattr(m.graph.output[0], "name", "answers"), "holds output name='answers'"),
        (lambda m: weight(m, "mean").dims.__setitem__(0, 2**40), "expected 1099511627776 numbers of <f4"),
        (lambda m: setattr(weight(m, "judged"), "raw_data", struct.pack("<q", -1)), r"'judged' <i8\[1\] \[-1\]"),
        (lambda m: setattr(weight(m, "mean"), "data_type", TensorProto.STRING), "its tensor 'mean' is of type 8"),
        (lambda m: m.graph.initializer.append(weight(m, "mean")), "holds initializer 'mean'"),
        (not_finite, "its tensor 'fc1.bias' holds numbers that are not finite"),
    ],
)
def test_a_hostile_onnx_graph_is_refused(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_model_file(resealed(tmp_path, change))


@pytest.mark.parametrize("times", [2, 3])
def test_a_second_graph_is_refused(tmp_path: Path, times: int) -> None:
    path = tmp_path / "twice.onnx"
    path.write_bytes(SHIPPED.read_bytes() * times)  # engines merge them
    with pytest.raises(ModelFileError, match="graph and manifest disagree"):
        read_model_file(path)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    content = SHIPPED.read_bytes()
    graph = onnx.load(SHIPPED).graph.SerializeToString(deterministic=True)
    renamed = graph.replace(b"features_centred", b"features_\xff\xfeentred"[:16])
    assert renamed != graph
    assert graph in content
    old, new = (hashlib.sha256(g).hexdigest().encode() for g in (graph, renamed))
    path = tmp_path / "names.onnx"
    path.write_bytes(content.replace(graph, renamed).replace(old, new))
    with pytest.raises(ModelFileError, match="it is no complete ONNX file"):
        read_model_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.signatureDefs.clear(), "where the int8 graph of 128 bins and 4 labels has signature_def"),
        (lambda m: setattr(m.subgraphs[0].tensors[0], "shape", []), "holds tensor 0 shape=\\[\\]"),
        (lambda m: setattr(m.operatorCodes[0], "customCode", b"Evil"), "a Code in it has field 1"),
        (lambda m: setattr(m.operatorCodes[0], "builtinCode", 127), "builtin_code=127"),
        (lambda m: setattr(m.buffers[0], "offset", 2**40), "a Buffer in it has field 1"),
        (lambda m: m.subgraphs[0].operators[0].inputs.__setitem__(0, 10**6), r"inputs=\[1000000, 1\]"),
        (lambda m: setattr(m.subgraphs[0].tensors[0], "buffer", 10**6), "it is no complete TFLite file"),
        (lambda m: m.subgraphs.pop(), "where the int8 graph of 128 bins and 4 labels has subgraph"),
    ],
)
def test_a_hostile_tflite_graph_is_refused(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    from edge_ser.model.tflite_file import seal_tflite
    from edge_ser_export.flatbuffer import Graph

    graph = Graph()
    graph.model = graph.schema.ModelT.InitFromPackedBuf(TFLITE.read_bytes(), 0)
    for buffer in graph.model.buffers:
        buffer.data = None if buffer.data is None else bytes(buffer.data)
    for subgraph in graph.model.subgraphs:
        for operator in subgraph.operators:
            operator.inputs = list(operator.inputs)
    change(graph.model)
    manifest = graph.model.buffers[graph.model.metadata[0].buffer]

    def serialise(text: str) -> bytes:
        manifest.data = text.encode()
        return graph.serialise()

    path = tmp_path / "changed.tflite"
    text = read_model_file(TFLITE).manifest.to_json()

    def read() -> None:
        path.write_bytes(seal_tflite(serialise, text))
        read_model_file(path)

    with pytest.raises(ModelFileError, match=message):
        read()


def test_a_graph_whose_answer_is_not_finite_is_refused(tmp_path: Path) -> None:
    def louder(model: Any) -> None:
        tensor = weight(model, "fc2.weight.scale")
        tensor.raw_data = np.full(4, 3e38, dtype="<f4").tobytes()

    recognizer = EmotionRecognizer(resealed(tmp_path, louder))
    with pytest.raises(BackendError, match="answered logits that are not finite; the model was damaged"):
        recognizer.predict((SAMPLES, 16000))


@pytest.mark.parametrize("path", [SHIPPED, TFLITE], ids=["onnx", "tflite"])
def test_an_engine_that_refuses_a_graph_is_silent(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = read_model_file(path)
    cut = replace(model, content=model.content[:100_000])
    with pytest.raises(BackendError, match="refused the graph"):
        open_backend(cut, "auto", threads=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("field", [b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x0b\x0c"])
def test_a_field_of_another_wire_type_is_refused(tmp_path: Path, field: bytes) -> None:
    path = tmp_path / "wire.onnx"
    path.write_bytes(
        field + SHIPPED.read_bytes()
    )  # an engine would skip a version of fixed width, and this would take it for one
    with pytest.raises(ModelFileError, match="it is no complete ONNX file"):
        read_model_file(path)


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ModelFileError, match="larger than 64 MB"):
        read_model_file(path)


def test_the_manifest_is_the_only_metadata(tmp_path: Path) -> None:
    path = resealed(tmp_path, lambda model: model.metadata_props.add(key="other", value="x"))
    with pytest.raises(ModelFileError, match="holds metadata_props 'other'"):
        read_model_file(path)
    assert METADATA_KEY == "edge_ser"
