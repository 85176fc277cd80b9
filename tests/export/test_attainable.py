"""What the comparisons with the machine count, and that the encoder they time is the file's."""

from __future__ import annotations

from pathlib import Path

import attainable
import numpy as np
import pytest
import torch

from edge_ser.engines import open_backend
from edge_ser.model.manifest import read_model_file, shipped_model_path
from edge_ser_train.method.config import ModelConfig
from edge_ser_train.method.model import EmotionNet


@pytest.mark.parametrize("shape", [(49, 128), (297, 128), (1400, 513)])
def test_multiply_accumulates_are_those_of_the_network(shape: tuple[int, int]) -> None:
    net = EmotionNet(shape[1], 4, ModelConfig()).eval()
    counted: list[int] = []

    def count(conv: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        assert isinstance(conv, torch.nn.Conv2d)
        counted.append(output.numel() * conv.weight[0].numel())

    for conv in net.convs:
        conv.register_forward_hook(count)
    with torch.no_grad():
        net.encode(torch.zeros(1, *shape))
    assert attainable.encoder_macs(*shape) == sum(counted)


def test_the_encoder_alone_gives_the_models_vectors(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(-40, 10, (81, 128)).astype(np.float32)
    path = shipped_model_path()
    answer = open_backend(read_model_file(path)).run(features)
    vectors = attainable.encoder(path, tmp_path, features)()
    assert isinstance(vectors, list)
    assert np.array_equal(vectors[0][0], answer.encoded)


def test_a_single_convolution_runs() -> None:
    call, macs = attainable.single_convolution(16, 32, 8, 8)
    assert macs == 32 * 8 * 8 * 16 * 9
    outputs = call()
    assert isinstance(outputs, list)
    assert outputs[0].shape == (1, 32, 8, 8)
    assert outputs[0].max() > 0
