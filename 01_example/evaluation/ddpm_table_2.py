r"""DDPM's Table 2 on MNIST: what to predict, under which objective and schedule, at equal cost.

    python 01_example/evaluation/ddpm_table_2.py                                # CPU size
    python 01_example/evaluation/ddpm_table_2.py --epochs 40 --width 64 --n 10000 \
        --steps 1000 --device cuda --out runs/table_2.json                      # one GPU

trains small networks from nothing, three seeds of each kind, and writes the Frechet distance of
their samples, from the averaged weights (EMA) and from the last ones, into
01_example/ddpm/results/table_2.json, .md and .png. All arithmetic is in float32: a network that
predicts the mean mu_tilde repeats x_t but for its last digits, which bfloat16 does not have.
"""
import statistics
import sys
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from matplotlib.figure import Figure

from data import FOLDER, mnist
from judge import LEAST, Judge
from machinery.cli import Parser, count_flag, run, width_flag
from machinery.devices import device_flag
from model import Config, Model
from recipes import AdamTraining
from results import Results
from samplers import draw_ddim

EXAMPLE = Path(__file__).resolve().parents[1]

KINDS = {   # row: what the network predicts and by which loss, schedule, the paper's FID on CIFAR10
    "mu, L": ("mu-vlb", "linear", "13.22"),
    "mu, plain mean square": ("mu", "linear", "unstable"),
    "eps, L": ("eps-vlb", "linear", "13.51"),
    "eps, L_simple": ("eps", "linear", "3.17"),
    "eps, L_simple, cosine": ("eps", "cosine", ""),
    "v, cosine (the course's)": ("v", "cosine", ""),
}
SEEDS = (0, 1, 2)
BATCH_SIZE, LEARNING_RATE, TIMESTEPS = 128, 2e-3, 1000


def parse(argv: list[str] | None):
    """The flags."""
    parser = Parser(__doc__)
    parser.add_argument("--epochs", type=count_flag, default=2, help="passes over MNIST, of each")
    parser.add_argument("--width", type=width_flag, default=16, help="channels of each U-Net")
    parser.add_argument("--n", type=count_flag, default=500, help="samples of each")
    parser.add_argument("--steps", type=count_flag, default=50,
                        help="of the sampler: DDIM's with eta = 1, which with 1000 is DDPM's")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddpm/results/table_2.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    if args.n < LEAST:
        parser.error(f"--n {args.n}: take {LEAST} or more, for a covariance of 96 features")
    return args, parser


def train_and_measure(kind: str, seed: int, args, images, judge: Judge) -> dict:
    """The Frechet distance, and its standard error, of samples from both kinds of weights."""
    predict, schedule, _ = KINDS[kind]
    config = Config(epochs=args.epochs, batch_size=BATCH_SIZE, lr=LEARNING_RATE,
                    timesteps=TIMESTEPS, schedule=schedule, predict=predict, width=args.width,
                    seed=seed)
    training = AdamTraining(config, images, args.device)
    training.model = training.network                   # not bfloat16
    for _ in range(args.epochs):
        training.epoch()
    measured = {"loss": training.log[-1]["loss"]}
    for name, network in (("averaged", training.ema), ("last", training.network)):
        model = Model(network, config, precise=True)
        samples = judge.measure(draw_ddim(model, args.n, seed, args.steps, eta=1.0))
        measured[name] = samples["frechet"]
        measured[f"{name}, standard error"] = samples["standard_error"]
    return measured


def report(results: Results, floor: dict) -> None:
    """The table, and the figure: a dot a seed."""
    rows, figure = [], Figure(figsize=(7, 3.2), layout="constrained")
    ax = figure.subplots()
    for row, (kind, (_, schedule, paper)) in enumerate(KINDS.items()):
        cells = [results.cells[f"{kind}, seed {seed}"] for seed in SEEDS]
        spread = []
        for name, colour, marker in (("averaged", "#0072B2", "o"), ("last", "#D55E00", "x")):
            distances = [cell[name] for cell in cells]
            spread.append(f"{statistics.mean(distances):.1f} +- {statistics.stdev(distances):.1f}")
            ax.plot(distances, [row] * len(SEEDS), marker, color=colour,
                    label=f"{name} weights" if row == 0 else None)
        rows.append([kind, schedule, *spread, paper])
    results.text(["predicts, objective", "schedule", "Frechet distance, averaged weights",
                  "last weights", "paper's FID, CIFAR10"], rows)
    ax.axvline(floor["frechet"], color="0.5", ls="--", label="real against real")
    ax.set(xscale="log", xlabel="Frechet distance (each dot is one training)",
           yticks=range(len(KINDS)), yticklabels=KINDS)
    ax.invert_yaxis()
    ax.legend()
    results.figure(figure)


def main(argv: list[str] | None = None) -> None:
    """Fills the table. Raises: OSError for a file that cannot be read or written."""
    args, parser = parse(argv)
    settings = {"epochs": args.epochs, "width": args.width, "n": args.n, "steps": args.steps,
                "seeds": list(SEEDS), "batch_size": BATCH_SIZE, "lr": LEARNING_RATE, "eta": 1.0}
    results = Results(args.out, settings, parser)
    torch.backends.cudnn.allow_tf32 = False             # float32 means float32, on a GPU, too
    judge, images = Judge(args.device, args.data_dir), mnist(args.data_dir)
    floor = results.cell("real against real", judge.floor, args.n)
    for seed in SEEDS:
        for kind in KINDS:
            results.cell(f"{kind}, seed {seed}", train_and_measure, kind, seed, args, images,
                         judge)
    report(results, floor)


if __name__ == "__main__":
    run(main)
