"""Where the manifest lies inside a model file, found without any engine by walking the few top-level fields."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from edge_ser.errors import ModelFileError
from edge_ser.model.eser_file import read_eser

METADATA_KEY = "edge_ser"

_ONNX_GRAPH, _ONNX_METADATA = 7, 14  # field numbers of ModelProto in onnx.proto
_TFLITE_BUFFERS, _TFLITE_METADATA = 4, 6  # fields of Model in TFLite's schema.fbs
_UNSEALED = b"0" * 64
"""Stands in a TFLite manifest for the hash while the file, that manifest included, is hashed."""
_SEAL = re.compile(rb'"graph_sha256": "([0-9a-f]{64})"')


def _read_onnx(content: bytes) -> tuple[str, str]:
    """Return the manifest of an ONNX ModelProto and the SHA-256 of its serialised graph."""
    graph = memoryview(b"")
    metadata: dict[str, str] = {}
    try:
        for number, value in _protobuf_fields(memoryview(content)):
            if number == _ONNX_GRAPH:
                graph = value
            elif number == _ONNX_METADATA:
                entry = dict(_protobuf_fields(value))
                metadata[bytes(entry[1]).decode()] = bytes(entry[2]).decode()
    except (ValueError, KeyError, IndexError):
        raise ModelFileError("it is no complete ONNX file; it was truncated, damaged or is something else") from None
    if not graph:
        raise ModelFileError("it is no complete ONNX file; it holds no graph")
    if METADATA_KEY not in metadata:
        raise ModelFileError("it has no edge-ser manifest; expected a file made by edge-ser export")
    return metadata[METADATA_KEY], _sha256(graph)


def _protobuf_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, bytes) of every length-delimited field; ValueError or IndexError for malformed bytes.

    Source: the Protocol Buffers encoding, wire types 0 (varint), 1 (64 bit), 2 (length-delimited), 5 (32 bit).
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
            varint()
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            length = varint()
            if position + length > len(message):
                raise ValueError("truncated")
            yield tag >> 3, message[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {wire_type}")
    if position != len(message):
        raise ValueError("truncated")


def _sha256(*parts: bytes | memoryview) -> str:
    import hashlib  # it brings OpenSSL along, which importing edge_ser need not wait for

    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read_tflite(content: bytes) -> tuple[str, str]:
    """Return the manifest of a TFLite file and the SHA-256 of the whole file, the hash in the manifest taken for zeros."""
    try:
        _, start, text = tflite_manifest(content)
    except (struct.error, UnicodeDecodeError, IndexError, RecursionError):
        raise ModelFileError("it is no complete TFLite file; it was truncated, damaged or is something else") from None
    seal = _SEAL.search(content, start, start + len(text.encode()))
    if seal is None:
        raise ModelFileError("manifest: 'graph_sha256' is missing; the file was edited")
    view = memoryview(content)
    return text, _sha256(view[: seal.start(1)], _UNSEALED, view[seal.end(1) :])


def seal_tflite(serialise: Callable[[str], bytes], manifest: str) -> bytes:
    """Return the file that ``serialise`` makes of a manifest, with the file's own hash written into it."""
    content = serialise(_SEAL.sub(b'"graph_sha256": "' + _UNSEALED + b'"', manifest.encode()).decode())
    _, start, text = tflite_manifest(content)
    seal = _SEAL.search(content, start, start + len(text.encode()))
    assert seal is not None
    return content[: seal.start(1)] + _sha256(content).encode() + content[seal.end(1) :]


def tflite_manifest(content: bytes) -> tuple[int, int, str]:
    """Return where the offset that leads to the manifest lies, where its text starts, and the text.

    Raises struct.error or IndexError for malformed bytes.

    Source: the FlatBuffers encoding: a table begins with the signed distance to its vtable, which lists the offset of every
    field (0: absent); strings, vectors and tables are reached by unsigned offsets from where they are written.
    """
    if content[4:8] != b"TFL3":
        raise struct.error

    def u32(position: int) -> int:
        if position < 0:
            raise struct.error
        value: int = struct.unpack_from("<I", content, position)[0]
        return value

    def field(table: int, number: int) -> int:
        """Return the position of a table's field, 0 where it is absent."""
        vtable = table - struct.unpack_from("<i", content, table)[0]
        if vtable < 0:
            raise struct.error
        size = struct.unpack_from("<H", content, vtable)[0]
        offset = struct.unpack_from("<H", content, vtable + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
        return table + offset if offset else 0

    def follow(position: int) -> int:
        return position + u32(position)

    def vector(position: int) -> list[int]:
        start = follow(position)
        if u32(start) > len(content) // 4:
            raise struct.error
        return [follow(start + 4 + 4 * i) for i in range(u32(start))]

    def raw(position: int) -> tuple[int, bytes]:
        start = follow(position)
        data = content[start + 4 : start + 4 + u32(start)]
        if len(data) != u32(start):
            raise struct.error
        return start + 4, data

    model = u32(0)
    listed = field(model, _TFLITE_METADATA)
    for entry in vector(listed) if listed else ():
        name, buffer = field(entry, 0), field(entry, 1)
        if name and raw(name)[1] == METADATA_KEY.encode():
            buffers = vector(field(model, _TFLITE_BUFFERS))
            offset = field(buffers[u32(buffer) if buffer else 0], 0)
            start, data = raw(offset)
            return offset, start, data.decode()
    raise ModelFileError("it has no edge-ser manifest; expected a file made by edge-ser export")


CONTAINERS: dict[str, Callable[[bytes], tuple[str, str]]] = {
    ".onnx": _read_onnx,
    ".tflite": _read_tflite,
    ".eser": read_eser,
}
"""By file suffix: a function from a file's bytes to its manifest and the SHA-256 of its graph."""
