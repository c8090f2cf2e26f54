"""What the sample.py scripts share around their samplers: flags, batches, the files written."""
import argparse
import io
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from machinery.cli import Parser, count_flag, seed_flag
from machinery.devices import device_flag
from machinery.files import prepare, write
from machinery.pictures import channels_last, gif, grid, png
from machinery.processes import gather, rank, world_size

N, N_EACH = 64, 8
CPU_BATCH = 64   # images drawn at once: memory does not grow with --n, processes can share them
GPU_BATCH = 1000
FRAMES = 30      # of an animation, whatever the number of steps
FILMED = 36      # images in an animation


def sampling_parser(doc: str, weights: Path) -> Parser:
    """The flags that every sampler has."""
    parser = Parser(doc)
    parser.add_argument("--weights", type=Path, default=weights,
                        help="a model.safetensors of train.py")
    parser.add_argument("--n", type=count_flag, default=argparse.SUPPRESS, help="number of images; "
                        f"with --label all of each class (default: {N}, or {N_EACH} of each class)")
    parser.add_argument("--label", metavar="CLASS",
                        help="what to draw: the name of a class, such as 7, or all, a row for each")
    parser.add_argument("--out", type=Path, default=Path("samples.png"),
                        help="a .png, or a .npy for the raw uint8 array: (N, H, W), in colour "
                        "(N, H, W, 3)")
    parser.add_argument("--animate", type=Path, metavar="FILE.gif",
                        help="also film the first 36 images on their way from noise to digits")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    return parser


def labels_asked(args: argparse.Namespace, classes: Sequence[str], parser: Parser
                 ) -> tuple[Tensor | None, int, int | None]:
    """What --label and --n ask of a model that knows these classes.

    Returns: the labels of all images (n,), or None without --label; n; the number of columns of a
    picture with a row for each class, or None. A class that the model does not know: exit 2.
    """
    if args.label is None:
        return None, vars(args).get("n", N), None
    if not classes:
        parser.error(f"--label {args.label}: this model knows no classes")
    if args.label == "all":
        n = vars(args).get("n", N_EACH)
        return torch.arange(len(classes)).repeat_interleave(n), n * len(classes), n
    if args.label not in classes:
        parser.error(f"--label {args.label}: this model knows all, {', '.join(classes)}")
    n = vars(args).get("n", N)
    return torch.full((n,), classes.index(args.label)), n, None


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


States = Callable[[range, list[torch.Generator]], Iterator[Tensor]]


def generate(states: States, *, n: int, seed: int, steps: int, on_gpu: bool = False
             ) -> tuple[Tensor, list[Tensor]]:
    """n images in batches, (n, C, H, W), and FRAMES states of the first FILMED of them.

    `states(numbers, generators)` yields the noise of the images with these numbers, 0..n - 1, and
    then their states, the finished one last: 1 + `steps` tensors (N, C, H, W). Each image
    has a generator of its own, on the CPU, so that a seed means the same images on any device, in
    batches of any size, among any n. Several processes take turns at the batches, which are the
    same for any number of them, and each returns all images.
    """
    length = GPU_BATCH if on_gpu else CPU_BATCH
    batches = [range(n)[start:start + length] for start in range(0, n, length)]
    mine, drawn = batches[rank()::world_size()], []
    with tqdm(total=steps * len(mine), unit="step", desc="sampling", leave=False,
              disable=True if rank() else None) as bar:
        for batch in mine:
            filmed, frames = max(0, min(FILMED, batch.stop) - batch.start), []
            for i, x in enumerate(states(batch, [generator_of(seed, i) for i in batch])):
                if i == 0 or i * FRAMES // steps > (i - 1) * FRAMES // steps:
                    frames.append(x[:filmed].cpu())
                bar.update(i > 0)
            drawn.append((batch.start, x.cpu(), frames))
    _, images, frames = zip(*sorted(gather(drawn), key=itemgetter(0)), strict=True)
    return torch.cat(images), [torch.cat(parts) for parts in zip(*frames, strict=True)]


def save(images: Tensor, frames: list[Tensor], args: argparse.Namespace,
         columns: int | None = None) -> None:
    """Writes --out, and --animate if it is given, and says so; of several processes the first. The
    pictures have so many columns, or as many as rows."""
    if rank() > 0:
        return
    if args.out.suffix == ".npy":
        buffer = io.BytesIO()
        array = channels_last(images)
        np.save(buffer, array[..., 0] if array.shape[-1] == 1 else array)
        write(args.out, buffer.getvalue())
    else:
        write(args.out, png(grid(images, columns=columns)))
    print(f"{len(images)} images: {args.out}")
    if args.animate:
        write(args.animate, gif([grid(frame, width=360, columns=columns and min(columns, FILMED))
                                 for frame in frames]))
        print(f"their way from noise: {args.animate}")
