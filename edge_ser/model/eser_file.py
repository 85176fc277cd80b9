"""The ``.eser`` file: a manifest and the integers of the C library's ``eser_model``, at places that the labels alone decide.

    "edge-ser" | format u32 | length of the manifest u32 | manifest, JSON padded with spaces to a multiple of 4 | constants

Little-endian. The constants follow one another without gaps, in the order of :func:`constants`, and end with the file; so there
is no offset or size in the file that could point elsewhere.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import numpy as np

from edge_ser.arrays import AnyArray, Int8Array
from edge_ser.errors import ModelFileError
from edge_ser.geometry import CHANNELS, EMBEDDING_SIZE, ENCODER_SIZE, GRU_SIZE, KERNELS, N_BINS
from edge_ser.model.graph import Contents

FORMAT = 5
"""``ESER_MODEL_FORMAT`` of edge_ser/csrc/eser.h."""
MAX_LABELS = 16
MAX_BIAS = 2**30
"""With a sum of products such a bias stays within 32 bits."""
PANEL = 16
"""Rows of a weight panel: weights but FC2's lie as [n_out / 16, n_in / 4, 16, 4]."""
ONE = 65536
"""What lies behind the encoder is in units of 1/65536."""
STATE_UNIT = 2.0**-15
"""Of the GRU's state."""

_MAGIC = b"edge-ser"
_HEADER = struct.Struct("<8sII")


class Matrix(NamedTuple):
    """A matrix of the model."""

    n_in: int
    n_out: int
    limit: int
    """Largest weight: of convolutions two products have to fit 16 bits."""
    bits: int
    """Of the multipliers."""


def matrices(n_labels: int) -> dict[str, Matrix]:
    """Return the matrices in the order of ``eser_model``.

    >>> matrices(4)["conv1"][:2], matrices(4)["conv4"][:2]
    ((56, 48), (720, 96))
    """
    found = {}
    c_in = 1
    for i, (kernel, c_out) in enumerate(zip(KERNELS, CHANNELS, strict=True), start=1):
        # What a kernel sees in one row of the input is one run of bytes; runs are multiples of four.
        found[f"conv{i}"] = Matrix(kernel * -(-kernel * c_in // 4) * 4, c_out, 63, 31)
        c_in = c_out
    for source, n_in in (("input", ENCODER_SIZE), ("recurrent", GRU_SIZE)):
        found |= {f"gru_{source}_{direction}": Matrix(n_in, 3 * GRU_SIZE, 127, 24) for direction in ("forward", "backward")}
    found["fc1"] = Matrix(2 * GRU_SIZE, EMBEDDING_SIZE, 127, 24)
    found["fc2"] = Matrix(EMBEDDING_SIZE, n_labels, 127, 20)
    return found


def constants(n_labels: int) -> dict[str, tuple[str, int]]:
    """Return type and length of every array in the file, in order: words first, so that all of them are aligned."""
    named = matrices(n_labels)
    found = {"feature_gain": ("<f4", N_BINS), "feature_offset": ("<f4", N_BINS), "prelu": ("<i4", EMBEDDING_SIZE)}
    found["shift"] = ("<i4", len(named))
    for name, matrix in named.items():
        found |= {f"{name}_bias": ("<i4", matrix.n_out), f"{name}_multiplier": ("<i4", matrix.n_out)}
    return found | {f"{name}_weight": ("<i1", matrix.n_in * matrix.n_out) for name, matrix in named.items()}


def read_eser(content: bytes) -> Contents:
    """Return the manifest of a file and the SHA-256 of its constants."""
    if len(content) < _HEADER.size:
        raise ModelFileError("it is no complete .eser file; it was truncated, damaged or is something else")
    magic, version, length = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise ModelFileError("it is no .eser file; expected a file made by edge-ser export --format eser")
    if version != FORMAT:
        raise ModelFileError(f"its .eser format is {version}; this version of edge-ser reads {FORMAT} (export it again)")
    end = _HEADER.size + length
    try:
        manifest = content[_HEADER.size : end].decode()
    except UnicodeDecodeError:
        manifest = ""
    if end > len(content) or length % 4 or not manifest:
        raise ModelFileError("it is no complete .eser file; it was truncated, damaged or is something else")
    return Contents(manifest, hashlib.sha256(memoryview(content)[end:]).hexdigest(), iter(()))


def parse(content: bytes, n_labels: int) -> dict[str, AnyArray]:
    """Return the constants of a file that :func:`read_eser` took; ModelFileError for numbers the C library must not see."""
    if n_labels > MAX_LABELS:
        raise ModelFileError(f"it has {n_labels} labels; the C library has room for {MAX_LABELS}")
    position = _HEADER.size + int(_HEADER.unpack_from(content)[2])
    expected = constants(n_labels)
    n_bytes = sum(np.dtype(kind).itemsize * n for kind, n in expected.values())
    if len(content) - position != n_bytes:
        raise ModelFileError(f"it holds {len(content) - position} bytes of constants; expected {n_bytes} for {n_labels} labels")
    found = {}
    for name, (kind, n) in expected.items():
        values = np.frombuffer(content, kind, n, position)
        found[name] = values.astype(values.dtype.newbyteorder("="), copy=False)
        position += values.nbytes
    for name, matrix in matrices(n_labels).items():
        within = {
            "weight": (-matrix.limit, matrix.limit),
            "bias": (-MAX_BIAS, MAX_BIAS),
            "multiplier": (0, 2**matrix.bits - 1 if matrix.bits == 31 else 2**matrix.bits),
        }
        for kind, (low, high) in within.items():
            values = found[f"{name}_{kind}"]
            if values.min() < low or values.max() > high:
                raise ModelFileError(f"{name} has a {kind} beyond {low}..{high}; the file was edited, export it again")
    if found["shift"].min() < 1 or found["shift"].max() > 62:
        raise ModelFileError("a shift is not within 1..62; the file was edited, export it again")
    if not all(np.isfinite(found[name]).all() for name in ("feature_gain", "feature_offset")):
        raise ModelFileError("its feature scales are not finite; the file was edited, export it again")
    return found


def serialise(manifest: str, values: dict[str, AnyArray], n_labels: int) -> bytes:
    """Return a file's bytes; ``values`` by the names of :func:`constants`."""
    return _headed(manifest, packed(values, n_labels))


def with_manifest(content: bytes, manifest: str) -> bytes:
    """Return a file that :func:`read_eser` took with another manifest and the same constants."""
    return _headed(manifest, content[_HEADER.size + int(_HEADER.unpack_from(content)[2]) :])


def _headed(manifest: str, constants: bytes) -> bytes:
    text = manifest.encode()
    text += b" " * (-len(text) % 4)
    return _HEADER.pack(_MAGIC, FORMAT, len(text)) + text + constants


def packed(values: dict[str, AnyArray], n_labels: int) -> bytes:
    """Return the constants as they lie in the file, which is what its SHA-256 is of."""
    parts = []
    for name, (kind, n) in constants(n_labels).items():
        if values[name].size != n:
            raise ValueError(f"{name} has {values[name].size} numbers; expected {n}")
        parts.append(np.ascontiguousarray(values[name], dtype=kind).tobytes())
    return b"".join(parts)


def in_panels(rows: Int8Array) -> Int8Array:
    """Return rows [n_out, n_in] as the panels they lie in, [n_out / 16, n_in / 4, 16, 4]."""
    n_out, n_in = rows.shape
    return np.ascontiguousarray(rows.reshape(n_out // PANEL, PANEL, n_in // 4, 4).transpose(0, 2, 1, 3))


def without_panels(weight: Int8Array, n_out: int) -> Int8Array:
    """Undo :func:`in_panels`: rows [n_out, n_in] of the panels, flattened.

    >>> rows = np.arange(32 * 8, dtype=np.int8).reshape(32, 8)
    >>> bool((without_panels(in_panels(rows).reshape(-1), 32) == rows).all())
    True
    """
    rows: Int8Array = weight.reshape(n_out // PANEL, -1, PANEL, 4).transpose(0, 2, 1, 3).reshape(n_out, -1)
    return rows
