"""The network as constants in C: ``eser_model.c`` and ``eser_model.h`` for the library in ``edge_ser/csrc``.

The integers are those of every int8 format (see :mod:`edge_ser_export.quantize`); what differs is the arithmetic around them:

    convolutions  accumulator · multiplier / 2^31, rounded half up: one 32-bit multiplier a channel, no shift
    GRU, FC       accumulator · multiplier / 2^shift in units of 1/65536: one multiplier a row, one shift a matrix
    weights       in panels of 16 rows, [n_out / 16][n_in / 4][16][4], which SIMD kernels read straight through
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from edge_ser.arrays import AnyArray, Int8Array, Int32Array
from edge_ser.errors import ExportError
from edge_ser.frontend.features import LOGMEL_V1
from edge_ser.geometry import frequency_major
from edge_ser.model.c_source import CSource, c_source
from edge_ser.model.eser_file import MAX_BIAS, MAX_LABELS, ONE, STATE_UNIT, in_panels, matrices, packed, serialise
from edge_ser.model.manifest import Manifest
from edge_ser_export.quantize import QuantizedNet, QuantizedRows
from edge_ser_train.method.model import EmotionNet


@dataclass(frozen=True)
class Layer:
    """A matrix as ``eser_layer`` has it."""

    weight: Int8Array
    bias: Int32Array
    multiplier: Int32Array
    shift: int


def require_c(front_end: str, n_labels: int) -> None:
    """Raise ExportError for a model that the C library does not run."""
    if front_end != LOGMEL_V1.name:
        raise ExportError(f"the C library has the front end {LOGMEL_V1.name}; this run was trained with {front_end}")
    if n_labels > MAX_LABELS:
        raise ExportError(f"the C library has room for {MAX_LABELS} labels; this run has {n_labels}")


def layers(net: EmotionNet, quantized: QuantizedNet) -> dict[str, Layer]:
    """Return every layer by its name in ``eser_model``; ExportError for numbers that do not fit."""
    found = {}
    given = quantized.input
    for i, conv in enumerate(quantized.convs):
        # [c_out, k, k · c_in]: what lies in one row of the input is one run of bytes; runs are multiples of four.
        runs = conv.weight.transpose(0, 2, 3, 1).reshape(len(conv.weight), conv.weight.shape[2], -1)
        runs = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % 4)))
        rows = runs.reshape(len(runs), -1)
        bias = conv.bias - given.zero_point * rows.sum(axis=1, dtype=np.int64)
        scale = np.float64(given.scale) * conv.scale / conv.out.scale
        found[f"conv{i + 1}"] = _layer(f"conv{i + 1}", in_panels(rows), bias, np.rint(scale * 2.0**31), 31)
        given = conv.out
    state = dict(net.gru.named_parameters())
    for direction, suffix in (("forward", ""), ("backward", "_reverse")):
        rows_in, rows_h = (quantized.gru[f"weight_{source}_l0{suffix}"] for source in ("ih", "hh"))
        rows_in = replace(rows_in, weight=frequency_major(rows_in.weight))
        found[f"gru_input_{direction}"] = _rows(f"GRU {direction}", rows_in, state[f"bias_ih_l0{suffix}"], given.scale)
        found[f"gru_recurrent_{direction}"] = _rows(f"GRU {direction}", rows_h, state[f"bias_hh_l0{suffix}"], STATE_UNIT)
    found["fc1"] = _rows("FC1", quantized.fc1, net.fc1.bias, STATE_UNIT)
    found["fc2"] = _rows("FC2", quantized.fc2, net.fc2.bias, 1 / ONE, panels=False, bits=20)
    return found


def _rows(name: str, rows: QuantizedRows, bias: Tensor, scale_in: float, panels: bool = True, bits: int = 24) -> Layer:
    """Return a matrix whose product comes out in 1/65536, with multipliers below 2^bits."""
    unit = rows.scale.astype(np.float64) * scale_in
    steps = np.rint(bias.detach().cpu().numpy().astype(np.float64) / unit)
    shift = bits - int(np.ceil(np.log2((unit * ONE).max() * (1 + 2.0**-bits))))
    weight = in_panels(rows.weight) if panels else rows.weight
    return _layer(name, weight, steps, np.rint(unit * ONE * 2.0**shift), shift)


def _layer(name: str, weight: Int8Array, bias: AnyArray, multiplier: AnyArray, shift: int) -> Layer:
    if not (np.abs(bias).max() <= MAX_BIAS and multiplier.min() >= 0 and multiplier.max() < 2**31 and 1 <= shift <= 62):
        raise ExportError(
            f"{name}: its scales or biases do not fit 32 bits (bias {np.abs(bias).max():.3g}, multiplier {multiplier.max():.3g}, "
            f"shift {shift}); calibrate on ordinary speech, or train without channels that died"
        )
    return Layer(weight, bias.astype(np.int32), multiplier.astype(np.int32), shift)


def constants_of(net: EmotionNet, quantized: QuantizedNet) -> dict[str, AnyArray]:
    """Return the constants by their names in :mod:`edge_ser.model.eser_file`."""
    gain = quantized.inverse_std.astype(np.float64) / quantized.input.scale
    offset = quantized.input.zero_point - quantized.mean * gain
    found = layers(net, quantized)
    constants: dict[str, AnyArray] = {
        "feature_gain": gain.astype(np.float32),
        "feature_offset": offset.astype(np.float32),
        "prelu": np.rint(net.prelu.weight.detach().cpu().numpy().astype(np.float64) * ONE).astype(np.int32),
        "shift": np.array([found[name].shift for name in matrices(net.fc2.out_features)], dtype=np.int32),
    }
    for name, layer in found.items():
        constants |= {f"{name}_weight": layer.weight, f"{name}_bias": layer.bias, f"{name}_multiplier": layer.multiplier}
    return constants


def build_eser(constants: dict[str, AnyArray], manifest: Manifest) -> bytes:
    """Return the ``.eser`` file of :func:`constants_of` a network."""
    return serialise(_signed(manifest, constants).to_json(), constants, len(manifest.labels))


def build_c(constants: dict[str, AnyArray], manifest: Manifest) -> CSource:
    """Return the source files of the same numbers; the same text for the same arguments."""
    return c_source(_signed(manifest, constants), constants)


def _signed(manifest: Manifest, constants: dict[str, AnyArray]) -> Manifest:
    digest = hashlib.sha256(packed(constants, len(manifest.labels))).hexdigest()
    return replace(manifest, graph_sha256=digest)
