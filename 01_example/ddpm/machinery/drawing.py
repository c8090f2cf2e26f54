"""What the sample.py scripts share around their samplers: flags, batches, the files written."""
import argparse
import io
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from machinery.cli import Parser, count_flag, seed_flag
from machinery.devices import device_flag
from machinery.files import prepare, write
from machinery.pictures import gif, grid, png
from machinery.processes import gather, rank, world_size

CPU_BATCH = 64   # images drawn at once: memory does not grow with --n, processes can share them
GPU_BATCH = 1000
FRAMES = 30      # of an animation, whatever the number of steps
FILMED = 36      # images in an animation


def sampling_parser(doc: str, weights: Path) -> Parser:
    """The flags that every sampler has."""
    parser = Parser(doc)
    parser.add_argument("--weights", type=Path, default=weights,
                        help="a model.safetensors of train.py")
    parser.add_argument("--n", type=count_flag, default=64, help="number of images")
    parser.add_argument("--out", type=Path, default=Path("samples.png"),
                        help="a .png, or a .npy for the raw uint8 array (N, H, W)")
    parser.add_argument("--animate", type=Path, metavar="FILE.gif",
                        help="also film the first 36 images on their way from noise to digits")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    return parser


def prepare_outputs(args: argparse.Namespace, parser: Parser) -> None:
    """Refuses file names of another kind (exit 2) and folders that cannot be written (OSError)."""
    if args.out.suffix not in (".png", ".npy"):
        parser.error(f"--out ends in .png or .npy, not {args.out.name}")
    if args.animate and args.animate.suffix != ".gif":
        parser.error(f"--animate ends in .gif, not {args.animate.name}")
    for path in filter(None, (args.out, args.animate)):
        prepare(path)


def generator_of(seed: int, i: int) -> torch.Generator:
    """Where image i of that seed gets its noise; the odd factor keeps the seeds' ranges apart."""
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + i) % 2**32)


States = Callable[[list[torch.Generator]], Iterator[Tensor]]


def generate(states: States, *, n: int, seed: int, steps: int, on_gpu: bool = False
             ) -> tuple[Tensor, list[Tensor]]:
    """n images in batches, (n, C, H, W), and FRAMES states of the first FILMED of them.

    `states(generators)` yields the noise of as many images and then their states, the finished one
    last: 1 + `steps` tensors (N, C, H, W). Each image has a generator of its own, on the CPU, so
    that a seed means the same images on any device, in batches of any size, among any n. Several
    processes take turns at the batches, which are the same for any number of them, and each returns
    all images.
    """
    length = GPU_BATCH if on_gpu else CPU_BATCH
    batches = [range(n)[start:start + length] for start in range(0, n, length)]
    mine, drawn = batches[rank()::world_size()], []
    with tqdm(total=steps * len(mine), unit="step", desc="sampling", leave=False,
              disable=True if rank() else None) as bar:
        for batch in mine:
            filmed, frames = max(0, min(FILMED, batch.stop) - batch.start), []
            for i, x in enumerate(states([generator_of(seed, i) for i in batch])):
                if i == 0 or i * FRAMES // steps > (i - 1) * FRAMES // steps:
                    frames.append(x[:filmed].cpu())
                bar.update(i > 0)
            drawn.append((batch.start, x.cpu(), frames))
    _, images, frames = zip(*sorted(gather(drawn), key=itemgetter(0)), strict=True)
    return torch.cat(images), [torch.cat(parts) for parts in zip(*frames, strict=True)]


def save(images: Tensor, frames: list[Tensor], args: argparse.Namespace) -> None:
    """Writes --out, and --animate if it is given, and says so; of several processes the first."""
    if rank() > 0:
        return
    if args.out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, images[:, 0].numpy())
        write(args.out, buffer.getvalue())
    else:
        write(args.out, png(grid(images)))
    print(f"{len(images)} images: {args.out}")
    if args.animate:
        write(args.animate, gif([grid(frame, width=360) for frame in frames]))
        print(f"their way from noise: {args.animate}")
