"""From integers back to the float network: the weights of an ``.eser`` file, for a run to start from.

What int8 keeps of a weight comes back, its integer times its scale; batch normalisation stays folded into the convolutions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edge_ser.arrays import AnyArray, Float64Array
from edge_ser.geometry import CHANNELS, KERNELS, N_BINS, channel_major
from edge_ser.model.eser_file import ONE, STATE_UNIT, matrices, parse, without_panels
from edge_ser.model.manifest import Manifest, read_model_file
from edge_ser_train.method.config import ModelConfig
from edge_ser_train.method.model import EmotionNet, ShiftNorm


def read_network(path: Path, config: ModelConfig) -> tuple[EmotionNet, Manifest]:
    """Return the network of an ``.eser`` file and its manifest; with ``config``'s batch normalisation, if any, at the identity.

    Raises ModelFileError for a file that is missing or damaged.
    """
    file = read_model_file(path)
    n_labels = len(file.manifest.labels)
    values = parse(file.content, n_labels)
    vector_scale = float(file.manifest.quantization["vector_scale"])
    net = EmotionNet(N_BINS, n_labels, config)
    state = net.state_dict()

    def put(name: str, value: AnyArray) -> None:
        state[name].copy_(torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))

    gain, offset = (values[f"feature_{name}"].astype(np.float64) for name in ("gain", "offset"))
    put("feature_mean", -offset / gain)
    put("feature_std", 1 / gain)
    c_in = 1
    for i, (c_out, k) in enumerate(zip(CHANNELS, KERNELS, strict=True)):
        # A convolution may count in its own steps, as the next one takes them: ReLU and max-pooling do not mind the unit.
        unit = vector_scale if i == len(CHANNELS) - 1 else 1.0
        scale = values[f"conv{i + 1}_multiplier"] / 2.0**31 * unit
        rows = without_panels(values[f"conv{i + 1}_weight"], c_out).reshape(c_out, k, -1)[:, :, : k * c_in]
        put(f"convs.{i}.weight", (scale[:, None, None, None] * rows.reshape(c_out, k, k, c_in)).transpose(0, 3, 1, 2))
        put(f"convs.{i}.bias", scale * values[f"conv{i + 1}_bias"])
        c_in = c_out
    for norm in net.norms:
        if isinstance(norm, ShiftNorm):
            torch.nn.init.constant_(norm.norm.running_var, 1 - norm.norm.eps)  # type: ignore[arg-type]
    shifts = dict(zip(matrices(n_labels), values["shift"].tolist(), strict=True))

    def matrix(name: str, n_out: int, unit_in: float) -> tuple[Float64Array, Float64Array]:
        unit = values[f"{name}_multiplier"] / 2.0 ** shifts[name] / ONE
        flat = values[f"{name}_weight"]
        rows = flat.reshape(n_out, -1) if name == "fc2" else without_panels(flat, n_out)
        return unit[:, None] * rows / unit_in, unit * values[f"{name}_bias"]

    for direction, suffix in (("forward", ""), ("backward", "_reverse")):
        weight, bias = matrix(f"gru_input_{direction}", len(state["gru.bias_ih_l0"]), vector_scale)
        # In the file columns are frequency-major, here channel-major.
        put(f"gru.weight_ih_l0{suffix}", channel_major(weight))
        put(f"gru.bias_ih_l0{suffix}", bias)
        put(f"gru.weight_hh_l0{suffix}", matrix(f"gru_recurrent_{direction}", len(weight), STATE_UNIT)[0])
    for name, unit_in in (("fc1", STATE_UNIT), ("fc2", 1 / ONE)):
        weight, bias = matrix(name, len(state[f"{name}.bias"]), unit_in)
        put(f"{name}.weight", weight)
        put(f"{name}.bias", bias)
    put("prelu.weight", values["prelu"] / ONE)
    return net.eval(), file.manifest
