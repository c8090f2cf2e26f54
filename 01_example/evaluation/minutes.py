r"""Is fast also good? Frechet distance against minutes of training, ours and another network's.

    pip install denoising-diffusion-pytorch
    python 01_example/evaluation/minutes.py

trains our U-Net, and then the Unet(dim=32, dim_mults=(1, 2, 4, 8)) of denoising-diffusion-pytorch
on images padded to the 32 x 32 that it needs, half an hour each on the same cores, by the same
steps: train.py's batches, loss and averaged weights, with Adam (recipes.py), in bfloat16 where the
device is fast at that, the learning rate annealed over the minutes. The other network's peak rate
is a quarter of ours, since of three rates it learned fastest with that one. Now and then the clock
stands still, and samples are drawn and judged. Writes 01_example/evaluation/results/minutes.json,
.md and .png. An interrupted run repeats the network that was not finished.
"""
import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make; contestants.py knows the other network.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from contestants import unet_of_most_tutorials
from data import FOLDER, mnist, to_unit
from judge import LEAST, Judge
from machinery.cli import Parser, count_flag, positive_flag, run, seed_flag
from machinery.devices import device_flag
from model import Config, Model
from recipes import AdamTraining
from results import Results
from samplers import draw_ddim

EXAMPLE = Path(__file__).resolve().parents[1]
LOOKS = (1 / 30, 1 / 15, 2 / 15, 4 / 15, 1 / 2, 1)  # shares of the time, after which it is judged
CONFIG = {"batch_size": 128, "lr": 2e-3, "timesteps": 1000, "schedule": "cosine", "predict": "v",
          "width": 64}


class Clocked(AdamTraining):
    """The training, annealed over seconds in place of steps."""

    margin = 0               # pixels around an image

    def __init__(self, config: Config, images: Tensor, device: torch.device, seconds: float):
        super().__init__(config, F.pad(images, [self.margin] * 4), device)
        self.seconds_in_all, self.spent = seconds, 0.0

    def progress(self) -> float:
        """The share of the time that is over."""
        return min(1.0, self.spent / self.seconds_in_all)

    def batches(self) -> Iterator[Tensor]:
        """The images in one new order after another."""
        while True:
            for batch in self.new_order().split(self.config.batch_size)[:self.steps]:
                yield to_unit(self.images[batch])

    def draw(self, n: int, steps: int) -> Tensor:
        """n samples, uint8 (n, 1, 28, 28), by DDIM with eta = 1 from the averaged weights."""
        drawn = draw_ddim(Model(self.ema, self.config), n, self.config.seed, steps, eta=1.0)
        return F.pad(drawn, [-self.margin] * 4)


class Other(Clocked):
    """The same training of the network that most tutorials train."""

    margin = 2

    def pace(self) -> float:
        """A quarter of ours: after three minutes the loss was 0.34, with our whole rate 0.52."""
        return super().pace() / 4

    def make_network(self) -> nn.Module:
        """The package's network."""
        return unet_of_most_tutorials()[0]


KINDS = {"ours": (Clocked, "#0072B2"), "denoising-diffusion-pytorch": (Other, "#E69F00")}


def curve(training: Clocked, judged: Callable[[], dict]) -> list[dict]:
    """Trains until the time is over; at each of LOOKS the minutes and images so far, and what
    `judged` returns. Raises: FloatingPointError for a loss that is not finite."""
    rows, batches = [], training.batches()
    with tqdm(total=round(training.seconds_in_all), unit="s", leave=False,
              disable=None) as bar:
        while len(rows) < len(LOOKS):
            began = time.perf_counter()
            training.add_losses([training.update(next(batches))
                                 for _ in range(training.read_every)])
            training.spent += time.perf_counter() - began
            bar.update(min(bar.total, round(training.spent)) - bar.n)
            if training.progress() >= LOOKS[len(rows)]:
                rows.append({"minutes": round(training.spent / 60, 2),
                             "images": training.step * training.config.batch_size} | judged())
    return rows


def train_and_judge(kind: str, args: argparse.Namespace, images: Tensor, judge: Judge) -> dict:
    """The distances of one network, look by look."""
    make, _ = KINDS[kind]
    config = Config(**CONFIG, seed=args.seed, size=images.shape[-1] + 2 * make.margin, epochs=1)
    training = make(config, images, args.device, 60 * args.minutes)
    return {"looks": curve(training, lambda: judge.measure(training.draw(args.n, args.steps)))}


def report(results: Results, floor: dict) -> None:
    """The table and the figure."""
    rows, figure = [], Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    for kind, (_, colour) in KINDS.items():
        looks = results.cells[kind]["looks"]
        rows += [[kind, f"{look['minutes']:.1f}", f"{look['images']:,}",
                  f"{look['frechet']:.2f} +- {look['standard_error']:.2f}",
                  f"{look['confidence']:.3f}"] for look in looks]
        ax.errorbar(*([look[name] for look in looks] for name in ("minutes", "frechet")),
                    yerr=[look["standard_error"] for look in looks], marker="o", color=colour,
                    label=kind)
    results.text(["network", "minutes", "images", "Frechet distance", "mean confidence"], rows)
    ax.axhline(floor["frechet"], color="0.5", ls="--", label="real against real")
    ax.set(xscale="log", yscale="log", xlabel="minutes of training", ylabel="Frechet distance")
    ax.minorticks_off()
    minutes = [look["minutes"] for look in looks]
    ax.set_xticks(minutes, [f"{m:.2g}" for m in minutes])
    ax.legend()
    results.figure(figure)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags."""
    parser = Parser(__doc__)
    parser.add_argument("--minutes", type=positive_flag, default=30.0, help="of training, for each")
    parser.add_argument("--n", type=count_flag, default=500, help="samples at each look")
    parser.add_argument("--steps", type=count_flag, default=20, help="S, of DDIM with eta = 1")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "evaluation/results/minutes.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of weights, batches and noise")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    if args.n < LEAST:
        parser.error(f"--n {args.n}: take {LEAST} or more, for a covariance of 96 features")
    if args.steps > CONFIG["timesteps"]:
        parser.error(f"--steps {args.steps}: the chain has {CONFIG['timesteps']} steps")
    if not importlib.util.find_spec("denoising_diffusion_pytorch"):
        parser.error("the other network is missing: pip install denoising-diffusion-pytorch")
    return args, parser


def main(argv: list[str] | None = None) -> None:
    """Trains, judges, draws. Raises: OSError for a file that cannot be read or written,
    FloatingPointError for a loss that is not finite."""
    args, parser = parse(argv)
    settings = CONFIG | {"minutes": args.minutes, "n": args.n, "steps": args.steps, "eta": 1.0,
                         "seed": args.seed, "device": str(args.device),
                         "threads": torch.get_num_threads()}
    results = Results(args.out, settings, parser)
    judge, images = Judge(args.device, args.data_dir), mnist(args.data_dir)
    floor = results.cell("real against real", judge.floor, args.n)
    for kind in KINDS:
        results.cell(kind, train_and_judge, kind, args, images, judge)
    report(results, floor)


if __name__ == "__main__":
    run(main)
