r"""Film ten digits on their way from noise: above x_t, below what the network takes it for.

    python 01_example/evaluation/film.py

asks the shipped model for each digit and writes 01_example/weights/digits.gif, in a minute on two
CPU cores.
"""
import sys
from functools import partial
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from torch import Tensor

from data import to_uint8
from ddim import sample, subsequence
from ddpm import predict_x_0
from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.drawing import generator_of
from machinery.files import prepare, write
from machinery.pictures import gif, grid
from model import WITH_CLASSES, Model

STEPS, EVERY = 200, 4       # hops of DDIM with eta = 1, and those of a frame


def frames(model: Model, labels: Tensor, seed: int) -> list[Tensor]:
    """Pictures of 2 N tiles, uint8 (2 N, C, H, W): the states x_t of N images with these labels
    (N,), then the predicted x_0 of each. At the end both are the digit."""
    generators = [generator_of(seed, i) for i in range(len(labels))]
    eps_model, seen = model.conditional(labels), []

    def watched(x_t: Tensor, t: Tensor) -> Tensor:
        eps = eps_model(x_t, t)
        seen.append(torch.cat([x_t, predict_x_0(x_t, t, eps, model.alpha_bar)]))
        return eps

    sampler = partial(sample, tau=subsequence(model.T, STEPS), eta=1.0, clip=True)
    *_, x_0 = model.states(sampler, watched, generators)
    return [to_uint8(x).cpu() for x in [*seen[::EVERY], torch.cat([x_0, x_0])]]


def main(argv: list[str] | None = None) -> None:
    """Draws and writes. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=WITH_CLASSES,
                        help="a model.safetensors of train.py that knows classes")
    parser.add_argument("--width", type=count_flag, default=800, help="of the film, in pixels")
    parser.add_argument("--out", type=Path, default=WITH_CLASSES.with_name("digits.gif"),
                        help="the file to write")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    prepare(args.out)
    model = Model.load(args.weights, args.device)
    classes = len(model.config.classes)
    if not classes:
        parser.error(f"--weights {args.weights}: this model knows no classes")
    tiles = frames(model, torch.arange(classes), args.seed)
    write(args.out, gif([grid(tile, width=args.width, columns=classes) for tile in tiles]))
    print(f"{len(tiles)} pictures: {args.out}")


if __name__ == "__main__":
    run(main)
