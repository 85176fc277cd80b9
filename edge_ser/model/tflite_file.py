"""TFLite files, read without an engine: the manifest, the file's hash, and a description of everything else in them.

Source: the FlatBuffers encoding and TFLite's schema.fbs. A table begins with the signed distance to its vtable, which lists the
offset of every field (0: absent); strings, vectors and tables are reached by unsigned offsets from where they are written.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edge_ser.errors import ModelFileError
from edge_ser.model.graph import METADATA_KEY, Contents, numbers, words

_TABLES: dict[str, tuple[str, ...]] = {
    "Model": (
        *("version I", "operator_codes [Code", "subgraphs [Subgraph", "description s", "buffers [Buffer", ""),
        *("metadata [Metadata", "signature_defs [Signature"),
    ),
    "Code": ("deprecated_builtin_code b", "", "version i", "builtin_code i"),
    "Subgraph": ("tensors [Tensor", "inputs [i", "outputs [i", "operators [Operator", "name s"),
    "Tensor": (
        *("shape [i", "type b", "buffer I", "name s", "quantization Quantization", "is_variable ?", "", "shape_signature [i"),
        "has_rank ?",
    ),
    "Quantization": ("", "", "scale [f", "zero_point [q", "", "", "quantized_dimension i"),
    "Operator": ("opcode_index I", "inputs [i", "outputs [i", "builtin_options_type B", "builtin_options ?"),
    "Buffer": ("data [B",),
    "Metadata": ("name s", "buffer I"),
    "Signature": ("inputs [Named", "outputs [Named", "signature_key s", "", "subgraph_index I"),
    "Named": ("name s", "tensor_index I"),
}
"""Fields by their number, each with its type: a scalar of :mod:`struct`, a string (s), a table, or a vector ([) of one of these.
Fields that edge-ser does not write have no name and are refused."""
_OPTIONS: dict[int, tuple[str, ...]] = {
    1: ("padding b", "stride_w i", "stride_h i", "activation b", "dilation_w i", "dilation_h i"),  # Conv2DOptions
    5: ("padding b", "stride_w i", "stride_h i", "filter_w i", "filter_h i", "activation b"),  # Pool2DOptions
    8: ("activation b", "weights_format b", "keep_num_dims ?", "asymmetric_quantize_inputs ?"),  # FullyConnectedOptions
    10: ("axis i", "activation b"),  # ConcatenationOptions
    11: ("activation b",),  # AddOptions
    17: ("new_shape [i",),  # ReshapeOptions
    21: ("activation b",),  # MulOptions
    22: (),  # PadOptions
    23: ("axis i", "batch_dims i"),  # GatherOptions
    28: ("activation b",),  # SubOptions
    32: ("begin_mask i", "end_mask i", "ellipsis_mask i", "new_axis_mask i", "shrink_axis_mask i"),  # StridedSliceOptions
    35: ("num_splits i",),  # SplitOptions
    38: (),  # DequantizeOptions
    41: (),  # LessOptions
    48: (),  # SliceOptions
    55: ("out_type b",),  # ShapeOptions
    81: (),  # ReverseV2Options
    89: (),  # QuantizeOptions
    93: ("cond_subgraph_index i", "body_subgraph_index i"),  # WhileOptions
}
"""The same of an operator's options, by their number in the union BuiltinOptions."""
_TYPES = {0: "<f4", 2: "<i4", 6: "<b", 9: "<i1"}  # TensorType
_INT32, _INT8 = 2, 9
_MAX_ITEMS, _MAX_READS = 4096, 200_000
"""Items of a vector or a string, only buffers hold more; and numbers read in all: tables may lie over one another."""
_ALIGNMENT = 16  # of constants, which engines may load with instructions that ask for it
_UNSEALED = b"0" * 64
"""Stands in a manifest for the hash while the file, that manifest included, is hashed."""
_SEAL = re.compile(rb'"graph_sha256": "([0-9a-f]{64})"')


def read_tflite(content: bytes) -> Contents:
    """Return what a file holds; its hash is of the whole file, the hash in the manifest taken for zeros."""
    file = _File(content)
    _, start, data = file.manifest()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ModelFileError("manifest: not UTF-8; the file was edited or damaged") from None
    seal = _SEAL.search(content, start, start + len(data))
    if seal is None:
        raise ModelFileError("manifest: 'graph_sha256' is missing; the file was edited")
    digest = hashlib.sha256(memoryview(content)[: seal.start(1)])
    digest.update(_UNSEALED)
    digest.update(memoryview(content)[seal.end(1) :])
    return Contents(text, digest.hexdigest(), file.description())


def seal_tflite(serialise: Callable[[str], bytes], manifest: str) -> bytes:
    """Return the file that ``serialise`` makes of a manifest, with the file's own hash written into it."""
    content = serialise(_SEAL.sub(b'"graph_sha256": "' + _UNSEALED + b'"', manifest.encode()).decode())
    _, start, data = _File(content).manifest()
    seal = _SEAL.search(content, start, start + len(data))
    assert seal is not None
    return content[: seal.start(1)] + hashlib.sha256(content).hexdigest().encode() + content[seal.end(1) :]


def tflite_manifest(content: bytes) -> tuple[int, int, str]:
    """Return where the offset that leads to the manifest lies, where its text starts, and the text."""
    offset, start, data = _File(content).manifest()
    return offset, start, data.decode()


class _File:
    """The bytes of a file, read table by table; ModelFileError for what lies outside of them or is not of the schema."""

    def __init__(self, content: bytes) -> None:
        self._content, self._reads = content, 0
        if content[4:8] != b"TFL3":
            raise _incomplete()
        self._model = self._table(self._follow(0), "Model")
        self._buffers = self._model.get("buffers", [])

    def manifest(self) -> tuple[int, int, bytes]:
        """Return where the manifest's offset lies, where it starts, and its bytes."""
        for entry in self._model.get("metadata", []):
            if entry.get("name") == METADATA_KEY:
                return self._data(entry.get("buffer", 0))
        raise ModelFileError("it has no edge-ser manifest; expected a file made by edge-ser export")

    def description(self) -> Iterator[str]:
        """Yield a line for every part of the model: operator codes, subgraphs, tensors, operators, signatures."""
        yield words([("version", self._model.get("version")), ("description", self._model.get("description"))])
        for code in self._model.get("operator_codes", []):
            yield f"operator_code {words(code.items())}"
        for subgraph in self._model.get("subgraphs", []):
            yield f"subgraph {words((k, v) for k, v in subgraph.items() if k not in ('tensors', 'operators'))}"
            for i, tensor in enumerate(subgraph.get("tensors", [])):
                yield f" tensor {i} {self._tensor(tensor)}"
            for operator in subgraph.get("operators", []):
                yield f" operator {words(operator.items())}"
        for signature in self._model.get("signature_defs", []):
            yield f"signature_def {words(signature.items())}"
        for entry in self._model.get("metadata", []):
            yield f"metadata {entry.get('name')!a}"

    def _tensor(self, tensor: dict[str, Any]) -> str:
        """Return a tensor in one line; whole numbers that steer a graph are spelt out, weights and scales are free."""
        shape, kind, name = tensor.get("shape", []), tensor.get("type", 0), ascii(tensor.get("name"))
        if kind not in _TYPES:
            raise ModelFileError(f"its tensor {name} is of type {kind}; expected one as edge-ser export writes it")
        line = words([(k, v) for k, v in tensor.items() if k not in ("buffer", "quantization")])
        quantization = tensor.get("quantization")
        if quantization is not None:
            scale = np.array(quantization.get("scale", []), dtype=np.float32)
            zero = quantization.get("zero_point", [])
            if not (np.isfinite(scale).all() and (scale > 0).all()):
                raise ModelFileError(
                    f"its tensor {name} has scales that are not positive; the model was damaged, export it again"
                )
            if not all(z == 0 or (-128 <= z <= 127 and kind == _INT8 and len(zero) == 1) for z in zero):
                raise ModelFileError(f"its tensor {name} has zero points beyond int8; the model was damaged, export it again")
            rest = [(k, v) for k, v in quantization.items() if k not in ("scale", "zero_point")]
            line += f" scales={len(scale)} zero_points={len(zero)} {words(rest)}".rstrip()
        _, start, data = self._data(tensor.get("buffer", 0))
        if data:
            if start % _ALIGNMENT:
                raise ModelFileError(f"its tensor {name} starts at byte {start}; expected a multiple of {_ALIGNMENT}")
            numbers(data, _TYPES[kind], shape, name)
            steers = kind == _INT32 and quantization is None and len(data) <= _MAX_ITEMS
            line += f" constant {np.frombuffer(data, '<i4').tolist() if steers else ''}".rstrip()
        return line

    def _data(self, number: int) -> tuple[int, int, bytes]:
        """Return where a buffer's offset lies, where its bytes start, and them."""
        if number >= len(self._buffers):
            raise _incomplete()
        found: tuple[int, int, bytes] = self._buffers[number].get("data", (0, 0, b""))
        return found

    def _scalar(self, kind: str, position: int) -> Any:
        size = struct.calcsize(kind)
        if position < 0 or position % size or position + size > len(self._content):
            raise _incomplete()
        self._reads += 1
        if self._reads > _MAX_READS:
            raise ModelFileError(f"it holds more than {_MAX_READS} numbers beside its weights; the file was damaged")
        return struct.unpack_from("<" + kind, self._content, position)[0]

    def _follow(self, position: int) -> int:
        found: int = position + self._scalar("I", position)
        return found

    def _table(self, position: int, name: str, fields: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the fields of a table that are there, by name."""
        fields = fields or _TABLES.get(name, ())
        vtable = position - self._scalar("i", position)
        size = self._scalar("H", vtable)
        found: dict[str, Any] = {}
        for number in range((size - 3) // 2):
            offset = self._scalar("H", vtable + 4 + 2 * number)
            if offset == 0:
                continue
            field, _, kind = fields[number].partition(" ") if number < len(fields) else ("", "", "")
            if not field:
                raise ModelFileError(f"a {name} in it has field {number}; expected a file as edge-ser export writes it")
            if field == "builtin_options":
                options = found.get("builtin_options_type")
                if options not in _OPTIONS:
                    raise ModelFileError(f"an operator in it has options {options}; expected a file as edge-ser export writes it")
                found[field] = self._table(self._follow(position + offset), f"Options {options}", _OPTIONS[options])
            else:
                found[field] = self._value(position + offset, kind)
        return found

    def _value(self, position: int, kind: str) -> Any:
        if kind in _TABLES:
            return self._table(self._follow(position), kind)
        if kind != "s" and kind[0] != "[":
            return self._scalar(kind, position)
        start = self._follow(position)
        n, start = self._scalar("I", start), start + 4
        if kind == "[B":
            if start + n > len(self._content):
                raise _incomplete()
            return position, start, self._content[start : start + n]
        if n > _MAX_ITEMS:
            raise ModelFileError(f"it holds a list of {n}; expected at most {_MAX_ITEMS}; the file was damaged")
        if kind == "s":
            text = self._content[start : start + n]
            if self._content[start + n : start + n + 1] != b"\0" or b"\0" in text:
                raise _incomplete()
            return text.decode(errors="backslashreplace")
        item = kind[1:]
        if item in _TABLES:
            return [self._table(self._follow(start + 4 * i), item) for i in range(n)]
        return [self._scalar(item, start + struct.calcsize(item) * i) for i in range(n)]


def _incomplete() -> ModelFileError:
    return ModelFileError("it is no complete TFLite file; it was truncated, damaged or is something else")
