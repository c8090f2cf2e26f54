r"""Are the samples copies? Each beside the training digit nearest to it, and how good they are.

    python 01_example/evaluation/nearest.py

draws 1000 digits from the shipped model in 50 steps with DDPM's noise (DDIM with eta = 1), in about
4 minutes on one CPU core, and writes into 01_example/evaluation/results/ what notebook 08 shows:
nearest.json, the distances to the nearest training digit of samples and of test digits, Frechet
distance, classes and confidence; and nearest.png, the first samples above their nearest digits.
"""
import argparse
import json
import sys
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from torch import Tensor

from classifier import classify
from data import FOLDER, mnist, to_unit
from evaluate import open_model
from judge import LEAST, Judge, summary
from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.files import prepare, write
from machinery.pictures import grid, png
from machinery.weights import digest
from model import SHIPPED
from samplers import draw_ddim

RESULTS = Path(__file__).resolve().parent / "results"
SHOWN = 8                # samples in the picture, the first ones
CHUNK = 250              # images that are compared with the whole training set at once


def nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the uint8 images (N, ...) the least distance to one of the others (M, ...), and
    the number of that one; both (N,).

    A distance is the root of the mean square difference of pixels in [-1, 1]: 0 for a copy.
    """
    a, b = to_unit(images).flatten(1), to_unit(others).flatten(1)
    lengths = b.square().sum(1)
    which = torch.cat([(lengths - 2 * part @ b.T).argmin(1) for part in a.split(CHUNK)])
    return (a - b[which]).square().mean(1).sqrt(), which


def distances(samples: Tensor, real: Tensor) -> dict:
    """Facts about distances to the nearest training digit: of samples, and of test digits, which no
    network has seen; `nearer` is the share that lies nearer than all but 1% of the test digits."""
    limit = real.quantile(0.01)
    return {name: {"n": len(d), "median": round(d.median().item(), 4),
                   "least": round(d.min().item(), 4),
                   "nearer": round((d < limit).double().mean().item(), 4)}
            for name, d in (("samples", samples), ("test images", real))}


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED,
                        help="a model.safetensors of train.py")
    parser.add_argument("--n", type=count_flag, default=1000, help="number of samples")
    parser.add_argument("--steps", type=count_flag, default=50, help="S, of the sampler")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    if not LEAST <= args.n <= 10_000:
        parser.error(f"--n {args.n}: take {LEAST} to 10,000, the number of test images")
    prepare(args.out / "nearest.json")
    return args, parser


def main(argv: list[str] | None = None) -> None:
    """Draws, compares, writes. Raises: OSError for a file that cannot be read or written."""
    args, parser = parse(argv)
    model = open_model(args, parser)
    judge, training = Judge(args.device, args.data_dir), mnist(args.data_dir)
    images = draw_ddim(model, args.n, args.seed, args.steps, eta=1.0)
    d, which = nearest(images, training)
    confidence, named = classify(judge.network, images[:SHOWN])[1].max(1)
    result = {
        "settings": {"weights": digest(args.weights), "steps": args.steps, "eta": 1.0,
                     "seed": args.seed},
        "torch": torch.__version__,
        "samples": judge.measure(images), "floor": judge.floor(args.n),
        "test images": summary(judge.probabilities),
        "distance": distances(d, nearest(judge.test[:args.n], training)[0]),
        "shown": [{"distance": round(d[i].item(), 4), "training image": which[i].item(),
                   "class": named[i].item(), "confidence": round(confidence[i].item(), 4)}
                  for i in range(SHOWN)]}
    pairs = torch.cat([images[:SHOWN], training[which[:SHOWN]]])
    write(args.out / "nearest.png", png(grid(pairs, width=960, columns=SHOWN)))
    write(args.out / "nearest.json", (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps({name: result[name] for name in ("samples", "floor", "distance")}, indent=1))


if __name__ == "__main__":
    run(main)
