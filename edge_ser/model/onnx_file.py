"""ONNX files, read without ONNX: the manifest, the graph's hash, and a description of everything else in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from edge_ser.errors import ModelFileError
from edge_ser.model.graph import METADATA_KEY, Contents, numbers, words

_Kind: TypeAlias = "type[int] | type[str] | type[bytes] | str"
_FIELDS: dict[str, dict[int, tuple[str, _Kind]]] = {
    "Model": {
        1: ("ir_version", int),
        2: ("producer_name", str),
        7: ("graph", "Graph"),
        8: ("opset_import", "Opset"),
        14: ("metadata_props", "Entry"),
    },
    "Opset": {1: ("domain", str), 2: ("version", int)},
    "Entry": {1: ("key", str), 2: ("value", str)},
    "Graph": {
        1: ("node", "Node"),
        2: ("name", str),
        5: ("initializer", "Tensor"),
        11: ("input", "Value"),
        12: ("output", "Value"),
    },
    "Node": {1: ("input", str), 2: ("output", str), 3: ("name", str), 4: ("op_type", str), 5: ("attribute", "Attribute")},
    "Attribute": {1: ("name", str), 3: ("i", int), 4: ("s", str), 6: ("g", "Graph"), 8: ("ints", int), 20: ("type", int)},
    "Tensor": {1: ("dims", int), 2: ("data_type", int), 8: ("name", str), 9: ("raw_data", bytes)},
    "Value": {1: ("name", str), 2: ("type", "Type")},
    "Type": {1: ("tensor_type", "TensorType")},
    "TensorType": {1: ("elem_type", int), 2: ("shape", "Shape")},
    "Shape": {1: ("dim", "Dim")},
    "Dim": {1: ("dim_value", int), 2: ("dim_param", str)},
}
"""Messages of onnx.proto by field number, as far as edge-ser writes them; any other field is refused."""
_REFUSED = {
    ("Tensor", 13): "external_data, numbers kept in another file",
    ("Tensor", 14): "data_location, numbers kept in another file",
    ("Model", 25): "functions",
    ("Graph", 15): "sparse_initializer",
    ("Node", 7): "domain, operators of another library",
}
_TYPES = {1: "<f4", 2: "<u1", 3: "<i1", 6: "<i4", 7: "<i8"}  # TensorProto.DataType
_INT64 = 7
_MAX_MESSAGE = 4096  # bytes of a node or a value, without its tensors and graphs
_INCOMPLETE = "it is no complete ONNX file; it was truncated, damaged or is something else"


def read_onnx(content: bytes) -> Contents:
    """Return what a file holds; ModelFileError for bytes that are no ONNX file, or one without a manifest."""
    graph = memoryview(b"")
    manifest: str | None = None
    try:
        for number, value in wire_fields(memoryview(content)):
            name = _FIELDS["Model"].get(number, ("", ""))[0]
            if name == "graph" and isinstance(value, memoryview):
                graph = value
            elif name == "metadata_props" and isinstance(value, memoryview):
                entry = dict(_named("Entry", value))
                if entry.get("key") == METADATA_KEY:
                    manifest = entry.get("value")
    except (ValueError, IndexError):
        raise ModelFileError(_INCOMPLETE) from None
    if not graph:
        raise ModelFileError("it is no complete ONNX file; it holds no graph")
    if manifest is None:
        raise ModelFileError("it has no edge-ser manifest; expected a file made by edge-ser export")
    return Contents(manifest, hashlib.sha256(graph).hexdigest(), _description(content))


def _description(content: bytes) -> Iterator[str]:
    try:
        yield from _lines("Model", memoryview(content), "")
    except (ValueError, IndexError):
        raise ModelFileError(_INCOMPLETE) from None


def _lines(kind: str, message: memoryview, indent: str) -> Iterator[str]:
    """Yield a line for every field of a Model or a Graph, and a Graph's own lines below."""
    if len(indent) > 8:
        raise ModelFileError("its graphs are nested; expected a file as edge-ser export writes it")
    for name, value in _named(kind, message):
        field = next(k for n, k in _FIELDS[kind].values() if n == name)
        if field == "Graph":
            yield f"{indent}{name}"
            yield from _lines("Graph", value, indent + " ")
        elif field == "Tensor":
            yield f"{indent}{name} {_tensor(value)}"
        elif field == "Entry":
            yield f"{indent}{name} {next(iter(_named('Entry', value)), ('', ''))[1]!a}"
        elif isinstance(value, memoryview):
            graphs: list[memoryview] = []
            yield f"{indent}{name} {_words(str(field), value, graphs)}"
            for graph in graphs:
                yield from _lines("Graph", graph, indent + "  ")
        else:
            yield f"{indent}{name} {value!a}"


def _words(kind: str, message: memoryview, graphs: list[memoryview]) -> str:
    """Return a message in one line; the graphs in it are put into ``graphs``."""
    parts = []
    size = len(message)
    for name, value in _named(kind, message):
        if name == "g":
            graphs.append(value)
            size -= len(value)
            parts.append("g")
        elif isinstance(value, memoryview):
            before = len(graphs)
            parts.append(f"{name}({_words(dict(_FIELDS[kind].values())[name], value, graphs)})")  # type: ignore[arg-type]
            size -= sum(len(g) for g in graphs[before:])
        else:
            parts.append(words([(name, value)]))
        if len(parts) > _MAX_MESSAGE:  # it is too large: refused below, before all of it is in memory
            break
    if size > _MAX_MESSAGE:
        raise ModelFileError(f"it holds a {kind} of {size} bytes; expected a file as edge-ser export writes it")
    return " ".join(parts)


def _tensor(message: memoryview) -> str:
    """Return a tensor in one line; int64 numbers steer a graph and are spelt out, all others are free."""
    fields = list(islice(_named("Tensor", message), 16))
    shape = [value for name, value in fields if name == "dims"]
    rest = dict(fields)
    name, kind, data = rest.get("name", ""), rest.get("data_type", 0), rest.get("raw_data", b"")
    if kind not in _TYPES or len(fields) != len(shape) + 3 or len(shape) > 8:
        raise ModelFileError(
            f"its tensor {name!a} is of type {kind} and {len(shape)} dimensions; expected one as export writes it"
        )
    numbers(data, _TYPES[kind], shape, ascii(name))
    values = f" {np.frombuffer(data, '<i8').tolist()}" if kind == _INT64 and len(data) <= _MAX_MESSAGE else ""
    return f"{name!a} {_TYPES[kind]}{shape}{values}"


def _named(kind: str, message: memoryview) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of every field of a message; ModelFileError for a field that edge-ser does not write."""
    for number, value in wire_fields(message):
        name, expected = _FIELDS[kind].get(number, ("", ""))
        if not name or isinstance(value, int) != (expected is int):
            what = _REFUSED.get((kind, number), f"field {number}")
            raise ModelFileError(f"a {kind} in it has {what}; expected a file as edge-ser export writes it")
        yield name, bytes(value).decode() if expected is str and isinstance(value, memoryview) else value


def wire_fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield (field number, value) of every field; ValueError or IndexError for malformed bytes.

    Source: the Protocol Buffers encoding, wire types 0 (varint, a signed 64-bit number here) and 2 (length-delimited). No field
    that edge-ser writes has another; an engine would skip a known field of the wrong type.
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("varint too long")

    while position < len(message):
        tag = varint()
        wire_type = tag & 7
        if wire_type == 0:
            value = varint()
            yield tag >> 3, value - (value >> 63 << 64)
            continue
        if wire_type != 2:
            raise ValueError(f"wire type {wire_type}")
        length = varint()
        if position + length > len(message):
            raise ValueError("truncated")
        yield tag >> 3, message[position : position + length]
        position += length
