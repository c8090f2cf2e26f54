"""Where the arithmetic runs, and how fast: devices by their names, precision, torch.compile."""
import argparse
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


def device_flag(text: str) -> torch.device:
    """The device `cpu`, `cuda` or `mps`, or with `auto` the fastest that this machine has.

    Raises: argparse.ArgumentTypeError if there is none of that name (it is the type of a flag).
    """
    there = {"cuda": torch.cuda.is_available() and has_kernels(),
             "mps": torch.backends.mps.is_available(), "cpu": True}
    if text == "auto":
        text = next(name for name in there if there[name])
    if text not in there:
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda, mps")
    if not there[text]:
        if text == "cuda" and torch.cuda.is_available():
            major, minor = torch.cuda.get_device_capability()
            raise argparse.ArgumentTypeError("this PyTorch has no kernels for a GPU of compute "
                                             f"capability {major}.{minor}: take auto or cpu")
        raise argparse.ArgumentTypeError(f"this PyTorch finds no {text} device: take auto or cpu")
    return torch.device(text)


def has_kernels() -> bool:
    """Whether this PyTorch was built for the GPU: for its compute capability, or for a lower one of
    the same generation. (A wheel for newer GPUs sees an old one, and fails at the first kernel.)"""
    major, minor = torch.cuda.get_device_capability()
    built = [int("".join(c for c in arch.split("_")[1] if c.isdigit()))
             for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    return any(arch // 10 == major and arch % 10 <= minor for arch in built)


def precision(kind: str) -> torch.dtype:
    """The number format in which a device of that kind is fastest and safe.

    bfloat16 on CUDA from compute capability 8.0 on, and on CPUs with such instructions. Older GPUs
    only emulate it (torch.cuda.is_bf16_supported() counts that as support): they take float32.
    """
    fast = {"cuda": lambda: torch.cuda.get_device_capability() >= (8, 0), "mps": lambda: False,
            "cpu": torch.cpu._is_avx512_bf16_supported}[kind]()
    return torch.bfloat16 if fast else torch.float32


def autocast(network: nn.Module) -> Callable[..., Tensor]:
    """The network with float32 results, computed in bfloat16 where its device is fast at that."""
    kind = next(network.parameters()).device.type
    enabled = precision(kind) == torch.bfloat16

    def computed(*inputs: Tensor, **options: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=enabled):
            return network(*inputs, **options).float()
    return computed


def why_not_compile() -> str | None:
    """What torch.compile lacks on this machine, or None: it calls a C++ compiler, and includes
    Python's headers."""
    if not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "a C++ compiler, such as g++"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's headers, Debian's package python3-dev for example"
    return None
