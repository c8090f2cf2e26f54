r"""How good are a model's samples? Their Frechet distance to MNIST's test images, and more.

    python 01_example/evaluation/evaluate.py --sampler ddim --steps 50 --n 10000

draws the images, in about 7 minutes on two CPU cores, and prints the distance beside that of as
many real images, how the classes are shared out, and how sure the classifier is. K processes share
the drawing with torchrun --nproc-per-node K -- in place of python.
"""
import argparse
import json
import sys
import time
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from torch import Tensor

from data import FOLDER
from judge import Judge, check_count, summary
from machinery.cli import Parser, count_flag, fraction_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.files import prepare, write
from machinery.processes import group, local_first, rank
from machinery.weights import digest
from model import SHIPPED, Model
from samplers import draw_ddim, draw_ddpm


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED,
                        help="a model.safetensors of train.py")
    parser.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddim", help="which one")
    parser.add_argument("--steps", type=count_flag, default=50, help="S, of ddim (ddpm takes all)")
    parser.add_argument("--eta", type=fraction_flag, default=0.0,
                        help="of ddim: its share of noise")
    parser.add_argument("--spacing", choices=("linear", "quadratic"), default="linear",
                        help="of ddim's times")
    parser.add_argument("--n", type=count_flag, default=10_000, help="number of images")
    parser.add_argument("--train-on-samples", action="store_true",
                        help="also train a classifier on the samples alone, and test it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    check_count(args.n, parser)
    if args.json:
        prepare(args.json)
    return args, parser


def open_model(args: argparse.Namespace, parser: Parser) -> Model:
    """The model that the flags name, which must draw what MNIST has, in so many steps."""
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist":
        parser.error(f"--weights {args.weights} draws {model.config.dataset}: the classifier "
                     "knows mnist only")
    if args.steps > model.T:
        parser.error(f"--steps {args.steps}: the model's chain has {model.T} steps")
    return model


def draw(model: Model, args: argparse.Namespace) -> Tensor:
    """The images that the flags ask for."""
    if args.sampler == "ddpm":
        return draw_ddpm(model, args.n, args.seed)
    return draw_ddim(model, args.n, args.seed, args.steps, args.eta, args.spacing)


def show(result: dict) -> None:
    """The numbers as a few lines of text."""
    got, floor, real = result["samples"], result["floor"], result["test images"]
    print(f"{got['n']:,} images, {result['seconds']:.0f} s")
    print(f"Frechet distance    {got['frechet']:8.3f} +- {got['standard_error']:.3f}"
          f"   {got['frechet'] / floor['frechet']:.1f} times the floor")
    print(f"real against real   {floor['frechet']:8.3f} +- {floor['standard_deviation']:.3f}"
          f"   (the floor: {floor['n']:,} training images)")
    print(f"mean confidence     {got['confidence']:8.3f}   (test images {real['confidence']:.3f})")
    for name, row in (("samples", got), ("test images", real)):
        print(f"classes 0..9 in %, {name:11}", *(f"{100 * share:5.1f}" for share in row["classes"]))
    if "trained on samples" in result:
        print(f"a classifier trained on the samples alone names "
              f"{100 * result['trained on samples']:.2f}% of the test images rightly")


def main(argv: list[str] | None = None) -> None:
    """Draws, measures, prints. Raises: OSError for a file that cannot be read or written."""
    args, parser = parse(argv)
    with group(args.device, parser):
        model = open_model(args, parser)
        with local_first():                               # that downloads MNIST, if it must be
            judge = Judge(args.device, args.data_dir)
        began = time.perf_counter()
        images = draw(model, args)
        seconds = time.perf_counter() - began
        if rank() > 0:
            return
    settings = {"weights": digest(args.weights)} | {
        name: getattr(args, name) for name in ("sampler", "steps", "eta", "spacing", "seed")}
    result = {"settings": settings, "device": str(args.device), "torch": torch.__version__,
              "seconds": round(seconds, 1), "samples": judge.measure(images),
              "floor": judge.floor(args.n), "test images": summary(judge.probabilities)}
    if args.train_on_samples:
        result["trained on samples"] = round(judge.learn(images), 4)
    show(result)
    if args.json:
        write(args.json, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    run(main)
