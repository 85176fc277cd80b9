"""The network of Dai et al. (ICASSP 2019), for Mel (128 bins) and STFT (513 bins) input alike.

    features [B, T, n_bins]                                     dB
      -> (x - mean) / std, per bin
      -> conv 7x7/2, 48                    [B, 48, ⌊(T-7)/2⌋+1, ...]
      -> conv 3x3, 64 -> max-pool 2x2
      -> conv 3x3, 80 -> max-pool 2x2
      -> conv 3x3, 96 -> max-pool 2x2      [B, 96, N, n_freq],  N = ⌊(T-49)/16⌋+1,  n_freq = 5 (Mel) or 30 (STFT)
      -> encoder vectors                   [B, N, 96·n_freq]
      -> BiGRU 128: last forward and last backward output        [B, 256]
      -> FC1 + PReLU = z                   [B, 64]
      -> FC2 = logits                      [B, n_classes]

Convolutions are unpadded, so encoder vector j depends on frames [16j, 16j+49) alone: padding a batch, or feeding a stream
in parts, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from edge_ser.geometry import CHANNELS, EMBEDDING_SIZE, ENCODER_FRAMES, ENCODER_STRIDE, GRU_SIZE, KERNELS, encoder_size
from edge_ser_train.method.config import ModelConfig, TrainConfig


class _Convolve(torch.autograd.Function):
    """conv2d of NHWC maps, with the gradient of its weight taken from NCHW copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry = [len(weight)], ctx.stride, [0, 0], [1, 1], False, [0, 0], 1  # no padding, no dilation, one group
        backward = torch.ops.aten.convolution_backward
        of_x, _, _ = backward(gradient, x, weight, *geometry, [ctx.needs_input_grad[0], False, False])
        copies = [t.contiguous() for t in (gradient, x, weight)]
        _, of_weight, of_bias = backward(*copies, *geometry, [False, True, True])
        return of_x, of_weight, of_bias, None


class Convolution(nn.Conv2d):
    """A convolution that trains faster on a CPU: its gradients are the same.

    Without AVX-512, oneDNN takes 2.5 times as long for a weight's gradient in NHWC layout as in NCHW, where pooling is slow. A
    single input channel lies the same either way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, C, H, W]."""
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if trained and self.in_channels > 1 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            convolved: Tensor = _Convolve.apply(x, self.weight, self.bias, self.stride)  # type: ignore[no-untyped-call]
            return convolved
        return super().forward(x)


class ShiftNorm(nn.Module):
    """Batch normalisation with a learnt shift and no learnt scale: (x - μ)/σ + β over [B, C, H, W].

    Nothing is lost: the next convolution absorbs any positive scale, as ReLU and max-pooling are positively homogeneous. The map
    is increasing, so it commutes with max-pooling. It runs on the four times smaller pooled maps, and at export it folds into the
    convolution before the pooling.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shift = nn.Parameter(torch.zeros(channels))
        self.batch_norm: Callable[..., Tensor] = F.batch_norm
        """Takes the statistics: of the batch that is here, or of one that processes share."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, H, W]."""
        return self.batch_norm(
            x,
            self.norm.running_mean,
            self.norm.running_var,
            torch.ones_like(self.shift),
            self.shift,
            training=self.training,
            momentum=0.1,
            eps=self.norm.eps,
        )

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the convolution weight [C, ...] and bias [C] that do both in one."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        scale = torch.rsqrt(variance.double() + self.norm.eps)
        folded = weight.double() * scale[:, None, None, None]
        return folded.float(), ((bias.double() - mean.double()) * scale + self.shift.double()).float()


class Output(NamedTuple):
    """What the network answers."""

    logits: Tensor
    """[B, n_classes]"""
    z: Tensor
    """The embedding, [B, 64]."""


class EmotionNet(nn.Module):
    """CNN + BiGRU + FC1/PReLU + FC2; see the module's docstring for the shapes."""

    def __init__(self, n_bins: int, n_classes: int, config: ModelConfig) -> None:
        super().__init__()
        self._frozen = False
        self.n_bins = n_bins
        self.register_buffer("feature_mean", torch.zeros(n_bins))
        self.register_buffer("feature_std", torch.ones(n_bins))
        channels_in = (1, *CHANNELS[:-1])
        self.convs = nn.ModuleList(
            Convolution(c_in, c_out, k, stride=2 if i == 0 else 1)
            for i, (c_in, c_out, k) in enumerate(zip(channels_in, CHANNELS, KERNELS, strict=True))
        )
        self.norms = nn.ModuleList(ShiftNorm(c) if config.batch_norm else nn.Identity() for c in CHANNELS)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(encoder_size(n_bins), GRU_SIZE, batch_first=True, bidirectional=True)
        self.fc1 = nn.Linear(2 * GRU_SIZE, EMBEDDING_SIZE)
        self.prelu = nn.PReLU(EMBEDDING_SIZE)
        self.fc2 = nn.Linear(EMBEDDING_SIZE, n_classes)
        self._initialise()

    feature_mean: Tensor
    feature_std: Tensor

    def _initialise(self) -> None:
        """Glorot-uniform weights (each GRU gate its own matrix), zero biases.

        torch's GRU has two biases a gate, the paper's one: the recurrent one stays zero and is not trained.
        """
        for name, parameter in self.named_parameters():
            if name.startswith("prelu"):
                continue
            if name.startswith("gru.bias_hh"):
                parameter.requires_grad_(False)
            if name.startswith("gru.weight"):
                for gate in parameter.data.chunk(3):
                    nn.init.xavier_uniform_(gate)
            elif parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def freeze_convolutions(self) -> None:
        """Train what follows the convolutions alone; their normalisation stays at the statistics it has."""
        self._frozen = True
        for part in (self.convs, self.norms):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> EmotionNet:
        """Go into training mode, but for what is frozen; or out of it."""
        super().train(mode)
        if self._frozen:
            self.norms.eval()
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return by name what is trained: all but the GRU's recurrent biases and what is frozen."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def encode(self, features: Tensor) -> Tensor:
        """Return the encoder vectors [B, N, 96·n_freq] of features [B, T, n_bins]."""
        x = ((features - self.feature_mean) / self.feature_std)[:, None]
        # One channel lies the same either way in memory, so ask for NHWC strides outright.
        x = x.to(memory_format=torch.channels_last)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            if i > 0:
                x = F.max_pool2d(x, 2)
            x = F.relu(norm(x))  # after the pooling, which an increasing function commutes with: a quarter of the work
        return x.permute(0, 2, 1, 3).flatten(2)

    def forward(self, x: Tensor, lengths: Tensor, encoded: bool = False) -> Output:
        """Answer for features [B, T, n_bins], of which row b's first ``lengths[b]`` >= 49 frames are real.

        Or, ``encoded``, for encoder vectors [B, N, 96·n_freq], of which row b's first ``lengths[b]`` are real.
        """
        if not encoded:
            x, lengths = self.encode(x), (lengths - ENCODER_FRAMES) // ENCODER_STRIDE + 1
        vectors = self.dropout(x).float()
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)  # [2, B, 128]: last of the forward RNN, last of the backward RNN
        z = self.prelu(self.fc1(self.dropout(torch.cat([last[0], last[1]], dim=1))))
        return Output(self.fc2(z), z)


def compute_type(precision: str, device: torch.device) -> torch.dtype:
    """Return what convolutions compute in: bfloat16 where asked for, or where the processor has it (``auto``)."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def with_settled_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the settings with ``precision`` as the device computes: ``auto`` means another thing elsewhere."""
    return replace(config, precision=str(compute_type(config.precision, device)).removeprefix("torch."))
