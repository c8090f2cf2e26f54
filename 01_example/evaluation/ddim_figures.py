r"""DDIM's figures 4, 5 and 6 on MNIST: seconds against S, consistency, interpolation.

    python 01_example/evaluation/ddim_figures.py

writes figure_4.png, figure_5.png and figure_6.png into 01_example/ddim/results/, with their numbers
in figures.json and figures.md.
"""
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from matplotlib.figure import Figure
from torch import Tensor

from data import to_uint8
from ddim import sample, slerp, subsequence
from ddpm import noise_like
from image_table import image_table
from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.drawing import generator_of
from machinery.weights import digest
from model import SHIPPED, Model
from results import Results

EXAMPLE = Path(__file__).resolve().parents[1]

STEPS = (10, 20, 50, 100, 1000)
SHOWN = 8                # images a row of figure 5
PAIRS, SHARES = 5, 11    # rows and columns of figure 6


def noise(model: Model, n: int, seed: int) -> Tensor:
    """x_T of the first n images of that seed."""
    empty = torch.empty(n, 1, model.config.size, model.config.size, device=model.device)
    return noise_like(empty, [generator_of(seed, i) for i in range(n)])


def decode(model: Model, x_T: Tensor, steps: int, eta: float = 0.0, seed: int = 0) -> Tensor:
    """x_0 (N, 1, H, W) from x_T in so many steps."""
    tau, generator = subsequence(model.T, steps), torch.Generator().manual_seed(seed)
    states = sample(model.eps_model, x_T, model.alpha_bar, tau, eta, generator, clip=True)
    return deque(states, maxlen=1).pop()


def consistency(model: Model, x_T: Tensor, steps: int, all_steps: Callable[[], Tensor]) -> dict:
    """How long the images take, and how far they are from those of the same x_T after all T steps,
    or with eta = 1 from a second run: the root of the mean square difference, of 0..255."""
    began = time.perf_counter()
    drawn = decode(model, x_T, steps).cpu()
    seconds = time.perf_counter() - began
    one, other = (decode(model, x_T, steps, 1.0, k).cpu() for k in (1, 2))
    return {"seconds": round(seconds, 2), "difference": difference(drawn, all_steps()),
            "eta_1_difference": difference(one, other)}


def difference(a: Tensor, b: Tensor) -> float:
    """The root of the mean square difference of images in [-1, 1], in grey levels of 0..255."""
    return round(127.5 * (a - b).square().mean().sqrt().item(), 2)


def report(results: Results, model: Model, seed: int) -> None:
    """The table and the three figures."""
    cells = [results.cells[f"S {S}"] for S in STEPS]
    results.text(["", *(f"S = {S}" for S in STEPS)], [
        ["seconds", *(cell["seconds"] for cell in cells)],
        ["difference from all steps, eta 0", *(cell["difference"] for cell in cells)],
        ["difference of two runs, eta 1", *(cell["eta_1_difference"] for cell in cells)]])
    figure = Figure(figsize=(5, 3), layout="constrained")
    ax = figure.subplots()
    seconds = [cell["seconds"] for cell in cells]
    ax.plot(STEPS, seconds, "o", color="#009E73", label="measured")
    ax.plot(STEPS, [seconds[-1] * S / STEPS[-1] for S in STEPS], "--", color="0.5",
            label="proportional to $S$")
    ax.set(xscale="log", yscale="log", xlabel="steps $S$",
           ylabel=f"seconds for {results.settings['n']} images")
    ax.legend()
    results.figure(figure, "figure_4")
    x_T = noise(model, SHOWN, seed)
    rows = [to_uint8(decode(model, x_T, S)) for S in STEPS]
    results.figure(image_table(
        rows, [f"$S$ = {S}" for S in STEPS], "the same $x_T$ in each column"),
                   "figure_5")
    ends = noise(model, 2 * PAIRS, seed + 1)
    arcs = torch.stack([slerp(ends[:PAIRS], ends[PAIRS:], k / (SHARES - 1))
                        for k in range(SHARES)], 1)                    # (PAIRS, SHARES, 1, H, W)
    rows = [to_uint8(decode(model, arc, 50)) for arc in arcs]
    results.figure(image_table(rows, [""] * PAIRS, "share of the arc, from 0 to 1"), "figure_6")


def main(argv: list[str] | None = None) -> None:
    """Draws all three. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="a model.safetensors")
    parser.add_argument("--n", type=count_flag, default=16,
                        help="images that are timed and compared")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddim/results/figures.json",
                        help="a .json; the table and the figures stand beside it")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    model = Model.load(args.weights, args.device)
    if model.T != STEPS[-1]:
        parser.error(f"--weights {args.weights}: the figures need a model with T = 1000")
    results = Results(args.out, {"weights": digest(args.weights), "n": args.n, "seed": args.seed},
                      parser)
    x_T = noise(model, args.n, args.seed)

    @cache
    def all_steps() -> Tensor:
        return decode(model, x_T, model.T).cpu()
    for S in STEPS:
        results.cell(f"S {S}", consistency, model, x_T, S, all_steps)
    report(results, model, args.seed)


if __name__ == "__main__":
    run(main)
