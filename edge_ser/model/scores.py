"""Scores in a model file's manifest, renewed without a change to the graph: what the file itself was measured to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_ser.errors import ModelFileError
from edge_ser.files import writing
from edge_ser.model.containers import CONTAINERS
from edge_ser.model.eser_file import with_manifest
from edge_ser.model.graph import METADATA_KEY
from edge_ser.model.manifest import Manifest, read_model_file
from edge_ser.model.tflite_file import seal_tflite, tflite_manifest

SCORE_FIELDS = (
    *("corpus", "split", "protocol", "n_clips", "n_speakers"),
    *("ua", "ua_95", "wa", "wa_95", "macro_f1", "macro_f1_95", "ece", "by_gender"),
)
"""What a manifest keeps of an evaluation. ``engine`` beside them says what answered; without it, the float network did."""

_ONNX_METADATA = 14  # of ModelProto in onnx.proto


def record_score(path: Path, evaluation: dict[str, Any], engine: str) -> None:
    """Write what ``evaluation`` found through ``engine`` into the model file, in place of its score on the same clips.

    The graph and the weights keep every byte. Raises ModelFileError when the file cannot be read, or written.
    """
    file = read_model_file(path)
    score = _rounded({key: evaluation[key] for key in SCORE_FIELDS}) | {"engine": engine}
    scores = {(s["corpus"], s["split"]): s for s in file.manifest.scores} | {(score["corpus"], score["split"]): score}
    manifest = replace(file.manifest, scores=tuple(scores.values()))
    content = _WRITERS[path.suffix](file.content, CONTAINERS[path.suffix](file.content)[0], manifest.to_json())
    text, found, _ = CONTAINERS[path.suffix](content)
    sealed = Manifest.from_json(text)
    if sealed != replace(manifest, graph_sha256=found):
        raise ModelFileError(f"{path}: the manifest does not lie where it can be renewed; export the file again")
    with writing(path, "the model", ModelFileError) as file_:
        file_.write(content)


def _rounded(value: Any) -> Any:
    """Return a score with six decimals everywhere: more than its intervals are worth."""
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(of) for of in value]
    return round(value, 6) if isinstance(value, float) else value


def _onnx_with(content: bytes, before: str, after: str) -> bytes:
    """Return the ModelProto with another entry of its metadata; all other fields stay as they lie."""
    old, new = (_delimited(_ONNX_METADATA, _delimited(1, METADATA_KEY) + _delimited(2, text)) for text in (before, after))
    return content.replace(old, new)


def _delimited(number: int, data: bytes | str) -> bytes:
    """Return a length-delimited field as Protocol Buffers encode it."""
    data = data.encode() if isinstance(data, str) else data

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)

    return varint(number << 3 | 2) + varint(len(data)) + data


def _tflite_with(content: bytes, before: str, after: str) -> bytes:
    """Return the flatbuffer with another manifest: in the room of the old one, or behind all else."""

    def serialise(text: str) -> bytes:
        offset, start, old = tflite_manifest(content)
        room, data = len(old.encode()), text.encode()
        if len(data) <= room:
            return content[:start] + data.ljust(room) + content[start + room :]
        if start + room == len(content):
            changed = bytearray(content[: start - 4])  # before the text stands its length
        else:
            changed = bytearray(content)
            changed[start : start + room] = bytes(room)
        changed += bytes(12 - len(changed) % 16 + 16 * (len(changed) % 16 > 12))  # the data, behind its length, begins at 16 n
        changed[offset : offset + 4] = (len(changed) - offset).to_bytes(4, "little")
        return bytes(changed) + len(data).to_bytes(4, "little") + data

    return seal_tflite(serialise, after)


_WRITERS: dict[str, Callable[[bytes, str, str], bytes]] = {
    ".onnx": _onnx_with,
    ".tflite": _tflite_with,
    ".eser": lambda content, before, after: with_manifest(content, after),
}
