r"""Draw digits with DDIM: a trained DDPM, sampled in few steps, without fresh noise by default.
--solver dpm takes DPM-Solver++(2M) instead, of second order, for 10 to 20 steps.

    python 01_example/ddim/sample.py

writes samples.png, 64 digits of the model that is shipped, within seconds on two CPU cores.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

# DDIM is another sampler of the network that DDPM trains: everything but the sampler is in ddpm/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import dpm_solver
from ddim import sample, subsequence
from machinery.cli import count_flag, fraction_flag, run
from machinery.drawing import labels_asked, prepare_outputs, sampling_parser, save
from machinery.processes import group
from model import SHIPPED, Model


def main(argv: list[str] | None = None) -> None:
    """Draws --n images. Raises: OSError for a file that cannot be read or written."""
    parser = sampling_parser(__doc__, SHIPPED)
    parser.add_argument("--steps", type=count_flag, default=50,
                        help="S, the times visited, at most T")
    parser.add_argument("--eta", type=fraction_flag, default=0.0,
                        help="the share of DDPM's noise: 0 is DDIM, 1 adds as much as DDPM")
    parser.add_argument("--solver", choices=("ddim", "dpm"), default="ddim",
                        help="ddim is of first order, dpm of second, and adds no noise")
    parser.add_argument("--spacing", choices=("linear", "quadratic", "lambda"),
                        default=argparse.SUPPRESS,
                        help="of the times: even, denser where the image is nearly clean, or even "
                        "in lambda (default: linear for ddim, lambda for dpm)")
    args = parser.parse_args(argv)
    if args.solver == "dpm" and args.eta:
        parser.error(f"--eta {args.eta}: the solver dpm adds no noise")
    prepare_outputs(args, parser)
    with group(args.device, parser):
        model = Model.load(args.weights, args.device)
        if args.steps > model.T:
            parser.error(f"--steps {args.steps}: the model's chain has {model.T} steps")
        spacing = vars(args).get("spacing", "lambda" if args.solver == "dpm" else "linear")
        tau = (dpm_solver.even_in_lambda(args.steps, model.alpha_bar) if spacing == "lambda"
               else subsequence(model.T, args.steps, spacing))
        sampler = (partial(dpm_solver.sample, tau=tau, clip=True) if args.solver == "dpm"
                   else partial(sample, tau=tau, eta=args.eta, clip=True))
        labels, n, columns = labels_asked(args, model.config.classes, parser)
        images, frames = model.draw(sampler, n=n, seed=args.seed, steps=args.steps, labels=labels)
        save(images, frames, args, columns)


if __name__ == "__main__":
    run(main)
