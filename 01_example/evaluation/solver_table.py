r"""Fewer calls: DDIM and DPM-Solver++(2M) against the calls that they take, in two distances.

    python 01_example/evaluation/solver_table.py                        # CPU size, half an hour
    python 01_example/evaluation/solver_table.py --n 10000 --device cuda --out runs/solvers.json

writes 01_example/ddim/results/solvers.json, .md and .png. The first distance is that of the samples
to MNIST (Frechet). The second is what a solver promises: how far an image is from the converged
one, of 200 calls from the same x_T, as a root mean square of pixels in [0, 1], averaged over the
first --pairs images. Both solvers visit even times, and times even in lambda.
"""
import sys
from functools import partial
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

from matplotlib.figure import Figure
from torch import Tensor

import ddim
import dpm_solver
from data import FOLDER
from judge import Judge, check_count
from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.weights import digest
from model import SHIPPED, Model
from results import Results

EXAMPLE = Path(__file__).resolve().parents[1]

STEPS = (5, 10, 20, 50)
CONVERGED = 200
SOLVERS = {     # row: the sampler, its times
    "DDIM, even times": (ddim.sample, ddim.subsequence),
    "DDIM, even in lambda": (ddim.sample, dpm_solver.even_in_lambda),
    "DPM-Solver++(2M), even times": (dpm_solver.sample, ddim.subsequence),
    "DPM-Solver++(2M), even in lambda": (dpm_solver.sample, dpm_solver.even_in_lambda)}
COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00")


def draw(model: Model, solver: str, S: int, n: int, seed: int) -> Tensor:
    """n images, uint8 (n, 1, H, W), in S calls, of the x_T that a seed means."""
    sampler, times = SOLVERS[solver]
    tau = times(model.T, S) if times is ddim.subsequence else times(S, model.alpha_bar)
    return model.draw(partial(sampler, tau=tau, clip=True), n=n, seed=seed, steps=S)[0]


def off(images: Tensor, converged: Tensor) -> dict:
    """The mean over images of their distance to the converged ones, and its standard error."""
    difference = (images.float() - converged.float()) / 255
    distances = difference.square().mean((1, 2, 3)).sqrt()
    return {"off": distances.mean().item(),
            "off_error": (distances.std() / len(distances) ** 0.5).item()}


def fill(results: Results, model: Model, judge: Judge, n: int, seed: int, pairs: int) -> None:
    """Every cell: both distances of the same n images."""
    converged = None

    def measure(solver: str, S: int) -> dict:
        nonlocal converged
        if converged is None:       # only if a cell is missing; the second order is nearest
            converged = draw(model, "DPM-Solver++(2M), even times", CONVERGED, pairs, seed)
        images = draw(model, solver, S, n, seed)
        return judge.measure(images) | off(images[:pairs], converged)
    results.cell("real against real", judge.floor, n)
    for S in STEPS:
        for solver in SOLVERS:
            results.cell(f"S {S}, {solver}", measure, solver, S)


def report(results: Results) -> None:
    """The table, with both distances in a cell, and the figure."""
    cells, floor, rows = results.cells, results.cells["real against real"], []
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for solver, colour in zip(SOLVERS, COLOURS, strict=True):
        row = [cells[f"S {S}, {solver}"] for S in STEPS]
        rows.append([solver, *(f"{c['frechet']:.2f} +- {c['standard_error']:.2f}; "
                               f"{c['off']:.3f} +- {c['off_error']:.3f}" for c in row)])
        for ax, value, error in zip(axes, ("frechet", "off"), ("standard_error", "off_error"),
                                    strict=True):
            ax.errorbar(STEPS, [c[value] for c in row], [c[error] for c in row], color=colour,
                        marker="o", ms=4, label=solver)
    rows.append(["real against real"] + len(STEPS) * [
        f"{floor['frechet']:.2f} +- {floor['standard_deviation']:.2f}"])
    results.text([f"Frechet distance, n = {floor['n']}; distance to {CONVERGED} calls, "
                  f"n = {results.settings['pairs']}", *(f"S = {S}" for S in STEPS)], rows)
    axes[0].axhline(floor["frechet"], color="0.5", ls="--", label="real against real")
    for ax, name in zip(axes, ("Frechet distance", "distance to the converged image"),
                        strict=True):
        ax.set(xscale="log", yscale="log", xlabel="calls $S$", ylabel=name)
    axes[0].legend(fontsize=8)
    results.figure(figure)


def main(argv: list[str] | None = None) -> None:
    """Fills the table. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="a model.safetensors")
    parser.add_argument("--n", type=count_flag, default=600, help="images of each cell")
    parser.add_argument("--pairs", type=count_flag, default=64,
                        help="of them are compared with converged ones")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddim/results/solvers.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    check_count(args.n, parser)
    if not 2 <= args.pairs <= args.n:
        parser.error(f"--pairs {args.pairs}: take from 2 to --n {args.n}")
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist" or model.T < CONVERGED:
        parser.error(f"--weights {args.weights}: the table needs a model of mnist with T of at "
                     f"least {CONVERGED}")
    settings = {"weights": digest(args.weights), "n": args.n, "pairs": args.pairs,
                "seed": args.seed}
    results = Results(args.out, settings, parser)
    fill(results, model, Judge(args.device, args.data_dir), args.n, args.seed, args.pairs)
    report(results)


if __name__ == "__main__":
    run(main)
