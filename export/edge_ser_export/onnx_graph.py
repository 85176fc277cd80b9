"""The network as an ONNX graph, written node by node: one graph for whole utterances and for streams.

    features float32 [1, T, n_bins]        raw dB, T >= 49          logits    float32 [1, n_labels]
    past     float32 [1, P, encoder_size]  P = 0: no past           embedding float32 [1, 64]
                                                                    encoded   float32 [1, P + N, encoder_size]

encoded = concat(past, encoder(features)); the head runs over all of it. Written by hand rather than traced: thirty nodes with
names a reader recognises, batch normalisation folded in, T and P free, and the same bytes whatever torch's exporter does.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from edge_ser.containers import METADATA_KEY
from edge_ser.model_file import Manifest
from edge_ser_export.quantize import Activation, QuantizedNet, folded_convs
from edge_ser_train.model import EMBEDDING_SIZE, GRU_SIZE, EmotionNet

OPSET = 17
IR_VERSION = 8
"""Older than ONNX Runtime 1.20, the oldest supported; nothing newer is needed."""


def encoder_size(net: EmotionNet) -> int:
    """Return the length of an encoder vector."""
    return int(net.gru.input_size)


def build_graph(net: EmotionNet, quantized: QuantizedNet | None = None) -> Any:
    """Return the onnx.GraphProto of ``net``, in float32 or with the integers of ``quantized``."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(name: str, value: Tensor | npt.NDArray[Any]) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def scale_of(name: str, activation: Activation) -> list[str]:
        scale, zero_point = np.array(activation.scale, dtype=np.float32), np.array(activation.zero_point, dtype=np.uint8)
        return [weight(f"{name}.scale", scale), weight(f"{name}.zero_point", zero_point)]

    def expanded(name: str, rows: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]) -> str:
        # Engines fold Cast and Mul of constants when they load a file; DequantizeLinear they would run every time.
        floats = node("Cast", [weight(f"{name}.int8", rows)], f"{name}.float", to=TensorProto.FLOAT)
        return node("Mul", [floats, weight(f"{name}.scale", scale)], name)

    size = encoder_size(net)
    # Normalisation, per bin; then [1, 1, T, n_bins].
    x = node("Sub", ["features", weight("mean", net.feature_mean)], "features_centred")
    x = node("Mul", [x, weight("inverse_std", 1 / net.feature_std)], "features_normalised")
    x = node("Unsqueeze", [x, weight("channel_axis", np.array([1], dtype=np.int64))], "features_nchw")
    # CNN. The integer convolution's output starts at 0 = zero point, which makes it a ReLU, too.
    if quantized is None:
        for i, (w, b, stride) in enumerate(folded_convs(net), start=1):
            inputs = [x, weight(f"conv{i}.weight", w), weight(f"conv{i}.bias", b)]
            x = node("Conv", inputs, f"conv{i}", kernel_shape=list(w.shape[2:]), strides=[stride, stride])
            x = node("Relu", [x], f"relu{i}")
            if i > 1:
                x = node("MaxPool", [x], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
    else:
        given = scale_of("input", quantized.input)
        x = node("QuantizeLinear", [x, *given], "features_uint8")
        for i, conv in enumerate(quantized.convs, start=1):
            zero = weight(f"conv{i}.weight.zero_point", np.zeros(len(conv.scale), dtype=np.int8))
            inputs = [x, *given, weight(f"conv{i}.weight", conv.weight), weight(f"conv{i}.weight.scale", conv.scale), zero]
            given = scale_of(f"relu{i}", conv.out)
            inputs += [*given, weight(f"conv{i}.bias", conv.bias)]
            kernel, strides = list(conv.weight.shape[2:]), [conv.stride, conv.stride]
            x = node("QLinearConv", inputs, f"relu{i}", kernel_shape=kernel, strides=strides)
            if i > 1:
                x = node("MaxPool", [x], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
        x = node("DequantizeLinear", [x, *given], "encoder_nchw")
    # [1, 96, N, n_freq] -> [1, N, 96·n_freq], channel-major, as the GRU was trained.
    x = node("Transpose", [x], "encoder_nhwc", perm=[0, 2, 1, 3])
    x = node("Reshape", [x, weight("encoder_shape", np.array([1, -1, size], dtype=np.int64))], "encoder")
    node("Concat", ["past", x], "encoded", axis=1)
    # BiGRU over [P + N, 1, size]; Y_h holds the last forward and the last backward output.
    x = node("Transpose", ["encoded"], "gru_input", perm=[1, 0, 2])
    if quantized is None:
        gru_w, gru_r = weight("gru.W", _gates(net.gru, "weight_ih_l0")), weight("gru.R", _gates(net.gru, "weight_hh_l0"))
        fc1, fc2 = weight("fc1.weight", net.fc1.weight), weight("fc2.weight", net.fc2.weight)
    else:
        gru_w, gru_r = (
            expanded(
                name,
                _onnx_order([quantized.gru[f"{source}{d}"].weight for d in ("", "_reverse")]),
                _onnx_order([quantized.gru[f"{source}{d}"].scale[:, None] for d in ("", "_reverse")]),
            )
            for name, source in (("gru.W", "weight_ih_l0"), ("gru.R", "weight_hh_l0"))
        )
        fc1, fc2 = (
            expanded(f"{name}.weight", rows.weight, rows.scale[:, None])
            for name, rows in (("fc1", quantized.fc1), ("fc2", quantized.fc2))
        )
    bias = np.concatenate([_gates(net.gru, "bias_ih_l0"), _gates(net.gru, "bias_hh_l0")], axis=1)
    inputs = [x, gru_w, gru_r, weight("gru.B", bias)]
    gru = helper.make_node(
        "GRU", inputs, ["", "gru_last"], name="gru", hidden_size=GRU_SIZE, direction="bidirectional",
        linear_before_reset=1,
    )  # fmt: skip
    nodes.append(gru)
    x = node("Transpose", ["gru_last"], "gru_last_batch_first", perm=[1, 0, 2])
    x = node("Reshape", [x, weight("head_shape", np.array([1, 2 * GRU_SIZE], dtype=np.int64))], "utterance")
    x = node("Gemm", [x, fc1, weight("fc1.bias", net.fc1.bias)], "fc1", transB=1)
    x = node("PRelu", [x, weight("prelu.slope", net.prelu.weight)], "embedding")
    node("Gemm", [x, fc2, weight("fc2.bias", net.fc2.bias)], "logits", transB=1)

    def value(name: str, shape: list[str | int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    return helper.make_graph(
        nodes,
        "edge_ser",
        [value("features", [1, "T", net.n_bins]), value("past", [1, "P", size])],
        [
            value("logits", [1, net.fc2.out_features]),
            value("embedding", [1, EMBEDDING_SIZE]),
            value("encoded", [1, "P_plus_N", size]),
        ],
        weights,
    )


def _gates(gru: nn.GRU, name: str) -> npt.NDArray[np.float32]:
    """Return a parameter of both directions, [2, 3·128, ...], gates in ONNX's order."""
    return _onnx_order([getattr(gru, f"{name}{d}").detach().cpu().numpy() for d in ("", "_reverse")])


def _onnx_order(directions: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Stack two directions [3·128, ...] and reorder torch's gates (r, z, n) to ONNX's (z, r, h)."""
    reordered = []
    for values in directions:
        r, z, n = values.reshape(3, GRU_SIZE, *values.shape[1:])
        reordered.append(np.concatenate([z, r, n]))
    return np.stack(reordered)


def graph_sha256(graph: Any) -> str:
    """Return the SHA-256 of the serialised graph, as the runtime recomputes it."""
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def serialise(graph: Any, manifest: Manifest) -> bytes:
    """Return the model file: ``graph`` with ``manifest`` in its metadata; the same bytes for the same arguments."""
    from onnx import checker, helper

    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="edge-ser"
    )
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
