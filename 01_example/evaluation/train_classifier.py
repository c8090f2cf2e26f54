r"""Train the digit classifier that judges samples, on MNIST's 60,000 training images.

    python 01_example/evaluation/train_classifier.py

writes runs/classifier.safetensors and prints the accuracy on MNIST's test images.
"""
import sys
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

from classifier import accuracy, fit, save_classifier
from data import FOLDER, mnist_with_labels
from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.files import prepare


def main(argv: list[str] | None = None) -> None:
    """Trains, measures, writes. Raises: OSError for MNIST or for the file."""
    parser = Parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--out", type=Path, default=Path("runs/classifier.safetensors"),
                        help="the file to write")
    parser.add_argument("--epochs", type=count_flag, default=6, help="passes over the data")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of weights, order and shifts")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    prepare(args.out)
    network = fit(*mnist_with_labels(args.data_dir), args.epochs, args.seed, args.device)
    reached = accuracy(network, *mnist_with_labels(args.data_dir, train=False))
    save_classifier(args.out, network, {"epochs": args.epochs, "seed": args.seed,
                                        "test_accuracy": reached})
    print(f"{100 * reached:.2f}% of MNIST's test images are named rightly: {args.out}")


if __name__ == "__main__":
    run(main)
