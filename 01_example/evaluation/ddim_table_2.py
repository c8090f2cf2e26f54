r"""DDIM's Table 2 on MNIST: how well S steps to the code x_T and S steps back restore an image.

    python 01_example/evaluation/ddim_table_2.py                                   # CPU size
    python 01_example/evaluation/ddim_table_2.py --n 10000 --device cuda --out runs/table_2.json

encodes and decodes --n of MNIST's test images, and writes the mean square error per pixel, of
images in [0, 1], into 01_example/ddim/results/table_2.json, .md and .png.
"""
import math
import sys
from collections import deque
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from data import FOLDER, mnist, to_unit
from ddim import encode, sample, subsequence
from machinery.cli import Parser, count_flag, run
from machinery.devices import device_flag
from machinery.weights import digest
from model import SHIPPED, Model
from results import Results

EXAMPLE = Path(__file__).resolve().parents[1]

BATCH = 250      # images at once
PAPER = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}


def restore(model: Model, images: torch.Tensor, steps: int) -> dict:
    """The mean over uint8 images (N, 1, H, W) of the square error, with its standard error, and the
    mean square of the codes, which is 1 for N(0, I)."""
    tau, errors, squares = subsequence(model.T, steps), [], []
    bar = {"total": steps, "unit": "step", "leave": False, "disable": None}
    for part in images.split(BATCH):
        x_0 = to_unit(part).to(model.device)
        up = encode(model.eps_model, x_0, model.alpha_bar, tau)
        code = deque(tqdm(up, desc="encoding", **bar), maxlen=1).pop()
        down = sample(model.eps_model, code, model.alpha_bar, tau)
        back = deque(tqdm(down, desc="decoding", **bar), maxlen=1).pop()
        errors.append(((back - x_0) / 2).square().flatten(1).mean(1).cpu().double())
        squares.append(code.cpu().double().square().flatten(1).mean(1))
    errors, squares = torch.cat(errors), torch.cat(squares)
    return {"mean_square_error": round(errors.mean().item(), 7),
            "standard_error": round(errors.std().item() / math.sqrt(len(errors)), 7),
            "mean_square_of_codes": round(squares.mean().item(), 4)}


def report(results: Results) -> None:
    """The table and the figure."""
    cells = [results.cells[f"S {steps}"] for steps in PAPER]
    results.text(["S", *map(str, PAPER)], [
        ["MNIST", *(f"{cell['mean_square_error']:.5f}" for cell in cells)],
        ["its standard error", *(f"{cell['standard_error']:.5f}" for cell in cells)],
        ["mean square of x_T", *(f"{cell['mean_square_of_codes']:.3f}" for cell in cells)],
        ["paper, CIFAR10", *map(str, PAPER.values())]])
    figure = Figure(figsize=(5, 3), layout="constrained")
    ax = figure.subplots()
    ax.errorbar(list(PAPER), [cell["mean_square_error"] for cell in cells],
                [cell["standard_error"] for cell in cells], color="#009E73", marker="o",
                label="MNIST, this model")
    ax.plot(list(PAPER), list(PAPER.values()), "s--", color="0.5", label="CIFAR10, the paper")
    ax.set(xscale="log", yscale="log", xlabel="steps $S$ each way",
           ylabel="mean square error per pixel")
    ax.legend()
    results.figure(figure)


def main(argv: list[str] | None = None) -> None:
    """Fills the table. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="a model.safetensors")
    parser.add_argument("--n", type=count_flag, default=50, help="test images, at most 10,000")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddim/results/table_2.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    if not 2 <= args.n <= 10_000:
        parser.error(f"--n {args.n}: MNIST has 10,000 test images, and an error needs two")
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist" or model.T != 1000:
        parser.error(f"--weights {args.weights}: the table needs a model of mnist with T = 1000")
    results = Results(args.out, {"weights": digest(args.weights), "n": args.n}, parser)
    images = mnist(args.data_dir, train=False)[:args.n]
    for steps in PAPER:
        results.cell(f"S {steps}", restore, model, images, steps)
    report(results)


if __name__ == "__main__":
    run(main)
