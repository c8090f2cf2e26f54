r"""DDPM's likelihood (Table 1), rate and distortion (Table 4) on MNIST's test images.

    python 01_example/evaluation/ddpm_table_4.py                                    # CPU size
    python 01_example/evaluation/ddpm_table_4.py --n 10000 --device cuda --out runs/table_4.json

asks the model at every time t for the noise in --n test images, and writes the bits that each step
of the bound costs, and what a receiver can draw after each, into 01_example/ddpm/results/
table_4.json, .md.
"""
import math
import sys
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from data import FOLDER, mnist, to_unit
from ddpm import noise_like
from likelihood import prior_bits, terms
from machinery.cli import Parser, count_flag, run
from machinery.devices import device_flag
from machinery.weights import digest
from model import SHIPPED, Model
from results import Results

EXAMPLE = Path(__file__).resolve().parents[1]

BATCH = 250      # images of a cell
PAPER = {   # reverse steps: rate in bits/dim, RMSE of 0..255 (CIFAR10)
    1000: (1.77581, 0.95136), 900: (0.11994, 12.02277), 800: (0.05415, 18.47482),
    700: (0.02866, 24.43656), 600: (0.01507, 30.80948), 500: (0.00716, 38.03236),
    400: (0.00282, 46.12765), 300: (0.00081, 54.18826), 200: (0.00013, 60.97170),
    100: (0.0, 67.60125)}


def all_terms(model: Model, images: torch.Tensor, seed: int) -> dict:
    """Sums over the images of each L_{t-1} and square error, t = 1..T, and each image's bits."""
    x_0 = to_unit(images).to(model.device)
    generator = torch.Generator().manual_seed(seed)
    costs, errors = [], []
    for t in tqdm(range(1, model.T + 1), unit="time", desc="bits", leave=False,
                  disable=None):
        cost, error = terms(model.eps_model, x_0, model.alpha_bar, t, noise_like(x_0, generator))
        costs.append(cost.cpu())
        errors.append(error.sum().item())
    costs, prior = torch.stack(costs), prior_bits(x_0, model.alpha_bar).cpu()   # (T, N), (N,)
    return {"step_bits": [round(c, 7) for c in costs.sum(1).tolist()],
            "square_errors": [round(e, 5) for e in errors],
            "prior_bits": round(prior.sum().item(), 9),
            "bits_of_each_image": [round(b, 5) for b in (costs.sum(0) + prior).tolist()],
            "rate_of_each_image": [round(b, 5) for b in (costs[1:].sum(0) + prior).tolist()]}


def mean_and_error(values: list[float]) -> str:
    """Mean and standard error of the mean, as text."""
    values = torch.tensor(values, dtype=torch.float64)
    return f"{values.mean():.3f} +- {values.std() / math.sqrt(len(values)):.3f}"


def report(results: Results, T: int) -> None:
    """The tables, and the figure: rate and distortion, and where the bits go."""
    cells = list(results.cells.values())
    n = sum(len(cell["bits_of_each_image"]) for cell in cells)
    cost = torch.tensor([cell["step_bits"] for cell in cells]).double().sum(0) / n      # L_{t-1}
    rmse = 127.5 * (torch.tensor([cell["square_errors"] for cell in cells]).sum(0) / n).sqrt()
    prior = sum(cell["prior_bits"] for cell in cells) / n
    rate = prior + cost.sum() - cost.cumsum(0)      # rate[t - 1]: all terms that make x_t known
    total, rates = ([b for cell in cells for b in cell[name]]
                    for name in ("bits_of_each_image", "rate_of_each_image"))
    distortion = [b - r for b, r in zip(total, rates, strict=True)]
    rows = [[f"{steps}", f"{rate[T - steps]:.5f}", f"{rmse[T - steps]:.2f}",
             *(f"{number:.5g}" for number in PAPER.get(steps, ()))]
            for steps in range(T, 0, -T // 10)]
    rows += [["**in all, bits/dim**", mean_and_error(total), "", "at most 3.75", ""],
             ["rate L_1 + ... + L_T", mean_and_error(rates), "", "1.78", ""],
             ["distortion L_0", mean_and_error(distortion), "", "1.97", ""],
             ["of it, prior L_T", f"{prior:.1e}", "", "about 1e-5", ""]]
    results.text(["reverse steps T - t + 1", "rate, bits/dim", "RMSE of 0..255",
                  "paper's rate, CIFAR10", "paper's RMSE"], rows)
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes, times = figure.subplots(1, 3), range(1, T + 1)
    steps = [T - t + 1 for t in times]
    axes[0].plot(steps, rmse, color="#D55E00")
    axes[0].set(xlabel="reverse steps $T - t + 1$", ylabel="RMSE of $\\hat{x}_0$, of 0..255")
    axes[1].plot(rate, rmse, color="#D55E00")
    axes[1].set(xlabel="rate, bits/dim", ylabel="RMSE of $\\hat{x}_0$, of 0..255")
    share = 100 * cost / cost.sum()
    axes[2].semilogy(times, share, color="#D55E00")
    axes[2].set(xlabel="$t$", ylabel="share of the bits in $L_{t-1}$, %")
    results.figure(figure)


def main(argv: list[str] | None = None) -> None:
    """Fills the table. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="a model.safetensors")
    parser.add_argument("--n", type=count_flag, default=250, help="test images, at most 10,000")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddpm/results/table_4.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist":
        parser.error(f"--weights {args.weights} knows {model.config.dataset}, not mnist")
    if not 2 <= args.n <= 10_000:
        parser.error(f"--n {args.n}: MNIST has 10,000 test images, and an error needs two")
    if model.T % 10:
        parser.error(f"--weights {args.weights}: the table needs a T that 10 divides")
    results = Results(args.out, {"weights": digest(args.weights), "n": args.n}, parser)
    images = mnist(args.data_dir, train=False)[:args.n]
    for k, part in enumerate(images.split(BATCH)):
        results.cell(f"images {k * BATCH} to {k * BATCH + len(part) - 1}",
                     all_terms, model, part, k)
    report(results, model.T)


if __name__ == "__main__":
    run(main)
