from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from edge_ser_train.method.config import ModelConfig
from edge_ser_train.method.model import EmotionNet
from edge_ser_train.method.processes import present

N_CLIPS, N_FRAMES = 6, 128


def one_step(frozen: bool) -> dict[str, Tensor]:
    """Return what a step's forward and backward pass leave behind: answers, gradients, statistics; in every process the same."""
    torch.manual_seed(1)
    net = EmotionNet(128, 4, ModelConfig(batch_norm=True, dropout=0.4))
    for part in (net.convs, net.norms):
        part.double()  # in float a rounding error may decide which value is the greatest that pooling sees
    if frozen:
        net.freeze_convolutions()
    # Clips of very different level: statistics of half of them are another thing.
    x = torch.randn(N_CLIPS, N_FRAMES, 128).double() * torch.logspace(-1, 1, N_CLIPS)[:, None, None]
    lengths = torch.full((N_CLIPS,), N_FRAMES)
    forward = present().together(net)
    torch.manual_seed(2)
    net.train()
    logits, z = forward(x, lengths, False)
    ((logits**2).sum() + (z**3).sum()).backward()
    gradients = {f"gradient of {name}": p.grad for name, p in net.trained_parameters().items() if p.grad is not None}
    buffers = {name: b.float() for name, b in net.named_buffers()}
    net.eval()
    with torch.no_grad():
        later = net(x, lengths)
    return {"logits": logits.detach(), "z": z.detach(), "later": later.z, **gradients, **buffers}


def _process(rank: int, count: int, folder: Path, frozen: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count)
    torch.save(one_step(frozen), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("count", "frozen"), [(2, False), (3, True)])
def test_a_step_of_several_processes_is_that_of_one(tmp_path: Path, count: int, frozen: bool) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(rank, count, tmp_path, frozen)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = one_step(frozen)
    for rank in range(count):
        shared = torch.load(tmp_path / f"{rank}.pt")
        assert shared.keys() == alone.keys()
        for name, value in alone.items():
            difference = float((shared[name] - value).abs().max() / value.abs().max().clamp_min(1e-12))
            # The shift of a convolution is undone by the normalisation behind it: its gradient is rounding error alone.
            assert difference < 1e-4 or (name.startswith("gradient of convs") and name.endswith("bias")), name
