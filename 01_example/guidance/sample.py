r"""Draw digits by guidance: a model that knows classes, asked for one as loudly as --scale says.

    python 01_example/guidance/sample.py --label 7 --scale 2

writes samples.png, 64 sevens, within seconds on two CPU cores; without flags eight of each digit.
A scale of 1 asks plainly, 0 not at all. Each step costs two evaluations of the network.
"""
import argparse
import math
import sys
from functools import partial
from pathlib import Path

# The samplers are in ddpm/ and ddim/: guidance only changes the eps_model that they are given.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import ddim
import ddpm
from guidance import classifier_free
from machinery.cli import count_flag, fraction_flag, run
from machinery.drawing import labels_asked, prepare_outputs, sampling_parser, save
from machinery.processes import group
from model import WITH_CLASSES, Model


def scale_flag(text: str) -> float:
    """A flag's value that is a finite number; below 0 it asks for anything else."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def main(argv: list[str] | None = None) -> None:
    """Draws --n images. Raises: OSError for a file that cannot be read or written."""
    parser = sampling_parser(__doc__, WITH_CLASSES)
    parser.set_defaults(label="all")
    parser.add_argument("--scale", type=scale_flag, default=2.0,
                        help="s: 0 does not ask, 1 asks plainly, more asks more loudly")
    parser.add_argument("--sampler", choices=("ddim", "ddpm"), default="ddim", help="which one")
    parser.add_argument("--steps", type=count_flag, default=50, help="S, of ddim (ddpm takes all)")
    parser.add_argument("--eta", type=fraction_flag, default=0.0,
                        help="of ddim: its share of noise")
    args = parser.parse_args(argv)
    prepare_outputs(args, parser)
    with group(args.device, parser):
        model = Model.load(args.weights, args.device)
        labels, n, columns = labels_asked(args, model.config.classes, parser)
        if args.sampler == "ddpm":
            steps, sampler = model.T, partial(ddpm.sample, clip=True)
        elif args.steps > model.T:
            parser.error(f"--steps {args.steps}: the model's chain has {model.T} steps")
        else:
            steps, tau = args.steps, ddim.subsequence(model.T, args.steps)
            sampler = partial(ddim.sample, tau=tau, eta=args.eta, clip=True)
        guided = partial(classifier_free, model.conditional, scale=args.scale,
                         unknown=len(model.config.classes))
        images, frames = model.draw(sampler, n=n, seed=args.seed, steps=steps, labels=labels,
                                    conditional=guided)
        save(images, frames, args, columns)


if __name__ == "__main__":
    run(main)
