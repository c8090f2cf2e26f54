r"""Draw digits with DDPM's Algorithm 2: all T steps of the chain, fresh noise in each.

    python 01_example/ddpm/sample.py

writes samples.png, 64 digits of the model that is shipped, in about a minute on two CPU cores.
(01_example/ddim/sample.py draws them in 50 steps instead of 1000.)
"""
from functools import partial

from checkpoint import load_model
from cli import run
from ddpm import EPS_MODELS, sample
from device import fast
from draw import generate, prepare_outputs, sampling_parser, save
from parallel import group


def main(argv: list[str] | None = None) -> None:
    """Draws --n images. Raises: OSError for a file that cannot be read or written."""
    parser = sampling_parser(__doc__)
    args = parser.parse_args(argv)
    prepare_outputs(args, parser)
    with group(args.device, parser):
        network, alpha_bar, config = load_model(args.weights, args.device)
        eps_model = EPS_MODELS[config["predict"]](fast(network), alpha_bar)
        sampler, steps = partial(sample, clip=True), len(alpha_bar) - 1
        save(*generate(sampler, steps, eps_model, alpha_bar, args.n, config["size"], args.seed,
                       args.device), args)


if __name__ == "__main__":
    run(main)
