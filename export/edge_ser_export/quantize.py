"""From the float network to integers: what every int8 format is made of, so that ONNX, TFLite and C share one set of numbers.

    real = scale · (q - zero_point)
    activations  uint8, one scale a tensor; the input has a zero point, what follows a ReLU starts at 0
    conv weights int8, symmetric, one scale an output channel; bias int32 at scale_in · scale_w
    GRU, FC      weights int8, symmetric, one scale an output row; biases, slopes and what they compute with stay float

Conv weights use -63 to 63: x86 processors without VNNI add pairs of uint8 · int8 products in 16 bits, which 127 would overflow
(2 · 255 · 127 > 32767) and saturate silently. So the same file gives the same answers there and everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_ser.arrays import AnyArray, Float32Array, Int8Array, Int32Array
from edge_ser.errors import ExportError
from edge_ser.geometry import GRU_SIZE
from edge_ser_train.method.model import EmotionNet, ShiftNorm

CONV_LIMIT = 63
ROW_LIMIT = 127


@dataclass(frozen=True)
class Activation:
    """How a tensor of activations is stored: uint8."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class QuantizedConv:
    """A convolution with batch normalisation folded in, followed by a ReLU and, but for the first, by 2x2 max-pooling."""

    weight: Int8Array
    """[c_out, c_in, k, k]"""
    scale: Float32Array
    """[c_out]"""
    bias: Int32Array
    """[c_out], in units of input scale · weight scale."""
    stride: int
    out: Activation


@dataclass(frozen=True)
class QuantizedRows:
    """A matrix with one scale a row."""

    weight: Int8Array
    """[n_out, n_in]"""
    scale: Float32Array
    """[n_out]"""


@dataclass(frozen=True)
class QuantizedNet:
    """The whole network in integers."""

    mean: Float32Array
    inverse_std: Float32Array
    input: Activation
    """Of the normalised features."""
    convs: tuple[QuantizedConv, ...]
    gru: dict[str, QuantizedRows]
    """``weight_ih_l0``, ``weight_hh_l0`` and the same with ``_reverse``, gates r, z, n as torch has them."""
    fc1: QuantizedRows
    fc2: QuantizedRows


def folded_convs(net: EmotionNet) -> list[tuple[Tensor, Tensor, int]]:
    """Return weight, bias and stride of every convolution, batch normalisation folded in."""
    folded = []
    for conv, norm in zip(net.convs, net.norms, strict=True):
        assert isinstance(conv, nn.Conv2d)
        w, b = conv.weight.detach(), cast(Tensor, conv.bias).detach()
        if isinstance(norm, ShiftNorm):
            w, b = norm.fold(w, b)
        folded.append((w.detach(), b.detach(), conv.stride[0]))
    return folded


@torch.inference_mode()
def activation_ranges(net: EmotionNet, clips: Sequence[Float32Array]) -> list[tuple[float, float]]:
    """Return the smallest and largest value of the normalised input and after every ReLU, over clips' features [T, n_bins]."""
    convs = folded_convs(net)
    ranges = [(0.0, 0.0)] * (1 + len(convs))

    def widen(i: int, x: Tensor) -> None:
        ranges[i] = (min(ranges[i][0], float(x.min())), max(ranges[i][1], float(x.max())))

    for features in clips:
        x = ((torch.from_numpy(np.array(features)) - net.feature_mean) / net.feature_std)[None, None]
        widen(0, x)
        for i, (w, b, stride) in enumerate(convs, start=1):
            x = F.relu(F.conv2d(x, w, b, stride=stride))
            widen(i, x)
            if i > 1:
                x = F.max_pool2d(x, 2)
    return ranges


def quantize(net: EmotionNet, ranges: Sequence[tuple[float, float]]) -> QuantizedNet:
    """Return the network in integers for activations within ``ranges``; ExportError when a range is empty or not finite."""
    for name, (low, high) in zip(("input", *(f"relu{i}" for i in range(1, 5))), ranges, strict=True):
        if not (np.isfinite([low, high]).all() and low <= 0 <= high and high > low):
            raise ExportError(
                f"calibration: {name} ranges from {low:g} to {high:g}; expected finite values that vary; "
                "calibrate on ordinary speech of several lengths"
            )
    activations = []
    for low, high in ranges:
        scale = (high - low) / 255
        activations.append(Activation(float(np.float32(scale)), round(-low / scale)))
    convs = []
    for (w, b, stride), given, out in zip(folded_convs(net), activations, activations[1:], strict=False):
        weight = w.cpu().numpy()
        rows = _rows(weight.reshape(len(weight), -1), CONV_LIMIT)
        bias = np.rint(b.cpu().numpy().astype(np.float64) / (np.float64(given.scale) * rows.scale)).astype(np.int32)
        convs.append(QuantizedConv(rows.weight.reshape(weight.shape), rows.scale, bias, stride, out))
    gru = {name: _rows(p.detach().cpu().numpy(), ROW_LIMIT) for name, p in net.gru.named_parameters() if p.dim() == 2}
    fc1, fc2 = (_rows(fc.weight.detach().cpu().numpy(), ROW_LIMIT) for fc in (net.fc1, net.fc2))
    mean, std = (t.cpu().numpy().astype(np.float32) for t in (net.feature_mean, net.feature_std))
    return QuantizedNet(mean, (1 / std).astype(np.float32), activations[0], tuple(convs), gru, fc1, fc2)


def _rows(weight: AnyArray, limit: int) -> QuantizedRows:
    scale = (np.maximum(np.abs(weight).max(axis=1), 1e-12) / limit).astype(np.float32)
    q = np.clip(np.rint(weight / scale[:, None]), -limit, limit).astype(np.int8)
    return QuantizedRows(q, scale)


@dataclass(frozen=True)
class LayerCoverage:
    """How much of a layer is int8."""

    layer: str
    weights: int
    int8_weights: int
    macs_per_s: int
    """Multiply-accumulates a second of audio."""
    int8_macs_per_s: int


def coverage(net: EmotionNet, head_macs_int8: bool) -> list[LayerCoverage]:
    """Return the coverage of an int8 file, layer by layer.

    A second of audio is 100 frames; convolution i has half as many output frames as the one before. ``head_macs_int8``: whether
    GRU and FC multiply integers, or int8 weights expanded to float.
    """
    layers = []
    frames, bins = 100.0, net.n_bins
    for i, (w, b, stride) in enumerate(folded_convs(net), start=1):
        frames, bins = frames / stride, (bins - w.shape[2]) // stride + 1
        macs = round(frames * bins * w.numel())
        layers.append(LayerCoverage(f"conv{i}", w.numel() + b.numel(), w.numel(), macs, macs))
        if i > 1:
            frames, bins = frames / 2, bins // 2
    for name in ("weight_ih_l0", "weight_hh_l0"):
        n = 2 * getattr(net.gru, name).numel()
        macs = round(frames * n)
        layers.append(LayerCoverage(f"gru {name[7:9]}", n, n, macs, macs if head_macs_int8 else 0))
    layers.append(LayerCoverage("gru bias", 6 * GRU_SIZE, 0, 0, 0))
    for name in ("fc1", "fc2"):
        fc = getattr(net, name)
        n = fc.weight.numel()
        # Once an utterance; counted as once a second.
        layers.append(LayerCoverage(name, n + fc.bias.numel(), n, n, n if head_macs_int8 else 0))
    other = 2 * net.n_bins + net.prelu.weight.numel()
    layers.append(LayerCoverage("normalisation, PReLU", other, 0, 0, 0))
    return layers


def percent(layers: Sequence[LayerCoverage], what: str) -> float:
    """Return how much of ``weights`` or ``macs_per_s`` is int8, in per cent."""
    int8, total = (sum(int(getattr(x, name)) for x in layers) for name in (f"int8_{what}", what))
    return 100 * int8 / total


BLOCK_BINS, BLOCK_POSITIONS = 8, 4
"""The first convolution on blocks: bins that become channels, and the output positions two neighbouring blocks feed."""


def in_blocks(weight: Int8Array) -> Int8Array:
    """Return the first convolution's weight [c_out, 1, k, k] as one for blocks of bins: [4 · c_out, k, 2, 8].

    Engines multiply channels eight at a time, and this input has one. Block b holds bins 8b to 8b + 7, so blocks b and b + 1
    hold what output positions 4b to 4b + 3 see; their kernels lie shifted by two bins each. The same integers, faster.
    """
    c_out, _, k, _ = weight.shape
    spread = np.zeros((BLOCK_POSITIONS, c_out, k, 2 * BLOCK_BINS), dtype=np.int8)
    for p in range(BLOCK_POSITIONS):
        spread[p, :, :, 2 * p : 2 * p + k] = weight[:, 0]
    return spread.reshape(BLOCK_POSITIONS * c_out, k, 2, BLOCK_BINS)


def block_count(width: int) -> int:
    """Return into how many blocks ``width`` output positions of the first convolution fall; its input has one more."""
    return -(-width // BLOCK_POSITIONS)
