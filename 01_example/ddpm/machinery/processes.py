"""Several processes that share one piece of work, as torchrun starts them; without it, just one."""
import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(minutes=10)     # how long the others wait for one that is silent
GLOO_EXIT_SECONDS = 0.1     # gloo's threads release tensors late; after the interpreter's end
                            # that aborts the process


def rank() -> int:
    """The number of this process, from 0 on: 0 writes and prints for all."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes that share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def group(device: torch.device, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Within it the processes that torchrun started work together, each on a GPU of its own.

    Raises: ConnectionError, an OSError, if another process has ended or cannot be reached; through
    `parser`, exit 2, if the device is not for several processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "mps" or device.type == "cuda" and here > torch.cuda.device_count():
        parser.error(f"{here} processes here need --device cpu, or a CUDA device each")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                                timeout=TIMEOUT)
        yield
    except RuntimeError as error:           # of gloo and NCCL, which have no type of their own
        reason = str(error).splitlines()[0].lower()
        if not any(word in reason for word in ("gloo", "nccl", "connect", "timed out")):
            raise
        process = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        raise ConnectionError(f"{process} has lost another, or cannot reach it: once all have "
                              "ended, start them again, a training with --resume") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(GLOO_EXIT_SECONDS)


def print0(line: str) -> None:
    """Prints a line, once for all processes."""
    if rank() == 0:
        print(line, flush=True)


def shard(batch: Tensor) -> Tensor:
    """This process's own rows of a batch (N, ...): N / world_size() of them, with no overlap."""
    return batch.chunk(world_size())[rank()]


def ddp(network: nn.Module, *inputs: Tensor) -> nn.Module:
    """The network, whose gradients become the mean over all processes in the backward pass.

    DDP fixes the order of its sums in its first backward pass. That pass is run here, on some
    inputs, so that a resumed training sums in the same order as one that was not interrupted.
    """
    if world_size() == 1:
        return network
    averaged = nn.parallel.DistributedDataParallel(network)
    averaged(*inputs).sum().backward()
    network.zero_grad()
    return averaged


def mean(value: Tensor) -> Tensor:
    """The mean over all processes of a tensor, which is changed in place."""
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


def largest(number: int) -> int:
    """The largest of all processes' numbers, once each of them has come here."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)            # on the CPU: no GPU waits for it
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def barrier() -> None:
    """Waits until all processes have come here."""
    largest(0)


def gather(items: list) -> list:
    """All processes' items in one list, process by process."""
    if world_size() == 1:
        return items
    lists: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(lists, items)
    return [item for theirs in lists for item in theirs]


@contextmanager
def local_first() -> Iterator[None]:
    """What is within is done by the first process of each host before the others do it."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        barrier()
    try:
        yield
    finally:
        if first:
            barrier()
