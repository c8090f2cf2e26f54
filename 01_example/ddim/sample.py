r"""Draw digits with DDIM: a trained DDPM, sampled in few steps, without fresh noise by default.

    python 01_example/ddim/sample.py

writes samples.png, 64 digits of the model that is shipped, within seconds on two CPU cores.
"""
import sys
from pathlib import Path

# DDIM is another sampler of the network that DDPM trains: everything but the sampler is in ddpm/.
sys.path.append(str(Path(__file__).resolve().parents[1] / "ddpm"))

from checkpoint import load_model  # noqa: E402
from cli import count, fraction, run  # noqa: E402
from ddim import sample, subsequence  # noqa: E402
from ddpm import EPS_MODELS  # noqa: E402
from device import fast  # noqa: E402
from draw import generate, prepare_outputs, sampling_parser, save  # noqa: E402
from parallel import group  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Draws --n images. Raises: OSError for a file that cannot be read or written."""
    parser = sampling_parser(__doc__)
    parser.add_argument("--steps", type=count, default=50, help="S, the times visited, at most T")
    parser.add_argument("--eta", type=fraction, default=0.0,
                        help="the share of DDPM's noise: 0 is DDIM, 1 adds as much as DDPM")
    parser.add_argument("--spacing", choices=("linear", "quadratic"), default="linear",
                        help="of the times: even, or denser where the image is nearly clean")
    args = parser.parse_args(argv)
    prepare_outputs(args, parser)
    with group(args.device, parser):
        network, alpha_bar, config = load_model(args.weights, args.device)
        eps_model = EPS_MODELS[config["predict"]](fast(network), alpha_bar)
        if args.steps > config["timesteps"]:
            parser.error(f"--steps {args.steps}: the model's chain has {config['timesteps']} steps")
        tau = subsequence(config["timesteps"], args.steps, args.spacing)

        def sampler(eps_model, alpha_bar, x_T, generators):
            return sample(eps_model, alpha_bar, x_T, tau, args.eta, generators, clip=True)

        save(*generate(sampler, args.steps, eps_model, alpha_bar, args.n, config["size"], args.seed,
                       args.device), args)


if __name__ == "__main__":
    run(main)
