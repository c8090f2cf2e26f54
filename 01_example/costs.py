"""What an image costs our U-Net and those of DDPM, in operations and bytes, and what follows.

    pip install diffusers               # it has DDPM's networks
    python 01_example/costs.py

prints two tables within seconds: PyTorch counts the matrix products and convolutions on tensors
that have a shape and no content. A multiplication and an addition are two operations. Steps,
batches and times are those of Ho, Jain and Abbeel 2020 (arXiv 2006.11239), appendix B.
"""
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ddpm"))

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from data import import_torchvision
from machinery.cli import Parser, run
from unet import UNet

H100 = 300e12     # operations a second that we assume: 30% of its data sheet, bfloat16, no sparsity


def ddpm_unet(size: int, *channels: int) -> nn.Module:
    """DDPM's U-Net: one entry of `channels` for each resolution, attention at 16 x 16."""
    import_torchvision()        # diffusers imports it
    from diffusers import UNet2DModel
    down = ["AttnDownBlock2D" if size >> i == 16 else "DownBlock2D" for i in range(len(channels))]
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    return UNet2DModel(size, 3, 3, down_block_types=down, up_block_types=up,
                       block_out_channels=channels, attention_head_dim=None)


def costs(network: nn.Module, *shape: int) -> tuple[int, float, float, float]:
    """Of an image of that shape: parameters, operations forward and in training, activations.

    Activations are the bytes, in float32, that wait for the backward pass. Two images are counted,
    and halved, since PyTorch treats some batches of one differently.
    """
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda kept: kept):
        estimate = network(torch.randn(2, *shape), torch.ones(2))
        forward = counter.get_total_flops()
        getattr(estimate, "sample", estimate).sum().backward()
    activations = sum(size for storage, size in kept.items() if storage not in weights)
    return (sum(p.numel() for p in network.parameters()), forward / 2,
            counter.get_total_flops() / 2, activations / 2)


def row(*cells: object) -> None:
    """Prints a row of a Markdown table, numbers with three digits."""
    numbers = (cell if isinstance(cell, str) else f"{float(f'{cell:.3g}'):,g}" for cell in cells)
    print("| " + " | ".join(numbers) + " |")


def main(argv: list[str] | None = None) -> None:
    """Prints both tables."""
    parser = Parser(__doc__)
    parser.parse_args(argv)
    if not importlib.util.find_spec("diffusers"):
        parser.exit(1, "costs.py: DDPM's networks are in the package diffusers: pip install it\n")
    with torch.device("meta"):                          # shapes without contents
        ours = costs(UNet(64), 1, 28, 28)
        wide, large = costs(UNet(128), 1, 32, 32), costs(UNet(64), 1, 256, 256)
        cifar = costs(ddpm_unet(32, 128, 256, 256, 256), 3, 32, 32)
        lsun = costs(ddpm_unet(256, 128, 128, 256, 256, 512, 512), 3, 256, 256)
    row("network", "parameters, millions", "forward, GFLOP", "in training, GFLOP",
        "activations, MB")
    row(*["---"] * 5)
    for name, cost in (("ours, 28 x 28", ours), ("ours, twice as wide, 32 x 32", wide),
                       ("ours, 256 x 256", large), ("DDPM's, 32 x 32", cifar),
                       ("DDPM's, 256 x 256", lsun)):
        row(name, cost[0] / 1e6, cost[1] / 1e9, cost[2] / 1e9, cost[3] / 1e6)
    print()
    row("work", "images, millions", "operations", "hours", "TFLOP/s that it means", "H100 hours")
    row(*["---"] * 6)
    for name, images, each, hours in (
            ("MNIST, 22 epochs of ours", 22 * 60_000, ours[2], 53 / 60),
            ("CIFAR10, 800,000 steps of 128", 800_000 * 128, cifar[2], 10.6),
            ("256 CIFAR10 samples, T = 1000", 256 * 1000, cifar[1], 17 / 3600),
            ("CelebA-HQ 256 x 256, 500,000 steps of 64", 5e5 * 64, lsun[2], 5e5 / 2.2 / 3600),
            ("LSUN bedrooms, 2.4 million steps of 64", 2.4e6 * 64, lsun[2], 2.4e6 / 2.2 / 3600),
            ("128 samples of 256 x 256, T = 1000", 128 * 1000, lsun[1], 300 / 3600)):
        work = images * each
        row(name, images / 1e6, f"{work:.1e}", hours, work / hours / 3600 / 1e12,
            work / H100 / 3600)


if __name__ == "__main__":
    run(main)
