"""Where the arithmetic runs, and how fast: devices by their names, bfloat16, torch.compile."""
import argparse
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn


def device(text: str) -> torch.device:
    """The device `cpu`, `cuda` or `mps`, or with `auto` the fastest that this machine has.

    Raises: argparse.ArgumentTypeError if there is none of that name (it is the type of a flag).
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if text == "auto":
        text = next(name for name in there if there[name])
    if text not in there:
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda, mps")
    if not there[text]:
        raise argparse.ArgumentTypeError(f"this PyTorch finds no {text} device: take auto or cpu")
    return torch.device(text)


def fast(network: nn.Module) -> Callable[..., Tensor]:
    """The network with float32 results, computed in bfloat16 where its device is fast at that."""
    home = next(network.parameters()).device.type
    has_bf16 = {"cuda": torch.cuda.is_bf16_supported, "mps": lambda: False,
                "cpu": torch.cpu._is_avx512_bf16_supported}[home]()

    def computed(*inputs: Tensor) -> Tensor:
        with torch.autocast(home, torch.bfloat16, enabled=has_bf16):
            return network(*inputs).float()
    return computed


def can_compile() -> bool:
    """Whether there is a C++ compiler, which torch.compile calls."""
    return any(map(shutil.which, ("g++", "clang++", "cl")))
