"""How fast int8 convolutions can go here, and how fast the encoder's do: both in ONNX Runtime, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.geometry import CHANNELS, KERNELS

SHAPES = ((64, 64, 64, 128), (128, 128, 32, 64), (256, 256, 32, 32))
"""Convolutions that are tried, (channels in, channels out, height, width); the fastest counts."""


def single_convolution(channels_in: int, channels_out: int, height: int, width: int) -> tuple[Callable[[], object], int]:
    """Return a function that runs one 3x3 QLinearConv (uint8 x int8, per channel), and its multiply-accumulates."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-63, 64, (channels_out, channels_in, 3, 3)).astype(np.int8)
    constants: dict[str, AnyArray] = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(0),
        "w": weight,
        "w_scale": np.full(channels_out, 0.01, dtype=np.float32),
        "w_zero": np.zeros(channels_out, dtype=np.int8),
        "y_scale": np.float32(0.5),
        "y_zero": np.uint8(0),
    }
    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    shapes = {"x": [1, channels_in, height, width], "y": [1, channels_out, height, width]}
    ends = {name: helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["y"], pads=[1, 1, 1, 1])],
        "single",
        [ends["x"]],
        [ends["y"]],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = one_thread(model.SerializeToString())
    x = rng.integers(0, 256, shapes["x"]).astype(np.uint8)
    return lambda: session.run(None, {"x": x}), channels_out * height * width * channels_in * 9


def encoder(model: Path, folder: Path, features: Float32Array) -> Callable[[], object]:
    """Return a function that runs the encoder of an ONNX ``model`` alone on ``features`` [T, n_bins]."""
    loaded = onnx.load(model)
    part = folder / "encoder.onnx"
    onnx.utils.extract_model(str(model), str(part), [i.name for i in loaded.graph.input], ["encoded"], check_model=False)
    session = one_thread(part.read_bytes())
    feed = {
        i.name: np.zeros([d if isinstance(d, int) else 0 for d in i.shape], dtype=_DTYPES[i.type])
        for i in session.get_inputs()
        if i.name != "features"
    }
    return lambda: session.run(None, {**feed, "features": features[None]})


_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


def encoder_macs(n_frames: int, n_bins: int) -> int:
    """Return the multiply-accumulates of the network's four convolutions, however a file lays them out.

    >>> encoder_macs(49, 128)
    47254944
    """
    height, width, channels_in, macs = n_frames, n_bins, 1, 0
    for i, (channels, kernel) in enumerate(zip(CHANNELS, KERNELS, strict=True)):
        stride = 2 if i == 0 else 1
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        macs += channels * height * width * channels_in * kernel**2
        if i > 0:
            height, width = height // 2, width // 2
        channels_in = channels
    return macs


def one_thread(content: bytes) -> Any:
    """Return a session of ONNX Runtime on one thread of the CPU."""
    import onnxruntime as ort  # after edge_ser, which keeps it from reporting to its makers

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
