"""Changes of an ONNX file: its numbers, its messages, its bytes, its manifest."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from edge_ser.model.graph import METADATA_KEY
from edge_ser.model.onnx_file import _TYPES, read_onnx
from tests.fuzz.mutations import FLOATS, WHOLE, changed_bytes, changed_numbers, mutated_manifest


def mutated_onnx(rng: random.Random, content: bytes) -> bytes:
    """Return an ONNX file with its seal."""
    import onnx

    model = onnx.load_from_string(content)
    text = model.metadata_props[0].value
    kind = rng.choice(("manifest", "numbers", "message", "message", "bytes"))
    if kind == "manifest":
        text = mutated_manifest(rng, text)
    elif kind == "numbers":
        for _ in range(rng.choice((1, 3))):
            weight = rng.choice(model.graph.initializer)
            weight.raw_data = changed_numbers(rng, weight.raw_data, _TYPES[weight.data_type])
    elif kind == "message":
        for _ in range(rng.choice((1, 1, 3))):
            change_message(rng, model)
    graph = model.graph.SerializeToString(deterministic=True)
    if kind == "bytes":
        weights = {w.name: w.raw_data for w in model.graph.initializer}
        if rng.random() < 0.7:  # near the structure, not within a large weight
            large = max(weights.values(), key=len)
            at = graph.index(large)
            graph = (
                changed_bytes(rng, graph[:at]) + graph[at:] if rng.random() < 0.5 else graph[:at] + changed_bytes(rng, graph[at:])
            )
        else:
            graph = changed_bytes(rng, graph)
    model.ClearField("graph")
    text = text.replace(json.loads(read_onnx(content).manifest)["graph_sha256"], hashlib.sha256(graph).hexdigest())
    del model.metadata_props[:]
    entry = _field(1, METADATA_KEY.encode()) + _field(2, text.encode(errors="surrogatepass"))
    before = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    if model.HasField("ir_version") and model.HasField("producer_name"):
        model.ClearField("ir_version")
        model.ClearField("producer_name")
    else:
        before.Clear()
    parts = before.SerializeToString(), _field(7, graph), model.SerializeToString(deterministic=True), _field(14, entry)
    whole = b"".join(parts)
    return changed_bytes(rng, whole) if rng.random() < 0.02 else whole


def _field(number: int, data: bytes) -> bytes:
    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    return varint(number << 3 | 2) + varint(len(data)) + data


def change_message(rng: random.Random, model: Any) -> None:
    """Change a field of a random message within ``model``: set, removed, repeated, swapped."""
    message = model
    if rng.random() < 0.9:
        message = model.graph
    while True:
        descriptor = rng.choice(
            message.DESCRIPTOR.fields if rng.random() < 0.3 else [f for f, _ in message.ListFields()] or message.DESCRIPTOR.fields
        )
        if descriptor.name == "metadata_props":
            return
        value = getattr(message, descriptor.name)
        repeated = descriptor.is_repeated if hasattr(descriptor, "is_repeated") else descriptor.label == descriptor.LABEL_REPEATED
        if descriptor.message_type is not None and (len(value) if repeated else True) and rng.random() < 0.8:
            message = rng.choice(value) if repeated else value
            continue
        break
    if descriptor.message_type is not None:
        if repeated and len(value):
            i, j = rng.randrange(len(value)), rng.randrange(len(value))
            action = rng.randrange(3)
            if action == 0:
                del value[i]
            elif action == 1:
                value.add().CopyFrom(value[i])
            else:
                copy = type(value[i])()
                copy.CopyFrom(value[i])
                value[i].CopyFrom(value[j])
                value[j].CopyFrom(copy)
        elif repeated:
            value.add()
        else:
            value.SetInParent()
        return
    words = ["Loop", "Scan", "ConstantOfShape", "If", "features", "past", "", "ai.onnx.ml", "/etc/passwd", "x" * 5000, "é"]
    new: Any
    if descriptor.type == descriptor.TYPE_STRING:
        new = rng.choice(words)
    elif descriptor.type == descriptor.TYPE_BYTES:
        new = rng.choice((b"", b"\xff\xfe", rng.randbytes(8)))
    elif descriptor.type in (descriptor.TYPE_FLOAT, descriptor.TYPE_DOUBLE):
        new = rng.choice(FLOATS)
    elif descriptor.type == descriptor.TYPE_ENUM:
        new = rng.choice([v.number for v in descriptor.enum_type.values])
    else:
        small = [v for v in WHOLE if -(2**31) <= v < 2**31]
        new = rng.choice(
            [v for v in WHOLE if v < 2**63] if descriptor.type == descriptor.TYPE_INT64 else [v for v in small if v >= 0]
        )
    if repeated:
        if len(value) and rng.random() < 0.6:
            value[rng.randrange(len(value))] = new
        elif len(value) and rng.random() < 0.5:
            del value[rng.randrange(len(value))]
        else:
            value.append(new)
    elif rng.random() < 0.2:
        message.ClearField(descriptor.name)
    else:
        setattr(message, descriptor.name, new)
