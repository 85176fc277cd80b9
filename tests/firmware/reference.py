"""The integer network written straight from its definition, in numpy: what the C library must equal bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_ser.arrays import Int64Array, UInt8Array
from edge_ser_export.quantize import QuantizedNet, QuantizedRows
from edge_ser_train.method.model import EmotionNet


def half_up(x: Int64Array, multiplier: Any, shift: int) -> Int64Array:
    """Return x · multiplier / 2^shift, rounded half up."""
    return np.asarray((x * multiplier + (1 << (shift - 1))) >> shift, dtype=np.int64)


def encode(quantized: QuantizedNet, levels: UInt8Array) -> Int64Array:
    """Return the vectors [N, 480], frequency-major, of quantised features [T, 128]."""
    x = levels.astype(np.int64)[None]  # [C, T, F]
    given = quantized.input
    for i, conv in enumerate(quantized.convs):
        weight = conv.weight.astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(x - given.zero_point, weight.shape[2:], axis=(1, 2))
        windows = windows[:, :: conv.stride, :: conv.stride]
        # Exact in doubles: the sums stay far below 2^53.
        acc = np.einsum("ctfhw,ochw->otf", windows.astype(np.float64), weight, optimize=True).astype(np.int64)
        acc += conv.bias[:, None, None]
        scale = np.rint(np.float64(given.scale) * conv.scale / conv.out.scale * 2.0**31).astype(np.int64)
        x = np.minimum(255, half_up(np.maximum(acc, 0), scale[:, None, None], 31))
        if i > 0:
            t, f = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
            x = x[:, :t, :f].reshape(len(x), t // 2, 2, f // 2, 2).max(axis=(2, 4))
        given = conv.out
    return np.ascontiguousarray(x.transpose(1, 2, 0).reshape(x.shape[1], -1))


def product(rows: QuantizedRows, bias: Any, x: Int64Array, unit_in: float, bits: int = 24) -> Int64Array:
    """Return rows · x + bias in 1/65536; x [n_in] in ``unit_in``."""
    unit = rows.scale.astype(np.float64) * unit_in
    shift = bits - int(np.ceil(np.log2((unit * 65536).max() * (1 + 2.0**-bits))))
    acc = rows.weight.astype(np.int64) @ x + np.rint(bias.detach().numpy().astype(np.float64) / unit).astype(np.int64)
    return np.clip(half_up(acc, np.rint(unit * 65536 * 2.0**shift).astype(np.int64), shift), -(2**29), 2**29)


def tanh(x: Int64Array) -> Int64Array:
    """Return tanh of x in 1/65536, in 1/32768."""
    table = np.minimum(np.rint(32768 * np.tanh(np.arange(513) / 64)), 32767).astype(np.int64)
    size = np.abs(x)
    low = np.minimum(size >> 10, 511)
    y = table[low] + (((table[low + 1] - table[low]) * (size & 1023) + 512) >> 10)
    return np.sign(x) * np.where(size < 8 << 16, y, 32767)


def sigmoid(x: Int64Array) -> Int64Array:
    """Return the logistic function of x in 1/65536, in 1/32768."""
    return (32768 + tanh(x >> 1) + 1) >> 1


def head(net: EmotionNet, quantized: QuantizedNet, vectors: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return embedding [64] and logits, in 1/65536, of vectors [N, 480], frequency-major."""
    state = dict(net.gru.named_parameters())
    n_freq = vectors.shape[1] // 96
    as_trained = vectors.reshape(-1, n_freq, 96).transpose(0, 2, 1).reshape(len(vectors), -1)
    ends = []
    for suffix in ("", "_reverse"):
        h = np.zeros(128, dtype=np.int64)
        for x in as_trained[::-1] if suffix else as_trained:
            name = f"weight_ih_l0{suffix}"
            wr, wz, wn = product(quantized.gru[name], state[f"bias_ih_l0{suffix}"], x, quantized.convs[-1].out.scale).reshape(
                3, 128
            )
            name = f"weight_hh_l0{suffix}"
            rr, rz, rn = product(quantized.gru[name], state[f"bias_hh_l0{suffix}"], h, 2.0**-15).reshape(3, 128)
            r, z = sigmoid(wr + rr), sigmoid(wz + rz)
            n = tanh(wn + half_up(r, rn, 15))
            h = n + half_up(z, h - n, 15)
        ends.append(h)
    embedding = product(quantized.fc1, net.fc1.bias, np.concatenate(ends), 2.0**-15)
    slope = np.rint(net.prelu.weight.detach().numpy().astype(np.float64) * 65536).astype(np.int64)
    embedding = np.where(embedding < 0, half_up(embedding, slope, 16), embedding)
    return embedding, product(quantized.fc2, net.fc2.bias, embedding, 1 / 65536, bits=20)
