"""What a network answers of many clips: batches of similar length, results in the clips' own order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from edge_ser.arrays import Float32Array, IndexArray
from edge_ser.geometry import EMBEDDING_SIZE, vector_count
from edge_ser_train.method.dataset import pad_batch
from edge_ser_train.method.model import EmotionNet

_BATCH = 32


@torch.inference_mode()
def infer(net: EmotionNet, inputs: Sequence[Float32Array], encoded: bool = False) -> tuple[Float32Array, Float32Array]:
    """Return logits [n, n_classes] and embeddings [n, 64] of clips' features, or encoder vectors, in their order, in float32."""
    logits = np.empty((len(inputs), net.fc2.out_features), dtype=np.float32)
    z = np.empty((len(inputs), EMBEDDING_SIZE), dtype=np.float32)
    for rows, batch, lengths in _batches(net, inputs):
        out = net(batch, lengths, encoded)
        logits[rows], z[rows] = out.logits.cpu().numpy(), out.z.cpu().numpy()
    return logits, z


@torch.inference_mode()
def encode(net: EmotionNet, features: Sequence[Float32Array]) -> list[Float32Array]:
    """Return the encoder vectors of clips' features, one [N, 96·n_freq] a clip, in their order, in float32."""
    vectors = {}
    for rows, batch, n_frames in _batches(net, features):
        encoded = net.encode(batch).cpu().numpy()
        for row, x, n in zip(rows.tolist(), encoded, n_frames.tolist(), strict=True):
            vectors[row] = x[: vector_count(n)].copy()
    return [vectors[i] for i in range(len(features))]


def _batches(net: EmotionNet, inputs: Sequence[Float32Array]) -> Iterator[tuple[IndexArray, Tensor, Tensor]]:
    """Yield clips of similar length: their numbers, the padded batch and the lengths; the network is set to evaluate them."""
    net.eval()
    order = np.argsort([len(x) for x in inputs], kind="stable")
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch, lengths = pad_batch([inputs[i] for i in rows])
        yield rows, batch.to(net.feature_mean.device), lengths
