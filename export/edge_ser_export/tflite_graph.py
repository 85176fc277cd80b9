"""The network as a TFLite file, written operator by operator: no TensorFlow, no converter, dynamic length.

    signature encode     features [1, 33 + 16 N, n_bins]  -> encoded [1, N, encoder_size], rows1_next, rows2_next, rows3_next
    signature resume     features [1, 5 + 16 N, n_bins], rows1, rows2, rows3 -> the same
    signature classify   encoded  [1, M, encoder_size] -> logits [1, n_labels], embedding [1, 64]

A stream runs ``encode`` first, then ``resume`` with the rows it got (the last two before conv2, conv3 and conv4) and the last
five frames again; it appends the vectors and runs ``classify`` over all. (One graph with an empty ``past``, as in ONNX, is
what TFLite dislikes.) Inside a vector the order is frequency-major, as the convolutions leave it.

int8: convolutions integer throughout, one scale a channel. GRU and FC matrices are int8 and multiply activations that the engine
quantises on the fly. Their row scales are applied behind the product: engines whose fully connected kernel knows one scale a
tensor only (tflite-runtime 2.14 takes others for it, and is silently wrong) multiply the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray
from edge_ser.geometry import (
    CHANNELS,
    EMBEDDING_SIZE,
    ENCODER_FRAMES,
    ENCODER_STRIDE,
    GRU_SIZE,
    STATE_FRAMES,
    encoder_size,
    frequency_major,
)
from edge_ser.model.graph import METADATA_KEY
from edge_ser_export.flatbuffer import Graph, Subgraph
from edge_ser_export.quantize import (
    BLOCK_BINS,
    BLOCK_POSITIONS,
    Activation,
    QuantizedNet,
    QuantizedRows,
    block_count,
    folded_convs,
    in_blocks,
)
from edge_ser_train.method.model import EmotionNet

_ROOM = b" " * 256  # what `edge-ser evaluate FILE --record` adds fits in without the manifest moving


def build_tflite(net: EmotionNet, quantized: QuantizedNet | None = None) -> Callable[[str], bytes]:
    """Return a function from a manifest's JSON to the file's bytes; the same bytes for the same arguments."""

    def serialise(manifest: str) -> bytes:
        graph = Graph()
        _encode(graph, net, quantized, resume=False)
        _encode(graph, net, quantized, resume=True)
        _classify(graph, net, quantized)
        metadata = graph.schema.MetadataT()
        metadata.name, metadata.buffer = METADATA_KEY.encode(), graph.buffer(manifest.encode() + _ROOM)
        graph.model.metadata.append(metadata)
        return graph.serialise()

    return serialise


def _encode(graph: Graph, net: EmotionNet, quantized: QuantizedNet | None, resume: bool) -> None:
    """features -> normalisation, four convolutions -> encoder vectors, and the rows a stream carries."""
    g = Subgraph(graph, "resume" if resume else "encode")
    n, size = net.n_bins, encoder_size(net.n_bins)
    relu = {"fusedActivationFunction": g.schema.ActivationFunctionType.RELU}
    valid = {"padding": g.schema.Padding.VALID}
    # A negative dimension may change; it starts as one block of a stream, or as the shortest utterance.
    frames = -(STATE_FRAMES + 2 * ENCODER_STRIDE) if resume else -ENCODER_FRAMES
    features = g.tensor("features", [1, frames, n])
    mean, inverse_std = (t.cpu().numpy().astype(np.float32) for t in (net.feature_mean, 1 / net.feature_std))
    x = g.float_op("SUB", [features, g.constant("mean", mean)], "centred", [1, frames, n], options="SubOptions")
    x = g.float_op("MUL", [x, g.constant("inverse_std", inverse_std)], "normalised", [1, frames, n], options="MulOptions")
    shape = g.constant("image_shape", np.array([1, -1, n, 1], dtype=np.int32))
    x = g.float_op("RESHAPE", [x, shape], "image", [1, frames, n, 1], options="ReshapeOptions", newShape=[1, -1, n, 1])
    inputs, rows_next = {"features": features}, {}
    given: Activation | None = None
    if quantized is not None:
        given = quantized.input
        x = g.op("QUANTIZE", [x], [_stored(g, "image_int8", [1, frames, n, 1], given)], options="QuantizeOptions")
    width = n
    for i, (w, b, stride) in enumerate(folded_convs(net), start=1):
        c_out, kernel = w.shape[0], w.shape[2]
        width, frames = (width - kernel) // stride + 1, -((-frames - kernel) // stride + 1)
        out = None
        if quantized is None or given is None:
            weight, version = g.constant(f"conv{i}.weight", w.permute(0, 2, 3, 1).cpu().numpy()), 1
            bias = g.constant(f"conv{i}.bias", b.cpu().numpy())
        else:
            conv, version = quantized.convs[i - 1], 3
            out, ohwi = conv.out, conv.weight.transpose(0, 2, 3, 1)
            if i > 1:
                weight = g.tensor(f"conv{i}.weight", ohwi.shape, "INT8", ohwi, scale=conv.scale.tolist())
                bias_scale = np.float32(given.scale) * conv.scale
                bias = g.tensor(f"conv{i}.bias", [c_out], "INT32", conv.bias, scale=bias_scale.tolist())
        if i == 1 and quantized is not None:
            x = _first_conv(g, x, quantized, frames, width)
        else:
            x = g.op(
                "CONV_2D", [x, weight, bias], [_stored(g, f"relu{i}", [1, frames, width, c_out], out)], version,
                options="Conv2DOptions", strideW=stride, strideH=stride, dilationWFactor=1, dilationHFactor=1, **valid, **relu,
            )  # fmt: skip
        version = 2 if out else 1
        if i > 1:
            width, frames = width // 2, -(-frames // 2)
            x = g.op(
                "MAX_POOL_2D", [x], [_stored(g, f"pool{i}", [1, frames, width, c_out], out)], version,
                options="Pool2DOptions", strideW=2, strideH=2, filterWidth=2, filterHeight=2, **valid,
            )  # fmt: skip
        if i < len(CHANNELS):
            if resume:
                inputs[f"rows{i}"] = _stored(g, f"rows{i}", [1, 2, width, c_out], out)
                frames -= 2
                joined = _stored(g, f"rows{i}_all", [1, frames, width, c_out], out)
                x = g.op("CONCATENATION", [inputs[f"rows{i}"], x], [joined], version, options="ConcatenationOptions", axis=1)
            rows_next[f"rows{i}_next"] = _last_two(g, x, _stored(g, f"rows{i}_next", [1, 2, width, c_out], out), version)
        given = out
    if quantized is not None:
        x = g.op("DEQUANTIZE", [x], [g.tensor("pool4_float", [1, frames, width, CHANNELS[-1]])], 2, options="DequantizeOptions")
    shape = g.constant("encoded_shape", np.array([1, -1, size], dtype=np.int32))
    x = g.float_op("RESHAPE", [x, shape], "encoded", [1, -1, size], options="ReshapeOptions", newShape=[1, -1, size])
    g.signature("resume" if resume else "encode", inputs, {"encoded": x, **rows_next})


def _stored(g: Subgraph, name: str, shape: Sequence[int], activation: Activation | None) -> int:
    """Add a tensor of activations: int8 = uint8 - 128, or float32 where there is no scale."""
    if activation is None:
        return g.tensor(name, shape)
    return g.tensor(name, shape, "INT8", scale=[activation.scale], zero_point=[activation.zero_point - 128])


def _last_two(g: Subgraph, x: int, output: int, version: int) -> int:
    """Return the last two rows of x [1, R, width, channels]."""
    begin, end, strides = (
        g.constant(name, np.array(values, dtype=np.int32))
        for name, values in (("last_two", [0, -2, 0, 0]), ("to_the_end", [0, 0, 0, 0]), ("every_one", [1, 1, 1, 1]))
    )
    return g.op(
        "STRIDED_SLICE",
        [x, begin, end, strides],
        [output],
        version,
        options="StridedSliceOptions",
        beginMask=0b1101,
        endMask=0b1111,
    )


def _first_conv(g: Subgraph, x: int, quantized: QuantizedNet, frames: int, width: int) -> int:
    """Run the first convolution on blocks of bins, see :func:`in_blocks`: x [1, T, n_bins, 1] -> [1, T', width, 48]."""
    conv, given = quantized.convs[0], quantized.input
    n_blocks, c_out = block_count(width), len(conv.bias)
    _, t_in, n_bins, _ = g.it.tensors[x].shape
    n = BLOCK_BINS * (n_blocks + 1)
    pads = g.constant("more_bins", np.array([[0, 0], [0, 0], [0, n - n_bins], [0, 0]], dtype=np.int32))
    x = g.op("PAD", [x, pads], [_stored(g, "padded", [1, -t_in, n, 1], given)], 2, options="PadOptions")
    as_blocks = [1, -1, n_blocks + 1, BLOCK_BINS]
    shape = g.constant("blocks_shape", np.array(as_blocks, dtype=np.int32))
    blocks = _stored(g, "blocks", [1, -t_in, *as_blocks[2:]], given)
    x = g.op("RESHAPE", [x, shape], [blocks], options="ReshapeOptions", newShape=as_blocks)
    weight, scale = in_blocks(conv.weight), np.tile(conv.scale, BLOCK_POSITIONS)
    w = g.tensor("conv1.weight", weight.shape, "INT8", weight, scale=scale.tolist())
    bias_scale = (np.float32(given.scale) * scale).tolist()
    bias = g.tensor("conv1.bias", [len(scale)], "INT32", np.tile(conv.bias, BLOCK_POSITIONS), scale=bias_scale)
    x = g.op(
        "CONV_2D", [x, w, bias], [_stored(g, "relu1_blocks", [1, frames, n_blocks, len(scale)], conv.out)], 3,
        options="Conv2DOptions", strideW=1, strideH=conv.stride, dilationWFactor=1, dilationHFactor=1,
        padding=g.schema.Padding.VALID, fusedActivationFunction=g.schema.ActivationFunctionType.RELU,
    )  # fmt: skip
    as_positions = [1, -1, n_blocks * BLOCK_POSITIONS, c_out]
    shape = g.constant("positions_shape", np.array(as_positions, dtype=np.int32))
    wide = _stored(g, "relu1_wide", [1, frames, *as_positions[2:]], conv.out)
    x = g.op("RESHAPE", [x, shape], [wide], options="ReshapeOptions", newShape=as_positions)
    begin = g.constant("slice_begin", np.zeros(4, dtype=np.int32))
    end = g.constant("slice_size", np.array([1, -1, width, c_out], dtype=np.int32))
    return g.op("SLICE", [x, begin, end], [_stored(g, "relu1", [1, frames, width, c_out], conv.out)], 2, options="SliceOptions")


def _product(g: Subgraph, x: int, name: str, matrix: AnyArray | QuantizedRows, shape: Sequence[int]) -> int:
    """Multiply x [..., n_in] by a matrix [n_out, n_in]; int8 rows are scaled behind the product."""
    no_bias = -1
    keep = {"options": "FullyConnectedOptions", "keepNumDims": False}
    if not isinstance(matrix, QuantizedRows):
        return g.float_op("FULLY_CONNECTED", [x, g.constant(name, matrix), no_bias], f"{name}.product", shape, **keep)
    weight = g.tensor(name, matrix.weight.shape, "INT8", matrix.weight, scale=[1.0])
    x = g.float_op(
        "FULLY_CONNECTED", [x, weight, no_bias], f"{name}.int_product", shape, version=9, asymmetricQuantizeInputs=True, **keep
    )
    return g.float_op("MUL", [x, g.constant(f"{name}.scale", matrix.scale)], f"{name}.product", shape, options="MulOptions")


def _classify(graph: Graph, net: EmotionNet, quantized: QuantizedNet | None) -> None:
    """encoded -> both GRU directions in one loop -> z -> logits."""
    g = Subgraph(graph, "classify")
    size, n_gates = encoder_size(net.n_bins), 3 * GRU_SIZE
    state = dict(net.gru.named_parameters())

    def matrix(name: str) -> AnyArray | QuantizedRows:
        if quantized is not None:
            rows = quantized.gru[name]
            return QuantizedRows(frequency_major(rows.weight), rows.scale) if "_ih" in name else rows
        floats = state[name].detach().cpu().numpy()
        return frequency_major(floats) if "_ih" in name else floats

    encoded = g.tensor("encoded", [1, -1, size])
    rows_shape = g.constant("rows_shape", np.array([-1, size], dtype=np.int32))
    rows = g.float_op("RESHAPE", [encoded, rows_shape], "rows", [-1, size], options="ReshapeOptions", newShape=[-1, size])
    directions = []
    for d, name in enumerate(("forward", "backward")):
        suffix = "_reverse" * d
        x = _product(g, rows, f"gru.W.{name}", matrix(f"weight_ih_l0{suffix}"), [-1, n_gates])
        # torch keeps two biases; the recurrent one (zero as trained) is multiplied by the reset gate in n alone.
        input_bias = g.constant(f"gru.bias.{name}", state[f"bias_ih_l0{suffix}"].detach().cpu().numpy())
        x = g.float_op("ADD", [x, input_bias], f"gates.{name}", [-1, n_gates], options="AddOptions")
        if d:
            x = g.float_op(
                "REVERSE_V2", [x, g.constant("time_axis", np.array([0], dtype=np.int32))], "gates.reversed", [-1, n_gates],
                options="ReverseV2Options",
            )  # fmt: skip
        shape = g.constant(f"gates_shape.{name}", np.array([-1, 1, n_gates], dtype=np.int32))
        directions.append(
            g.float_op(
                "RESHAPE", [x, shape], f"gates3.{name}", [-1, 1, n_gates], options="ReshapeOptions", newShape=[-1, 1, n_gates]
            )
        )
    gates = g.float_op("CONCATENATION", directions, "gates", [-1, 2, n_gates], options="ConcatenationOptions", axis=1)
    shape = g.op(
        "SHAPE", [encoded], [g.tensor("encoded_dims", [3], "INT32")], options="ShapeOptions", outType=g.schema.TensorType.INT32
    )
    axis = g.constant("dim_of_time", np.array(1, dtype=np.int32))
    n_steps = g.op("GATHER", [shape, axis], [g.tensor("n_steps", [], "INT32")], options="GatherOptions", axis=0)
    start = g.constant("start", np.array(0, dtype=np.int32))
    rest = g.constant("h0", np.zeros((2, GRU_SIZE), dtype=np.float32))
    condition, body = _loop(graph, matrix, state)
    outs = [g.tensor("t_end", [], "INT32"), g.tensor("h_end", [2, GRU_SIZE])]
    outs += [g.tensor("gates_end", [-1, 2, n_gates]), g.tensor("n_end", [], "INT32")]
    g.op(
        "WHILE", [start, rest, gates, n_steps], outs,
        options="WhileOptions", condSubgraphIndex=condition.index, bodySubgraphIndex=body.index,
    )  # fmt: skip
    shape = g.constant("utterance_shape", np.array([1, 2 * GRU_SIZE], dtype=np.int32))
    x = g.float_op(
        "RESHAPE", [outs[1], shape], "utterance", [1, 2 * GRU_SIZE], options="ReshapeOptions", newShape=[1, 2 * GRU_SIZE]
    )
    n_labels = net.fc2.out_features
    fc1: AnyArray | QuantizedRows = quantized.fc1 if quantized else net.fc1.weight.detach().cpu().numpy()
    fc2: AnyArray | QuantizedRows = quantized.fc2 if quantized else net.fc2.weight.detach().cpu().numpy()
    fc1_bias, fc2_bias, slope = (
        g.constant(name, p.detach().cpu().numpy())
        for name, p in (("fc1.bias", net.fc1.bias), ("fc2.bias", net.fc2.bias), ("prelu.slope", net.prelu.weight))
    )
    x = _product(g, x, "fc1.weight", fc1, [1, EMBEDDING_SIZE])
    x = g.float_op("ADD", [x, fc1_bias], "fc1", [1, EMBEDDING_SIZE], options="AddOptions")
    embedding = g.float_op("PRELU", [x, slope], "embedding", [1, EMBEDDING_SIZE])
    x = _product(g, embedding, "fc2.weight", fc2, [1, n_labels])
    logits = g.float_op("ADD", [x, fc2_bias], "logits", [1, n_labels], options="AddOptions")
    g.signature("classify", {"encoded": encoded}, {"logits": logits, "embedding": embedding})


def _loop(graph: Graph, matrix: Callable[[str], AnyArray | QuantizedRows], state: dict[str, Any]) -> tuple[Subgraph, Subgraph]:
    """Build the loop over time; it carries (t, h [2, 128], gates [M, 2, 384], n), row 0 forward and row 1 backward."""
    n_gates = 3 * GRU_SIZE

    def carried(g: Subgraph) -> list[int]:
        t, h = g.tensor("t", [], "INT32"), g.tensor("h", [2, GRU_SIZE])
        return [t, h, g.tensor("gates", [-1, 2, n_gates]), g.tensor("n", [], "INT32")]

    condition = Subgraph(graph, "more_steps")
    t, _, _, n = inputs = carried(condition)
    more = condition.tensor("more", [], "BOOL")
    condition.op("LESS", [t, n], [more], options="LessOptions")
    condition.ends(inputs, [more])

    g = Subgraph(graph, "gru_step")
    t, h, gates, n = inputs = carried(g)
    x = g.float_op("GATHER", [gates, t], "x", [2, n_gates], options="GatherOptions", axis=0)
    halves = [g.tensor(f"h.{d}", [1, GRU_SIZE]) for d in ("forward", "backward")]
    first_axis, second_axis = (g.constant(f"axis{i}", np.array(i, dtype=np.int32)) for i in (0, 1))
    g.op("SPLIT", [first_axis, h], halves, options="SplitOptions", numSplits=2)
    products = []
    for d, (name, half) in enumerate(zip(("forward", "backward"), halves, strict=True)):
        suffix = "_reverse" * d
        r = _product(g, half, f"gru.R.{name}", matrix(f"weight_hh_l0{suffix}"), [1, n_gates])
        bias = g.constant(f"gru.recurrent_bias.{name}", state[f"bias_hh_l0{suffix}"].detach().cpu().numpy())
        products.append(g.float_op("ADD", [r, bias], f"recurrent.{name}", [1, n_gates], options="AddOptions"))
    recurrent = g.float_op("CONCATENATION", products, "recurrent", [2, n_gates], options="ConcatenationOptions", axis=0)
    of_x, of_h = ([g.tensor(f"{source}.{gate}", [2, GRU_SIZE]) for gate in "rzn"] for source in ("x", "hidden"))
    g.op("SPLIT", [second_axis, x], of_x, options="SplitOptions", numSplits=3)
    g.op("SPLIT", [second_axis, recurrent], of_h, options="SplitOptions", numSplits=3)
    shape = [2, GRU_SIZE]
    reset, update = (
        g.float_op("LOGISTIC", [g.float_op("ADD", [a, b], f"{name}.sum", shape, options="AddOptions")], name, shape)
        for name, a, b in (("reset", of_x[0], of_h[0]), ("update", of_x[1], of_h[1]))
    )
    new = g.float_op("MUL", [reset, of_h[2]], "new.gated", shape, options="MulOptions")
    new = g.float_op("TANH", [g.float_op("ADD", [of_x[2], new], "new.sum", shape, options="AddOptions")], "new", shape)
    # h' = (1 - z) n + z h = n + z (h - n)
    change = g.float_op("SUB", [h, new], "change", shape, options="SubOptions")
    change = g.float_op("MUL", [update, change], "change.gated", shape, options="MulOptions")
    h_next = g.float_op("ADD", [new, change], "h_next", shape, options="AddOptions")
    one = g.constant("one", np.array(1, dtype=np.int32))
    t_next = g.op("ADD", [t, one], [g.tensor("t_next", [], "INT32")], options="AddOptions")
    g.ends(inputs, [t_next, h_next, gates, n])
    return condition, g
