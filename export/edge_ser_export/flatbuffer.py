"""A TFLite file under construction: its flatbuffer tables, tensor by tensor and operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray

_ALIGNMENT = 16  # what TFLite's schema asks of weights


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


class Graph:
    """The file under construction: buffers and operator codes are shared by its subgraphs."""

    def __init__(self) -> None:
        self.schema = _schema()
        self.model = self.schema.ModelT()
        self.model.version = 3
        self.model.description = b"edge-ser"
        self.model.buffers = [self.schema.BufferT()]
        self._numbers: dict[bytes, int] = {}
        self.model.operatorCodes, self.model.subgraphs, self.model.signatureDefs, self.model.metadata = [], [], [], []

    def buffer(self, data: bytes) -> int:
        """Return the number of the buffer that holds ``data``, which is added when it is new: subgraphs share weights."""
        if data not in self._numbers:
            buffer = self.schema.BufferT()
            buffer.data = data
            self.model.buffers.append(buffer)
            self._numbers[data] = len(self.model.buffers) - 1
        return self._numbers[data]

    def code(self, name: str, version: int) -> int:
        """Return the number of an operator code, which is added when it is new."""
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
        """Return the bytes of the file."""
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


class Subgraph:
    """One subgraph: tensors by number, operators in order."""

    def __init__(self, graph: Graph, name: str) -> None:
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
        data: AnyArray | None = None,
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

    def constant(self, name: str, value: AnyArray) -> int:
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
