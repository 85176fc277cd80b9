from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_ser_train.method.config import ModelConfig
from edge_ser_train.method.dataset import pad_batch
from edge_ser_train.method.model import Convolution, EmotionNet, ShiftNorm


@pytest.mark.parametrize(("n_bins", "parameters"), [(128, 629_972), (513, 2_473_172)])
def test_parameter_count_is_the_papers(n_bins: int, parameters: int) -> None:
    net = EmotionNet(n_bins, 4, ModelConfig())
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == parameters


def test_weights_start_glorot_uniform_and_biases_zero() -> None:
    net = EmotionNet(128, 4, ModelConfig())
    bound = (6 / (480 + 128)) ** 0.5
    gate = net.gru.get_parameter("weight_ih_l0")[:128]
    assert gate.abs().max() <= bound
    assert gate.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    for name, parameter in net.named_parameters():
        if "bias" in name:
            assert not parameter.any(), name


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_on_a_cpu_are_those_of_a_plain_convolution(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    own, plain = Convolution(5, 7, 3), torch.nn.Conv2d(5, 7, 3)
    plain.load_state_dict(own.state_dict())
    gradients = []
    for convolution in (own, plain):
        x = torch.linspace(-1, 1, 2 * 5 * 12 * 9).sin().reshape(2, 5, 12, 9).requires_grad_()
        y = convolution.to(memory_format=layout)(x.to(memory_format=layout))  # type: ignore[call-overload]
        assert (type(y.grad_fn).__name__ == "_ConvolveBackward") is (convolution is own)
        y.pow(3).sum().backward()
        assert convolution.bias is not None
        gradients.append((x.grad, convolution.weight.grad, convolution.bias.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_frames", [49, 64, 65, 80, 81, 300])
def test_one_vector_every_16_frames(n_frames: int) -> None:
    net = EmotionNet(128, 4, ModelConfig())
    assert net.encode(torch.zeros(1, n_frames, 128)).shape == (1, (n_frames - 49) // 16 + 1, 480)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_padded_batch_equals_each_clip_alone(batch_norm: bool) -> None:
    torch.manual_seed(0)
    net = EmotionNet(128, 4, ModelConfig(batch_norm=batch_norm)).eval()
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((n, 128)).astype(np.float32) for n in (49, 57, 64, 65, 130, 211)]
    batch, lengths = pad_batch(clips)
    batch[:, 211:] = 1e4  # whatever lies in the padding
    for row, n in enumerate(lengths):
        batch[row, n:] = 1e4
    together = net(batch, lengths)
    for row, clip in enumerate(clips):
        alone = net(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.z[row], alone.z[0], atol=1e-5, rtol=1e-5)


def test_a_vector_depends_on_its_49_frames_alone() -> None:
    net = EmotionNet(128, 4, ModelConfig())
    x = torch.randn(1, 49 + 16 * 4, 128, generator=torch.Generator().manual_seed(0))
    vectors = net.encode(x)
    part = net.encode(x[:, 32 : 32 + 49])
    torch.testing.assert_close(part[:, 0], vectors[:, 2], atol=1e-6, rtol=1e-5)
    changed = x.clone()
    changed[:, 32 + 49 :] += 1
    torch.testing.assert_close(net.encode(changed)[:, :3], vectors[:, :3])


def test_batch_norm_folds_into_the_convolution_before_the_pooling() -> None:
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 8, 3), ShiftNorm(8)
    norm.shift.data.normal_()
    norm.train()
    for _ in range(20):
        norm(conv(torch.randn(4, 3, 12, 12)) * 3 + 1)
    norm.eval()
    x = torch.randn(2, 3, 12, 12)
    expected = torch.relu(norm(torch.nn.functional.max_pool2d(conv(x), 2)))
    weight, bias = norm.fold(conv.weight, conv.bias)  # type: ignore[arg-type]
    folded = torch.nn.functional.max_pool2d(torch.relu(torch.nn.functional.conv2d(x, weight, bias)), 2)
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)
