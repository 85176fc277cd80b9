"""Changes of a TFLite file: its numbers, its tables, its bytes, its manifest."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_ser.model.tflite_file import _SEAL, _UNSEALED, _File
from tests.fuzz.mutations import FLOATS, WHOLE, changed_bytes, changed_numbers, mutated_manifest


class _Recorded(_File):
    """A TFLite file that remembers where its numbers lie."""

    def _scalar(self, kind: str, position: int) -> Any:
        self.__dict__.setdefault("read", []).append((kind, position))
        return super()._scalar(kind, position)


def mutated_tflite(rng: random.Random, content: bytes) -> bytes:
    """Return a TFLite file with its seal."""
    file = _Recorded(content)
    kind = rng.choice(("manifest", "numbers", "structure", "structure", "objects", "bytes"))
    at, _, text = file.manifest()
    found = bytearray(content)
    if kind == "manifest":
        new = mutated_manifest(rng, text.decode()).encode(errors="surrogatepass")
        found += b"\0" * (-len(found) % 16)
        found[at : at + 4] = (len(found) - at).to_bytes(4, "little")
        found += len(new).to_bytes(4, "little") + new + b"\0" * 16
    elif kind == "numbers":
        scales = [(k, p) for k, p in file.__dict__["read"] if k in "fq"]
        if rng.random() < 0.6 or not scales:
            tensors = [t for s in file._model["subgraphs"] for t in s["tensors"] if file._data(t.get("buffer", 0))[2]]
            tensor = rng.choice(tensors)
            _, at, data = file._data(tensor["buffer"])
            found[at : at + len(data)] = changed_numbers(rng, data, {0: "<f4", 2: "<i4", 9: "<i1"}[tensor.get("type", 0)])
        else:
            for _ in range(rng.choice((1, 8))):
                scalar, at = rng.choice(scales)
                dtype = {"f": "<f4", "q": "<i8"}[scalar]
                n = np.dtype(dtype).itemsize
                found[at : at + n] = changed_numbers(rng, content[at : at + n], dtype)
    elif kind == "structure":
        for _ in range(rng.choice((1, 1, 2, 4))):
            scalar, at = rng.choice([(k, p) for k, p in file.__dict__["read"] if k != "f"])
            n = np.dtype(scalar).itemsize
            old = int.from_bytes(content[at : at + n], "little")
            new_value = rng.choice((*WHOLE, old + 1, old - 1, old + 4, old - 4, old * 2, rng.randrange(len(content))))
            found[at : at + n] = (new_value % (1 << 8 * n)).to_bytes(n, "little")
    elif kind == "objects":
        found = bytearray(changed_objects(rng, content))
    else:
        end = max(p for _, p in file.__dict__["read"])
        found = bytearray(changed_bytes(rng, content[: min(end, 60_000)]) + content[min(end, 60_000) :])
    return sealed_tflite(bytes(found))


def changed_objects(rng: random.Random, content: bytes) -> bytes:
    """Change attributes of the objects that a TFLite file unpacks to, and pack them again."""
    from edge_ser_export.flatbuffer import Graph

    graph = Graph()
    graph.model = graph.schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in graph.model.buffers:
        buffer.data = None if buffer.data is None else bytes(buffer.data)
    for _ in range(rng.choice((1, 1, 3))):
        holder: Any = graph.model
        while True:
            if isinstance(holder, list):
                keys: list[Any] = list(range(len(holder)))
                get: Callable[[Any], Any] = holder.__getitem__
            else:
                keys = [k for k in vars(holder) if k not in ("buffers", "metadata", "metadataBuffer", "version")]
                get = vars(holder).__getitem__
            if not keys:
                return content
            key = rng.choice(keys)
            value = get(key)
            if (isinstance(value, (list, np.ndarray)) and len(value)) or hasattr(value, "Pack"):
                if isinstance(value, list) and rng.random() < 0.1:
                    value.append(value[rng.randrange(len(value))]) if rng.random() < 0.5 else value.pop(rng.randrange(len(value)))
                    break
                if isinstance(value, np.ndarray):
                    value = value.tolist()
                    setattr(holder, key, value)
                holder = value
                continue
            if isinstance(value, (int, np.integer)):
                new: Any = rng.choice([v for v in WHOLE if 0 <= v < 128])
            elif isinstance(value, (float, np.floating)):
                new = rng.choice(FLOATS)
            elif isinstance(value, bytes):
                new = rng.choice((b"", b"\xff", b"features", b"encode", b"classify"))
            else:
                new = value
            if isinstance(holder, list):
                holder[key] = new
            else:
                setattr(holder, key, new)
            break
    try:
        return graph.serialise()
    except Exception:  # what cannot be packed is no file
        return content


def sealed_tflite(content: bytes) -> bytes:
    """Return the file with its own hash in its manifest; as it is where it has none any more."""
    seals = list(_SEAL.finditer(content))
    if not seals:
        return content
    seal = seals[-1]
    blank = content[: seal.start(1)] + _UNSEALED + content[seal.end(1) :]
    return blank[: seal.start(1)] + hashlib.sha256(blank).hexdigest().encode() + blank[seal.end(1) :]
