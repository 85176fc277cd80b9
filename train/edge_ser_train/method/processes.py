"""The processes that train one run together: who they are, what they exchange, and how they are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from edge_ser_train.method.model import EmotionNet, Output, ShiftNorm


@dataclass(frozen=True)
class Processes:
    """All of them, as one sees them."""

    rank: int
    """This one's number; the first, 0, looks at dev and writes."""
    count: int

    def device(self) -> torch.device:
        """Return what this one computes on: a GPU of its own where there are enough of them."""
        return torch.device(f"cuda:{self.rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")

    def together(self, net: EmotionNet) -> Callable[[Tensor, Tensor, bool], Output]:
        """Return the network as all of them run it: each its share of the batch, every one the whole batch's answers.

        Gradients flow back to their owners, so loss, class weights and centres are those of the whole batch everywhere. Batch
        statistics are the whole batch's too, and a clip's dropout masks are those it has in one process.
        """
        if self.count == 1:
            return net
        for module in net.modules():
            if isinstance(module, ShiftNorm):
                module.batch_norm = batch_norm
        net.dropout = _SharedDropout(net.dropout.p, self)
        shared = torch.nn.parallel.DistributedDataParallel(net)

        def forward(x: Tensor, lengths: Tensor, encoded: bool) -> Output:
            share = slice(self.rank * len(x) // self.count, (self.rank + 1) * len(x) // self.count)
            out = shared(x[share], lengths[share], encoded)
            return Output(*(_sum(F.pad(answer.float(), (0, 0, share.start, len(x) - share.stop))) for answer in out))

        return forward

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether any process raises the flag."""
        if self.count == 1:
            return flag
        flags = torch.tensor([float(flag)], device=device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process through the block before the others."""
        if self.rank > 0:
            dist.barrier()
        yield
        if self.rank == 0 and self.count > 1:
            dist.barrier()


class _Sum(torch.autograd.Function):
    """The sum over the processes; gradients too, since every process has a loss that depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class _SharedDropout(nn.Dropout):
    """Dropout that draws the masks of the whole batch, as one process does, and applies those of the share."""

    def __init__(self, p: float, processes: Processes) -> None:
        super().__init__(p)
        self.processes = processes

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of the share x [B / count, ...]."""
        if not self.training:
            return x
        every = F.dropout(x.new_ones(self.processes.count * len(x), *x.shape[1:]), self.p)
        return x * every[self.processes.rank * len(x) :][: len(x)]


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise x [B / count, C, H, W] like torch's batch_norm, with the statistics of what all processes have.

    torch's SyncBatchNorm runs on GPUs alone.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.autocast(x.device.type, enabled=False):
        values, n = x.to(running_mean.dtype), x.numel() // x.shape[1] * dist.get_world_size()
        mean = _sum(values.sum(dim=(0, 2, 3))) / n
        centred = values - mean[:, None, None]
        variance = _sum(centred.square().sum(dim=(0, 2, 3))) / n
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * n / (n - 1), momentum)
        scale = weight * torch.rsqrt(variance + eps)
        normalised: Tensor = centred * scale[:, None, None] + bias[:, None, None]
    return normalised.to(x.dtype)


def present() -> Processes:
    """Return the processes joined by :func:`joined`, or this one alone."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes(0, 1)


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield present()
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield present()
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C in the list that is yielded, so that a step is never cut in half; a second one acts at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = signal.signal(signal.SIGINT, receive)
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
