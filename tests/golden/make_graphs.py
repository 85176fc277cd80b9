"""Write edge_ser/model/files/graphs: the graphs that edge-ser export makes, as the runtime describes them.

Run it after a change of what is exported: python tests/golden/make_graphs.py. Files written before are then refused, so
the manifest's format version goes up, too.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from edge_ser.frontend.features import LOGMEL_V1, LOGSTFT_V1
from edge_ser.model.graph import N_LABELS
from edge_ser.model.manifest import Manifest, shipped_model_path
from edge_ser.model.onnx_file import read_onnx
from edge_ser.model.tflite_file import read_tflite
from edge_ser_export.onnx_graph import build_graph, serialise
from edge_ser_export.quantize import activation_ranges, quantize
from edge_ser_export.tflite_graph import build_tflite
from edge_ser_train.method.config import ModelConfig
from edge_ser_train.method.model import EmotionNet

FOLDER = Path(__file__).parents[2] / "edge_ser" / "model" / "files" / "graphs"
FORMS = ("onnx", "tflite")
PRECISIONS = ("float32", "int8")
BINS = tuple(config.n_bins for config in (LOGMEL_V1, LOGSTFT_V1))


def described(form: str, precision: str, n_bins: int, n_labels: int) -> str:
    """Return the description of the graph of a network with random weights."""
    torch.manual_seed(0)
    net = EmotionNet(n_bins, n_labels, ModelConfig()).eval()
    quantized = None
    if precision == "int8":
        clips = [np.random.default_rng(0).normal(-40, 20, (100, n_bins)).astype(np.float32)]
        quantized = quantize(net, activation_ranges(net, clips))
    manifest = Manifest.from_json(read_onnx(shipped_model_path().read_bytes()).manifest)  # any will do
    if form == "onnx":
        contents = read_onnx(serialise(build_graph(net, quantized), manifest))
    else:
        contents = read_tflite(build_tflite(net, quantized)(manifest.to_json()))
    return "".join(line + "\n" for line in contents.graph)


if __name__ == "__main__":
    many = 997  # a number that nothing else in a graph has
    for form, precision, n_bins in itertools.product(FORMS, PRECISIONS, BINS):
        text = described(form, precision, n_bins, many).replace(str(many), N_LABELS)
        (FOLDER / f"{form}-{precision}-{n_bins}.txt").write_text(text)
