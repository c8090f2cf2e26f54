r"""DDIM's Table 1 on MNIST: the Frechet distance by steps S and noise eta, for both kinds of times.

    python 01_example/evaluation/ddim_table_1.py                           # CPU size
    python 01_example/evaluation/ddim_table_1.py --all --n 10000 --device cuda --out runs/t1.json

writes 01_example/ddim/results/table_1.json, .md and .png. Further rows leave out the clip of the
predicted x_0, and take DDPM's own sampler. --all adds the column S = 1000, which costs a CPU hours.
"""
import sys
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

from matplotlib.figure import Figure

from data import FOLDER
from ddim import ddim_step, sigma_hat_step
from judge import Judge, check_count
from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.weights import digest
from model import SHIPPED, Model
from results import Results
from samplers import draw_ddim, draw_ddpm

EXAMPLE = Path(__file__).resolve().parents[1]

STEPS = (10, 20, 50, 100)
ALL_STEPS = 1000
NOISE = {   # row: eta, the step
    "0": (0.0, ddim_step), "0.2": (0.2, ddim_step), "0.5": (0.5, ddim_step), "1": (1.0, ddim_step),
    "sigma-hat": (1.0, sigma_hat_step)}
PAPER = {   # FID on CIFAR10, by S
    "0": (13.36, 6.84, 4.67, 4.16, 4.04), "0.2": (14.04, 7.11, 4.77, 4.25, 4.09),
    "0.5": (16.66, 8.35, 5.25, 4.46, 4.29), "1": (41.07, 18.36, 8.01, 5.78, 4.73),
    "sigma-hat": (367.43, 133.37, 32.72, 9.99, 3.17)}
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")


def fill(results: Results, model: Model, judge: Judge, n: int, seed: int, steps: tuple) -> None:
    """Every cell: cheap columns first, so that an early interrupt loses least."""
    def by_ddim(**settings) -> dict:
        return judge.measure(draw_ddim(model, n, seed, **settings))

    def by_ddpm(**settings) -> dict:
        return judge.measure(draw_ddpm(model, n, seed, **settings))
    results.cell("real against real", judge.floor, n)
    for S in steps:
        for spacing in ("linear", "quadratic")[:1 if S == model.T else 2]:   # T: the same times
            for noise, (eta, step) in NOISE.items():
                results.cell(f"S {S}, eta {noise}, {spacing}", by_ddim, steps=S, eta=eta,
                             spacing=spacing, step=step)
    for eta in (0, 1):
        results.cell(f"S 50, eta {eta}, no clip", by_ddim, steps=50, eta=eta, clip=False)
    results.cell("DDPM", by_ddpm)
    if ALL_STEPS in steps:
        results.cell("DDPM, no clip", by_ddpm, clip=False)


def name(S: int, noise: str, spacing: str) -> str:
    """The name of a cell; all T times are the same, evenly spaced or not."""
    return f"S {S}, eta {noise}, {'linear' if S == ALL_STEPS else spacing}"


def number(cell: dict | None) -> str:
    """A distance with its standard error, or nothing for a cell that was not asked for."""
    return f"{cell['frechet']:.2f} +- {cell['standard_error']:.2f}" if cell else ""


def report(results: Results) -> None:
    """The table, ours above the paper's, and the figure."""
    cells, floor, rows = results.cells, results.cells["real against real"], []
    columns = (*STEPS, ALL_STEPS)
    for spacing in ("linear", "quadratic"):
        for noise in NOISE:
            rows.append([f"eta {noise}, {spacing}",
                         *(number(cells.get(name(S, noise, spacing))) for S in columns)])
    rows += [[f"eta {eta}, linear, x_0 not clipped", "", "",
              number(cells[f"S 50, eta {eta}, no clip"]), "", ""] for eta in (0, 1)]
    rows += [[kind, "", "", "", "", number(cells[kind])]
             for kind in ("DDPM", "DDPM, no clip") if kind in cells]
    rows.append(["real against real"] + len(columns) * [
        f"{floor['frechet']:.2f} +- {floor['standard_deviation']:.2f}"])
    rows += [[f"paper, CIFAR10, eta {noise}", *map(str, row)] for noise, row in PAPER.items()]
    results.text([f"n = {floor['n']}", *(f"S = {S}" for S in columns)], rows)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, spacing in zip(axes, ("linear", "quadratic"), strict=True):
        for noise, colour in zip(NOISE, COLOURS, strict=True):
            row = {S: cells[name(S, noise, spacing)] for S in columns
                   if name(S, noise, spacing) in cells}
            ax.errorbar(list(row), [cell["frechet"] for cell in row.values()],
                        [cell["standard_error"] for cell in row.values()], color=colour,
                        marker="o", ms=4, label=f"eta {noise}")
        ax.axhline(cells["DDPM"]["frechet"], color="black", ls=":", label="DDPM, 1000 steps")
        ax.axhline(floor["frechet"], color="0.5", ls="--", label="real against real")
        ax.set(xscale="log", yscale="log", xlabel="steps $S$", title=f"{spacing} times")
    axes[0].set_ylabel("Frechet distance")
    axes[1].legend(fontsize=8)
    results.figure(figure)


def main(argv: list[str] | None = None) -> None:
    """Fills the table. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="a model.safetensors")
    parser.add_argument("--n", type=count_flag, default=600, help="images of each cell")
    parser.add_argument("--all", action="store_true", help="fill the column S = 1000 too")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddim/results/table_1.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    check_count(args.n, parser)
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist" or model.T != ALL_STEPS:
        parser.error(f"--weights {args.weights}: the table needs a model of mnist with T = 1000")
    results = Results(args.out, {"weights": digest(args.weights), "n": args.n, "seed": args.seed},
                      parser)
    fill(results, model, Judge(args.device, args.data_dir), args.n, args.seed,
         (*STEPS, ALL_STEPS) if args.all else STEPS)
    report(results)


if __name__ == "__main__":
    run(main)
