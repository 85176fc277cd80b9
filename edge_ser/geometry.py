"""The network's geometry: how long and how wide what flows through it is, said here and nowhere else.

    features [T, 128] -> four unpadded convolutions, the last three with max-pooling 2x2 -> encoder vectors [N, 480]
      -> BiGRU -> z [64] -> logits [n_labels]

Vector j depends on frames [16j, 16j + 49) alone.
"""

from __future__ import annotations

import numpy as np

from edge_ser.arrays import AnyArray

N_BINS = 128
"""Bins of a frame of log-Mel features."""
CHANNELS = (48, 64, 80, 96)
"""Output channels of the convolutions."""
KERNELS = (7, 3, 3, 3)
"""Their kernels' heights and widths; the first steps two frames and two bins at a time, the others one."""
ENCODER_FRAMES = 49
"""Receptive field of one encoder vector, in frames: the shortest input the network can answer."""
ENCODER_STRIDE = 16
"""Distance between two encoder vectors, in frames."""
STATE_FRAMES = 5
"""Frames the first convolution sees again when a stream goes on."""
LEAD_FRAMES = ENCODER_FRAMES - ENCODER_STRIDE
"""Frames a stream needs before its first 16 give a vector: N vectors come of 33 + 16 N frames."""
GRU_SIZE = 128
"""Length of the GRU's state in one direction; it has three gates."""
EMBEDDING_SIZE = 64
"""Length of the embedding z."""


def encoder_size(n_bins: int) -> int:
    """Return the length of an encoder vector of features of ``n_bins``: 96 channels at what four convolutions leave of them.

    >>> encoder_size(N_BINS), encoder_size(513)
    (480, 2880)
    """
    n = (n_bins - KERNELS[0]) // 2 + 1
    for kernel in KERNELS[1:]:
        n = (n - kernel + 1) // 2
    return CHANNELS[-1] * n


ENCODER_SIZE = encoder_size(N_BINS)
"""Length of an encoder vector of log-Mel features, 480: 96 channels at five frequencies."""


def vector_count(n_frames: int) -> int:
    """Return how many encoder vectors ``n_frames`` >= 49 frames give.

    >>> vector_count(49), vector_count(64), vector_count(1400)
    (1, 1, 85)
    """
    return (n_frames - ENCODER_FRAMES) // ENCODER_STRIDE + 1


def channel_major(vectors: AnyArray) -> AnyArray:
    """Return encoder vectors [..., n_freq · 96] whose frequencies change slowest with channels that do, as they are trained."""
    return np.ascontiguousarray(vectors.reshape(*vectors.shape[:-1], -1, CHANNELS[-1]).swapaxes(-1, -2).reshape(vectors.shape))


def frequency_major(vectors: AnyArray) -> AnyArray:
    """Undo :func:`channel_major`: convolutions of channels-last engines leave frequencies to change slowest.

    >>> vectors = np.arange(480, dtype=np.float32)
    >>> bool((frequency_major(channel_major(vectors)) == vectors).all()), channel_major(vectors)[:3].tolist()
    (True, [0.0, 96.0, 192.0])
    """
    return np.ascontiguousarray(vectors.reshape(*vectors.shape[:-1], CHANNELS[-1], -1).swapaxes(-1, -2).reshape(vectors.shape))
