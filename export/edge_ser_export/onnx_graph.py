"""The network as an ONNX graph, written node by node: one graph for whole utterances and for streams.

    features float32 [1, T, n_bins]        raw dB, T >= 49          logits    float32 [1, n_labels]
    past     float32 [1, P, encoder_size]  P = 0: no past           embedding float32 [1, 64]
                                                                    encoded   float32 [1, P + N, encoder_size]

encoded = concat(past, encoder(features)); the head runs over all of it. A stream that would rather not compute a frame's
convolutions thrice may also give and take

    rows1, rows2, rows3  [1, S, width, channels]  the last two rows before conv2, conv3, conv4; S = 0 by default
    judged               int64 [1]                how many of the encoded vectors the head sees, by default all; 0: no head
    rows1_next, rows2_next, rows3_next            the rows for the next call, whose features begin five frames before the end

Written by hand rather than traced: some forty nodes with names a reader recognises, batch normalisation folded in, T and P
free, and the same bytes whatever torch's exporter does.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from torch import Tensor, nn

from edge_ser.arrays import AnyArray, Float32Array, Int8Array
from edge_ser.geometry import CHANNELS, EMBEDDING_SIZE, GRU_SIZE, encoder_size
from edge_ser.model.graph import METADATA_KEY
from edge_ser.model.manifest import Manifest
from edge_ser_export.quantize import (
    BLOCK_BINS,
    BLOCK_POSITIONS,
    Activation,
    QuantizedConv,
    QuantizedNet,
    block_count,
    folded_convs,
    in_blocks,
)
from edge_ser_train.method.model import EmotionNet

OPSET = 17
IR_VERSION = 8
"""Older than ONNX Runtime 1.20, the oldest supported; nothing newer is needed."""


_ALL = 2**62


class _Graph:
    """Nodes and weights of a graph under construction; every node is called after its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: Tensor | AnyArray) -> str:
        from onnx import numpy_helper

        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def shape(self, name: str, *values: int) -> str:
        return self.weight(name, np.array(values, dtype=np.int64))

    def scale_of(self, name: str, activation: Activation) -> list[str]:
        scale, zero_point = np.array(activation.scale, dtype=np.float32), np.array(activation.zero_point, dtype=np.uint8)
        return [self.weight(f"{name}.scale", scale), self.weight(f"{name}.zero_point", zero_point)]

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def expanded(self, name: str, rows: Int8Array, scale: Float32Array) -> str:
        from onnx import TensorProto

        # Engines fold Cast and Mul of constants when they load a file; DequantizeLinear they would run every time.
        floats = self.node("Cast", [self.weight(f"{name}.int8", rows)], f"{name}.float", to=TensorProto.FLOAT)
        return self.node("Mul", [floats, self.weight(f"{name}.scale", scale)], name)


def build_graph(net: EmotionNet, quantized: QuantizedNet | None = None) -> Any:
    """Return the onnx.GraphProto of ``net``, in float32 or with the integers of ``quantized``."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str, shape: list[str | int], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = _Graph()
    none, judged, axis_1 = graph.shape("none", 0), graph.shape("judged", _ALL), graph.shape("axis_1", 1)
    carried = _encoder(graph, net, quantized)
    # The head, in a branch that need not be taken; what is not taken answers zeros.
    wanted = graph.node("Greater", [judged, none], "head_wanted")
    matrices = _head_matrices(graph, net, quantized)
    before, graph.nodes = graph.nodes, []
    _head(graph, net, matrices, graph.node("Slice", ["encoded", none, judged, axis_1], "vectors"))
    answers = {"logits": net.fc2.out_features, "embedding": EMBEDDING_SIZE}
    zeros = [numpy_helper.from_array(np.zeros((1, n), dtype=np.float32), f"no_{name}") for name, n in answers.items()]
    branches = {
        "then_branch": helper.make_graph(graph.nodes, "head", [], [value(name, [1, n]) for name, n in answers.items()]),
        "else_branch": helper.make_graph([], "no_head", [], [value(f"no_{name}", [1, n]) for name, n in answers.items()], zeros),
    }
    answer = helper.make_node("If", [wanted], list(answers), name="answer", **branches)
    size, kind = encoder_size(net.n_bins), TensorProto.FLOAT if quantized is None else TensorProto.UINT8
    return helper.make_graph(
        [*before, answer],
        "edge_ser",
        [
            value("features", [1, "T", net.n_bins]),
            value("past", [1, "P", size]),
            # An input that has an initialiser may be left out.
            *(value(name, [1, f"{name}_in", *row], kind) for name, row in carried.items()),
            value("judged", [1], TensorProto.INT64),
        ],
        [
            *(value(name, [1, n]) for name, n in answers.items()),
            value("encoded", [1, "P_plus_N", size]),
            *(value(f"{name}_next", [1, f"{name}_out", *row], kind) for name, row in carried.items()),
        ],
        graph.weights,
    )


def _encoder(g: _Graph, net: EmotionNet, quantized: QuantizedNet | None) -> dict[str, tuple[int, int]]:
    """features -> normalisation, four convolutions -> encoded; return the rows a stream carries: name, (width, channels)."""
    carried: dict[str, tuple[int, int]] = {}
    last_two, end = g.shape("last_two", -2), g.shape("end", _ALL)
    x = g.node("Sub", ["features", g.weight("mean", net.feature_mean)], "features_centred")
    x = g.node("Mul", [x, g.weight("inverse_std", 1 / net.feature_std)], "features_normalised")
    given: list[str] = []
    if quantized is not None:
        given = g.scale_of("input", quantized.input)
        x = g.node("QuantizeLinear", [x, *given], "features_uint8")
    width = net.n_bins
    for i, (w, b, stride) in enumerate(folded_convs(net), start=1):
        kernel, channels = w.shape[2], w.shape[0]
        width = (width - kernel) // stride + 1
        if quantized is None:
            if i == 1:
                x = g.node("Unsqueeze", [x, "axis_1"], "features_nchw")
            inputs = [x, g.weight(f"conv{i}.weight", w), g.weight(f"conv{i}.bias", b)]
            x = g.node("Conv", inputs, f"conv{i}", kernel_shape=[kernel, kernel], strides=[stride, stride])
            x = g.node("Relu", [x], f"relu{i}")
        elif i == 1:
            x = _first_conv(g, x, given, quantized.convs[0], net.n_bins, width)
        else:
            x = _conv(g, i, x, given, quantized.convs[i - 1], quantized.convs[i - 1].weight, 1, [stride, stride])
        if quantized is not None:
            given = [f"relu{i}.scale", f"relu{i}.zero_point"]
        if i > 1:
            x = g.node("MaxPool", [x], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
            width //= 2
        if i < len(CHANNELS):
            # What a stream remembers goes before x. Rows lie channels-last, as engines keep them between convolutions.
            name, carried[f"rows{i}"] = f"rows{i}", (width, channels)
            g.weight(name, np.zeros((1, 0, width, channels), dtype=np.float32 if quantized is None else np.uint8))
            x = g.node("Transpose", [x], f"{name}_new", perm=[0, 2, 3, 1])
            x = g.node("Concat", [name, x], f"{name}_all", axis=1)
            g.node("Slice", [x, last_two, end, "axis_1"], f"{name}_next")
            x = g.node("Transpose", [x], f"{name}_nchw", perm=[0, 3, 1, 2])
    if quantized is not None:
        x = g.node("DequantizeLinear", [x, *given], "encoder_nchw")
    # [1, 96, N, n_freq] -> [1, N, 96·n_freq], channel-major, as the GRU was trained.
    x = g.node("Transpose", [x], "encoder_nhwc", perm=[0, 2, 1, 3])
    x = g.node("Reshape", [x, g.shape("encoder_shape", 1, -1, encoder_size(net.n_bins))], "encoder")
    g.node("Concat", ["past", x], "encoded", axis=1)
    return carried


def _conv(
    g: _Graph, i: int, x: str, given: list[str], conv: QuantizedConv, kernels: Int8Array, times: int, strides: list[int]
) -> str:
    """Convolve in integers, ``times`` the same scales and biases; the output starts at 0 = zero point, so it is a ReLU, too."""
    scale = np.tile(conv.scale, times)
    zero = g.weight(f"conv{i}.weight.zero_point", np.zeros(len(scale), dtype=np.int8))
    inputs = [x, *given, g.weight(f"conv{i}.weight", kernels), g.weight(f"conv{i}.weight.scale", scale), zero]
    inputs += [*g.scale_of(f"relu{i}", conv.out), g.weight(f"conv{i}.bias", np.tile(conv.bias, times))]
    return g.node("QLinearConv", inputs, f"relu{i}", kernel_shape=list(kernels.shape[2:]), strides=strides)


def _first_conv(g: _Graph, x: str, given: list[str], conv: QuantizedConv, n_bins: int, width: int) -> str:
    """Run the first convolution on blocks of bins, see :func:`in_blocks`: x [1, T, n_bins] -> [1, 48, T', width]."""
    n_blocks = block_count(width)
    pads = g.shape("more_bins", 0, 0, 0, 0, 0, BLOCK_BINS * (n_blocks + 1) - n_bins)
    x = g.node("Pad", [x, pads, given[1]], "features_padded")
    x = g.node("Reshape", [x, g.shape("blocks_shape", 1, -1, n_blocks + 1, BLOCK_BINS)], "features_blocks")
    x = g.node("Transpose", [x], "features_nchw", perm=[0, 3, 1, 2])
    x = _conv(g, 1, x, given, conv, in_blocks(conv.weight).transpose(0, 3, 1, 2), BLOCK_POSITIONS, [conv.stride, 1])
    x = g.node("Transpose", [x], "relu1_blocks", perm=[0, 2, 3, 1])
    shape = g.shape("positions_shape", 1, -1, n_blocks * BLOCK_POSITIONS, len(conv.bias))
    x = g.node("Reshape", [x, shape], "relu1_positions")
    x = g.node("Slice", [x, "none", g.shape("width", width), g.shape("axis_2", 2)], "relu1_nhwc")
    return g.node("Transpose", [x], "relu1_nchw", perm=[0, 3, 1, 2])


def _head_matrices(g: _Graph, net: EmotionNet, quantized: QuantizedNet | None) -> list[str]:
    """Return the names of W, R, FC1 and FC2, as float weights or as int8 ones that are expanded."""
    directions = ("", "_reverse")
    if quantized is None:
        return [
            g.weight("gru.W", _gates(net.gru, "weight_ih_l0")),
            g.weight("gru.R", _gates(net.gru, "weight_hh_l0")),
            g.weight("fc1.weight", net.fc1.weight),
            g.weight("fc2.weight", net.fc2.weight),
        ]
    names = []
    for name, source in (("gru.W", "weight_ih_l0"), ("gru.R", "weight_hh_l0")):
        rows = [quantized.gru[f"{source}{d}"] for d in directions]
        names.append(g.expanded(name, _onnx_order([r.weight for r in rows]), _onnx_order([r.scale[:, None] for r in rows])))
    for name, fc in (("fc1.weight", quantized.fc1), ("fc2.weight", quantized.fc2)):
        names.append(g.expanded(name, fc.weight, fc.scale[:, None]))
    return names


def _head(g: _Graph, net: EmotionNet, matrices: list[str], x: str) -> None:
    """Encoder vectors x [1, M, size] -> BiGRU -> embedding -> logits."""
    from onnx import helper

    gru_w, gru_r, fc1, fc2 = matrices
    x = g.node("Transpose", [x], "gru_input", perm=[1, 0, 2])
    bias = np.concatenate([_gates(net.gru, "bias_ih_l0"), _gates(net.gru, "bias_hh_l0")], axis=1)
    # Y_h holds the last forward and the last backward output.
    inputs, outputs = [x, gru_w, gru_r, g.weight("gru.B", bias)], ["", "gru_last"]
    g.nodes.append(
        helper.make_node(
            "GRU", inputs, outputs, name="gru", hidden_size=GRU_SIZE, direction="bidirectional", linear_before_reset=1
        )
    )
    x = g.node("Transpose", ["gru_last"], "gru_last_batch_first", perm=[1, 0, 2])
    x = g.node("Reshape", [x, g.shape("head_shape", 1, 2 * GRU_SIZE)], "utterance")
    x = g.node("Gemm", [x, fc1, g.weight("fc1.bias", net.fc1.bias)], "fc1", transB=1)
    x = g.node("PRelu", [x, g.weight("prelu.slope", net.prelu.weight)], "embedding")
    g.node("Gemm", [x, fc2, g.weight("fc2.bias", net.fc2.bias)], "logits", transB=1)


def _gates(gru: nn.GRU, name: str) -> Float32Array:
    """Return a parameter of both directions, [2, 3·128, ...], gates in ONNX's order."""
    return _onnx_order([getattr(gru, f"{name}{d}").detach().cpu().numpy() for d in ("", "_reverse")])


def _onnx_order(directions: list[AnyArray]) -> AnyArray:
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
