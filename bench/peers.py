"""What edge-ser is compared with: openSMILE's functionals, and a wav2vec2-base classifier."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attainable import one_thread
from torch import Tensor, nn

from edge_ser.arrays import Float32Array

Answer = Callable[[Float32Array], object]

RATE_HZ = 16000


def opensmile_egemaps() -> Answer:
    """Return a function from samples at 16 kHz to the 88 eGeMAPSv02 functionals; a classifier on top costs next to nothing."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return lambda samples: smile.process_signal(samples, RATE_HZ)


class Wav2Vec2Base(nn.Module):
    """wav2vec 2.0 base (Baevski et al. 2020) with a mean-pooling classifier of 4 classes: 94.6 M random weights.

    samples [1, n] -> 7 convolutions, one vector every 20 ms -> 12 transformer layers of 768 -> mean over time -> logits [1, 4]
    """

    def __init__(self) -> None:
        super().__init__()
        kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
        self.convs = nn.ModuleList(
            nn.Conv1d(512 if i else 1, 512, k, stride=s, bias=False)
            for i, (k, s) in enumerate(zip(kernels, strides, strict=True))
        )
        self.conv_norm = nn.GroupNorm(512, 512)
        self.feature_norm = nn.LayerNorm(512)
        self.projection = nn.Linear(512, 768)
        self.position = nn.Conv1d(768, 768, 128, padding=64, groups=16)
        self.norm = nn.LayerNorm(768)
        self.layers = nn.ModuleList(_TransformerLayer(768, 12, 3072) for _ in range(12))
        self.projector = nn.Linear(768, 256)
        self.classifier = nn.Linear(256, 4)

    def forward(self, samples: Tensor) -> Tensor:
        """Return logits [1, 4] of samples [1, n]."""
        x = samples[:, None]
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.gelu(self.conv_norm(x) if i == 0 else x)
        x = self.projection(self.feature_norm(x.transpose(1, 2)))
        x = self.norm(x + F.gelu(self.position(x.transpose(1, 2))[..., :-1]).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classifier(self.projector(x).mean(dim=1))
        return logits


class _TransformerLayer(nn.Module):
    """Self-attention and two linear maps, each with its residual and then its norm."""

    def __init__(self, size: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.up, self.down = nn.Linear(size, inner), nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            heads: Tensor = y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            return heads

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        x = self.norm1(x + self.out((weights @ v).transpose(1, 2).flatten(2)))
        out: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return out


def wav2vec2_int8(n_samples: int, folder: Path) -> tuple[Answer, int]:
    """Return a function from ``n_samples`` samples to logits, and the size of its file in bytes.

    ONNX Runtime on one thread, its dynamic int8 for the matrix products; the convolutions stay float, and would take as long.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    torch.manual_seed(0)
    net = Wav2Vec2Base().eval()
    exported, quantised = folder / "wav2vec2.onnx", folder / "wav2vec2-int8.onnx"
    logging.disable(logging.WARNING)  # of both exporters, about nothing that matters here
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, n_samples),), str(exported), dynamo=True, external_data=False)
        quantize_dynamic(exported, quantised, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    session = one_thread(quantised.read_bytes())
    name = session.get_inputs()[0].name

    def answer(samples: Float32Array) -> Any:
        normalised = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return session.run(None, {name: normalised[None]})

    return answer, os.stat(quantised).st_size
