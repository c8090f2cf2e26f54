r"""Draw digits with DDPM's Algorithm 2: all T steps of the chain, fresh noise in each.

    python 01_example/ddpm/sample.py

writes samples.png, 64 digits of the model that is shipped, in about a minute on two CPU cores.
(01_example/ddim/sample.py draws them in 50 steps instead of 1000.)
"""
from functools import partial

from ddpm import sample
from machinery.cli import run
from machinery.drawing import labels_asked, prepare_outputs, sampling_parser, save
from machinery.processes import group
from model import SHIPPED, Model


def main(argv: list[str] | None = None) -> None:
    """Draws --n images. Raises: OSError for a file that cannot be read or written."""
    parser = sampling_parser(__doc__, SHIPPED)
    args = parser.parse_args(argv)
    prepare_outputs(args, parser)
    with group(args.device, parser):
        model = Model.load(args.weights, args.device)
        labels, n, columns = labels_asked(args, model.config.classes, parser)
        images, frames = model.draw(partial(sample, clip=True), n=n, seed=args.seed,
                                    steps=model.T, labels=labels)
        save(images, frames, args, columns)


if __name__ == "__main__":
    run(main)
