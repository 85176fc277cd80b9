"""The network as a TFLite file, written operator by operator: no TensorFlow, no converter, dynamic length.

    signature encode     features [1, T, n_bins]   -> encoded [1, N, encoder_size]
    signature classify   encoded  [1, M, encoder_size] -> logits [1, n_labels], embedding [1, 64]

A stream runs ``encode`` on each 49 + 16k frames, appends, and runs ``classify`` over all vectors. (One graph with an empty
``past``, as in ONNX, is what TFLite dislikes.) Inside a vector the order is frequency-major, as the convolutions leave it.

int8: convolutions integer throughout, one scale a channel. GRU and FC matrices are int8 and multiply activations that the engine
quantises on the fly. Their row scales are applied behind the product: engines whose fully connected kernel knows one scale a
tensor only (tflite-runtime 2.14 takes others for it, and is silently wrong) multiply the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.containers import METADATA_KEY
from edge_ser.features import ENCODER_FRAMES
from edge_ser_export.onnx_graph import encoder_size
from edge_ser_export.quantize import Activation, QuantizedConv, QuantizedNet, QuantizedRows, folded_convs, frequency_major
from edge_ser_train.model import CHANNELS, EMBEDDING_SIZE, GRU_SIZE, EmotionNet

Array = npt.NDArray[Any]

_ALIGNMENT = 16  # what TFLite's schema asks of weights


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


class _Graph:
    """The file under construction: buffers and operator codes are shared by its subgraphs."""

    def __init__(self) -> None:
        self.schema = _schema()
        self.model = self.schema.ModelT()
        self.model.version = 3
        self.model.description = b"edge-ser"
        self.model.buffers = [self.schema.BufferT()]
        self.model.operatorCodes, self.model.subgraphs, self.model.signatureDefs, self.model.metadata = [], [], [], []

    def buffer(self, data: bytes) -> int:
        buffer = self.schema.BufferT()
        buffer.data = data
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def code(self, name: str, version: int) -> int:
        number = getattr(self.schema.BuiltinOperator, name)
        for i, known in enumerate(self.model.operatorCodes):
            if (known.builtinCode, known.version) == (number, version):
                return i
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = number, version
        code.deprecatedBuiltinCode = min(number, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def serialise(self) -> bytes:
        import flatbuffers

        schema = self.schema

        class Aligned(schema.BufferT):  # type: ignore[misc, name-defined]
            """A buffer whose bytes start at a multiple of 16; the generated packing would leave them anywhere."""

            def Pack(self, builder: Any) -> Any:  # noqa: N802
                if self.data is None:
                    return super().Pack(builder)
                builder.StartVector(1, len(self.data), _ALIGNMENT)
                builder.head -= len(self.data)
                builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
                vector = builder.EndVector()
                schema.BufferStart(builder)
                schema.BufferAddData(builder, vector)
                return schema.BufferEnd(builder)

        for buffer in self.model.buffers:
            buffer.__class__ = Aligned
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class _Subgraph:
    """One subgraph: tensors by number, operators in order."""

    def __init__(self, graph: _Graph, name: str) -> None:
        self.graph, self.schema = graph, graph.schema
        self.it = self.schema.SubGraphT()
        self.it.name, self.it.tensors, self.it.operators = name.encode(), [], []
        self.index = len(graph.model.subgraphs)
        graph.model.subgraphs.append(self.it)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str = "FLOAT32",
        data: Array | None = None,
        scale: Sequence[float] | None = None,
        zero_point: Sequence[int] | None = None,
        axis: int = 0,
    ) -> int:
        """Add a tensor; a negative dimension of ``shape`` may change, and starts at its absolute value. ``data``: a constant."""
        tensor = self.schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = [abs(d) for d in shape]
        if min(shape, default=0) < 0:
            tensor.shapeSignature = [max(d, -1) for d in shape]
        tensor.type = getattr(self.schema.TensorType, kind)
        tensor.buffer = self.graph.buffer(np.ascontiguousarray(data).tobytes()) if data is not None else 0
        if scale is not None:
            quantization = self.schema.QuantizationParametersT()
            quantization.scale = [float(s) for s in scale]
            quantization.zeroPoint = list(zero_point or [0] * len(scale))
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.it.tensors.append(tensor)
        return len(self.it.tensors) - 1

    def constant(self, name: str, value: Array) -> int:
        """Add a float32 or int32 constant."""
        value = np.asarray(value)
        kind = "INT32" if value.dtype == np.int32 else "FLOAT32"
        return self.tensor(name, value.shape, kind, value)

    def op(self, name: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> int:
        """Add an operator; ``options`` are the fields of its options table. Returns its first output."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.graph.code(name, version)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        kind = options.pop("options", None)
        if kind is not None:
            table = getattr(self.schema, f"{kind}T")()
            for key, value in options.items():
                if not hasattr(table, key):
                    raise AttributeError(f"{kind} has no {key}")
                setattr(table, key, value)
            operator.builtinOptions = table
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
        self.it.operators.append(operator)
        return outputs[0]

    def float_op(self, name: str, inputs: Sequence[int], output: str, shape: Sequence[int], **options: Any) -> int:
        """Add an operator with one float output."""
        return self.op(name, inputs, [self.tensor(output, shape)], **options)

    def signature(self, key: str, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        """Name inputs and outputs."""
        self.ends(list(inputs.values()), list(outputs.values()))
        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = key.encode(), self.index
        signature.inputs, signature.outputs = (self._named(of) for of in (inputs, outputs))
        self.graph.model.signatureDefs.append(signature)

    def _named(self, tensors: dict[str, int]) -> list[Any]:
        maps = []
        for name, index in tensors.items():
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), index
            maps.append(entry)
        return maps

    def ends(self, inputs: list[int], outputs: list[int]) -> None:
        """Set inputs and outputs."""
        self.it.inputs, self.it.outputs = inputs, outputs


def build_tflite(net: EmotionNet, quantized: QuantizedNet | None = None) -> Callable[[str], bytes]:
    """Return a function from a manifest's JSON to the file's bytes; the same bytes for the same arguments."""

    def serialise(manifest: str) -> bytes:
        graph = _Graph()
        _encode(graph, net, quantized)
        _classify(graph, net, quantized)
        metadata = graph.schema.MetadataT()
        metadata.name, metadata.buffer = METADATA_KEY.encode(), graph.buffer(manifest.encode())
        graph.model.metadata.append(metadata)
        return graph.serialise()

    return serialise


def _encode(graph: _Graph, net: EmotionNet, quantized: QuantizedNet | None) -> None:
    """features -> normalisation, four convolutions -> encoder vectors."""
    g = _Subgraph(graph, "encode")
    n, size = net.n_bins, encoder_size(net)
    relu = {"fusedActivationFunction": g.schema.ActivationFunctionType.RELU}
    valid = {"padding": g.schema.Padding.VALID}
    frames = -ENCODER_FRAMES
    features = g.tensor("features", [1, frames, n])
    mean, inverse_std = (t.cpu().numpy().astype(np.float32) for t in (net.feature_mean, 1 / net.feature_std))
    x = g.float_op("SUB", [features, g.constant("mean", mean)], "centred", [1, frames, n], options="SubOptions")
    x = g.float_op("MUL", [x, g.constant("inverse_std", inverse_std)], "normalised", [1, frames, n], options="MulOptions")
    shape = g.constant("image_shape", np.array([1, -1, n, 1], dtype=np.int32))
    x = g.float_op("RESHAPE", [x, shape], "image", [1, frames, n, 1], options="ReshapeOptions", newShape=[1, -1, n, 1])

    def stored(name: str, width: int, channels: int, activation: Activation | None) -> int:
        # int8 = uint8 - 128.
        shape = [1, frames, width, channels]
        if activation is None:
            return g.tensor(name, shape)
        return g.tensor(name, shape, "INT8", scale=[activation.scale], zero_point=[activation.zero_point - 128])

    given = None
    if quantized is not None:
        given = quantized.input
        x = g.op("QUANTIZE", [x], [stored("image_int8", n, 1, given)], options="QuantizeOptions")
    width = n
    for i, (w, b, stride) in enumerate(folded_convs(net)):
        c_out, kernel = w.shape[0], w.shape[2]
        width, frames = (width - kernel) // stride + 1, -((-frames - kernel) // stride + 1)
        out = None
        if quantized is None or given is None:
            weight = g.constant(f"conv{i + 1}.weight", w.permute(0, 2, 3, 1).cpu().numpy())
            bias, version = g.constant(f"conv{i + 1}.bias", b.cpu().numpy()), 1
        else:
            conv = quantized.convs[i]
            ohwi = conv.weight.transpose(0, 2, 3, 1)
            bias_scale = np.float32(given.scale) * conv.scale
            if i == 0:
                x = _first_conv(g, x, ohwi, conv, bias_scale, given, frames, width)
                given = conv.out
                continue
            weight = g.tensor(f"conv{i + 1}.weight", ohwi.shape, "INT8", ohwi, scale=conv.scale.tolist())
            bias = g.tensor(f"conv{i + 1}.bias", [c_out], "INT32", conv.bias, scale=bias_scale.tolist())
            given = out = conv.out
            version = 3
        x = g.op(
            "CONV_2D", [x, weight, bias], [stored(f"relu{i + 1}", width, c_out, out)], version,
            options="Conv2DOptions", strideW=stride, strideH=stride, dilationWFactor=1, dilationHFactor=1, **valid, **relu,
        )  # fmt: skip
        if i > 0:
            width, frames = width // 2, -(-frames // 2)
            x = g.op(
                "MAX_POOL_2D", [x], [stored(f"pool{i + 1}", width, c_out, out)], 2 if out else 1,
                options="Pool2DOptions", strideW=2, strideH=2, filterWidth=2, filterHeight=2, **valid,
            )  # fmt: skip
    if quantized is not None:
        x = g.op("DEQUANTIZE", [x], [g.tensor("pool4_float", [1, frames, width, CHANNELS[-1]])], 2, options="DequantizeOptions")
    shape = g.constant("encoded_shape", np.array([1, -1, size], dtype=np.int32))
    x = g.float_op("RESHAPE", [x, shape], "encoded", [1, -1, size], options="ReshapeOptions", newShape=[1, -1, size])
    g.signature("encode", {"features": features}, {"encoded": x})


def _first_conv(
    g: _Subgraph, x: int, ohwi: Array, conv: QuantizedConv, bias_scale: Array, given: Activation, frames: int, width: int
) -> int:
    """Run the first convolution on blocks of eight bins as channels; the same integers, several times faster.

    Engines multiply channels eight at a time, and this input has one. Block b holds bins 8b to 8b + 7, so two neighbouring
    blocks feed four output positions, 4b to 4b + 3, whose kernels lie shifted by two bins in 4 x 48 output channels.
    """
    block, positions = 8, 4
    c_out, kernel = ohwi.shape[:2]
    n_blocks = -(-width // positions)
    spread = np.zeros((positions, c_out, kernel, 2 * block), dtype=np.int8)
    for p in range(positions):
        spread[p, :, :, 2 * p : 2 * p + kernel] = ohwi[..., 0]
    weight = spread.reshape(positions * c_out, kernel, 2, block)
    n, t_in = block * (n_blocks + 1), abs(g.it.tensors[x].shape[1])
    n_bins = g.it.tensors[x].shape[2]

    def stored(name: str, shape: list[int], activation: Activation) -> int:
        return g.tensor(name, shape, "INT8", scale=[activation.scale], zero_point=[activation.zero_point - 128])

    pads = g.constant("more_bins", np.array([[0, 0], [0, 0], [0, n - n_bins], [0, 0]], dtype=np.int32))
    x = g.op("PAD", [x, pads], [stored("padded", [1, -t_in, n, 1], given)], 2, options="PadOptions")
    as_blocks = [1, -1, n_blocks + 1, block]
    shape = g.constant("blocks_shape", np.array(as_blocks, dtype=np.int32))
    blocks = stored("blocks", [1, -t_in, n_blocks + 1, block], given)
    x = g.op("RESHAPE", [x, shape], [blocks], options="ReshapeOptions", newShape=as_blocks)
    w = g.tensor("conv1.weight", weight.shape, "INT8", weight, scale=np.tile(conv.scale, positions).tolist())
    bias = g.tensor(
        "conv1.bias", [positions * c_out], "INT32", np.tile(conv.bias, positions), scale=np.tile(bias_scale, positions).tolist()
    )
    x = g.op(
        "CONV_2D", [x, w, bias], [stored("relu1_blocks", [1, frames, n_blocks, positions * c_out], conv.out)], 3,
        options="Conv2DOptions", strideW=1, strideH=conv.stride, dilationWFactor=1, dilationHFactor=1,
        padding=g.schema.Padding.VALID, fusedActivationFunction=g.schema.ActivationFunctionType.RELU,
    )  # fmt: skip
    as_positions = [1, -1, n_blocks * positions, c_out]
    shape = g.constant("positions_shape", np.array(as_positions, dtype=np.int32))
    wide = stored("relu1_wide", [1, frames, n_blocks * positions, c_out], conv.out)
    x = g.op("RESHAPE", [x, shape], [wide], options="ReshapeOptions", newShape=as_positions)
    begin = g.constant("slice_begin", np.zeros(4, dtype=np.int32))
    size = g.constant("slice_size", np.array([1, -1, width, c_out], dtype=np.int32))
    return g.op("SLICE", [x, begin, size], [stored("relu1", [1, frames, width, c_out], conv.out)], 2, options="SliceOptions")


def _product(g: _Subgraph, x: int, name: str, matrix: Array | QuantizedRows, shape: Sequence[int]) -> int:
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


def _classify(graph: _Graph, net: EmotionNet, quantized: QuantizedNet | None) -> None:
    """encoded -> both GRU directions in one loop -> z -> logits."""
    g = _Subgraph(graph, "classify")
    size, n_gates = encoder_size(net), 3 * GRU_SIZE
    state = dict(net.gru.named_parameters())

    def matrix(name: str) -> Array | QuantizedRows:
        if quantized is not None:
            rows = quantized.gru[name]
            return QuantizedRows(frequency_major(rows.weight, size), rows.scale) if "_ih" in name else rows
        floats = state[name].detach().cpu().numpy()
        return frequency_major(floats, size) if "_ih" in name else floats

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
    fc1: Array | QuantizedRows = quantized.fc1 if quantized else net.fc1.weight.detach().cpu().numpy()
    fc2: Array | QuantizedRows = quantized.fc2 if quantized else net.fc2.weight.detach().cpu().numpy()
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


def _loop(graph: _Graph, matrix: Callable[[str], Array | QuantizedRows], state: dict[str, Any]) -> tuple[_Subgraph, _Subgraph]:
    """Build the loop over time; it carries (t, h [2, 128], gates [M, 2, 384], n), row 0 forward and row 1 backward."""
    n_gates = 3 * GRU_SIZE

    def carried(g: _Subgraph) -> list[int]:
        t, h = g.tensor("t", [], "INT32"), g.tensor("h", [2, GRU_SIZE])
        return [t, h, g.tensor("gates", [-1, 2, n_gates]), g.tensor("n", [], "INT32")]

    condition = _Subgraph(graph, "more_steps")
    t, _, _, n = inputs = carried(condition)
    more = condition.tensor("more", [], "BOOL")
    condition.op("LESS", [t, n], [more], options="LessOptions")
    condition.ends(inputs, [more])

    g = _Subgraph(graph, "gru_step")
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
