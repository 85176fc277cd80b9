"""The processes that train one run together: who they are, what they exchange, and how they are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from edge_ser_train.method.model import EmotionNet, Output


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

        Gradients flow back to their owners, so loss, class weights and centres are those of the whole batch everywhere.
        """
        if self.count == 1:
            return net
        shared = torch.nn.parallel.DistributedDataParallel(net)

        def forward(x: Tensor, lengths: Tensor, encoded: bool) -> Output:
            share = slice(self.rank * len(x) // self.count, (self.rank + 1) * len(x) // self.count)
            out = shared(x[share], lengths[share], encoded)
            return Output(*(torch.cat(all_gather(answer.float())) for answer in out))

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
