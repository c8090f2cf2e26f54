r"""What asking more loudly gains and costs: distance, sureness, variety and recall by scale.

    python 01_example/evaluation/guidance_table.py                       # an hour on a CPU core
    python 01_example/evaluation/guidance_table.py --n 10000 --device cuda --out runs/guidance.json

writes 01_example/guidance/results/guidance.json, .md and .png. All scales get as many evaluations
of the network for an image (--calls): scales 0 and 1 take that many steps, the others, which cost
two a step, half of them. Scale 0 does not ask: its row says what each column reads if the label has
no effect. --n-best draws so many samples of the scale that is best in each measure.
"""
import sys
from functools import partial
from pathlib import Path

# The evaluation judges what ddpm/, ddim/ and guidance/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "guidance"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from matplotlib.figure import Figure
from torch import Tensor

import ddim
from classifier import classify
from data import FOLDER, mnist_with_labels
from guidance import classifier_free
from judge import LEAST, Judge
from machinery.cli import Parser, count_flag, fraction_flag, run, seed_flag
from machinery.devices import device_flag
from machinery.weights import digest
from model import WITH_CLASSES, Model
from results import Results

EXAMPLE = Path(__file__).resolve().parents[1]
SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
MEASURES = {    # name: axis of the figure, and what the best scale has of it
    "frechet": ("Frechet distance", min), "sureness": ("doubt, 1 - sureness", max),
    "variety": ("variety", None), "recall": ("recall", max)}
NEIGHBOURS = 3      # of the recall


def draw(model: Model, labels: Tensor, scale: float, seed: int, calls: int, eta: float) -> Tensor:
    """One image for each label, uint8 (n, 1, H, W), by so many evaluations of the network each."""
    steps = calls if scale in (0, 1) else calls // 2
    sampler = partial(ddim.sample, tau=ddim.subsequence(model.T, steps), eta=eta, clip=True)
    if scale == 0:
        return model.draw(sampler, n=len(labels), seed=seed, steps=steps)[0]
    guided = None if scale == 1 else partial(classifier_free, model.conditional, scale=scale,
                                             unknown=len(model.config.classes))
    return model.draw(sampler, n=len(labels), seed=seed, steps=steps, labels=labels,
                      conditional=guided)[0]


def distance_within(images: Tensor, labels: Tensor) -> float:
    """The mean distance of two images of one class, the mean over classes: the root of the mean
    square difference of their pixels, on the scale where black is 0 and white is 1."""
    x = images.flatten(1).cpu().float() / 255
    classes = [x[labels == c] for c in labels.unique()]
    return torch.stack([torch.pdist(of_one).mean() for of_one in classes]).mean().item() / (
        x.shape[1] ** 0.5)


def recall(samples: Tensor, real: Tensor) -> float:
    """The share of real feature vectors (M, D) that lie in the samples' neighbourhood, (N, D).

    In that of a sample lies what is no farther from it than its NEIGHBOURS-th nearest fellow
    (Kynkaanniemi et al. 2019, arXiv 1904.06991, equation 2).
    """
    radius = torch.cat([torch.cdist(part, samples).kthvalue(NEIGHBOURS + 1).values   # itself is 0
                        for part in samples.split(1000)])
    inside = [(torch.cdist(part, samples) <= radius).any(1) for part in real.split(1000)]
    return torch.cat(inside).double().mean().item()


def measure(judge: Judge, images: Tensor, labels: Tensor) -> dict:
    """What the judge reads of images that were asked for by these labels."""
    features, probabilities = classify(judge.network, images)
    asked = probabilities.gather(1, labels[:, None])
    real = distance_within(judge.test, judge.labels)
    return judge.measure(images) | {
        "sureness": round(asked.double().mean().item(), 6),
        "as asked": round((probabilities.argmax(1) == labels).double().mean().item(), 4),
        "variety": round(distance_within(images, labels) / real, 4),
        "recall": round(recall(features, judge.features), 4)}


def measure_real(judge: Judge, n: int) -> dict:
    """The same of real digits, n / 10 training images of each class."""
    images, labels = mnist_with_labels(judge.data_dir)
    chosen = torch.cat([(labels == c).nonzero()[:n // 10, 0] for c in range(10)])
    return measure(judge, images[chosen], labels[chosen])


def fill(results: Results, model: Model, judge: Judge, args) -> None:
    """Every cell: all scales of a seed, then the next, so that an early interrupt loses least."""
    def one(scale: float, n: int, seed: int) -> dict:
        labels = torch.arange(10).repeat_interleave(n // 10)
        return measure(judge, draw(model, labels, scale, seed, args.calls, args.eta), labels)
    results.cell("real digits", measure_real, judge, args.n)
    for seed in range(args.seed, args.seed + args.seeds):
        for scale in SCALES:
            results.cell(name(scale, seed), one, scale, args.n, seed)
    if args.n_best:
        results.cell(f"real digits, n = {args.n_best}", measure_real, judge, args.n_best)
        for scale in sorted({best(results, m, args) for m, (_, of) in MEASURES.items() if of}):
            results.cell(f"s = {scale:g}, n = {args.n_best}", one, scale, args.n_best, args.seed)


def name(scale: float, seed: int) -> str:
    """The name of a cell."""
    return f"scale {scale:g}, seed {seed}"


def over_seeds(results: Results, scale: float, measure: str, args) -> tuple[float, float]:
    """Mean and standard deviation over the seeds; the latter is 0 for a single one."""
    values = torch.tensor([results.cells[name(scale, seed)][measure]
                           for seed in range(args.seed, args.seed + args.seeds)],
                          dtype=torch.float64)
    return values.mean().item(), values.std(correction=min(1, len(values) - 1)).item()


def best(results: Results, measure: str, args) -> float:
    """The scale above 0 with the best mean of a measure."""
    return MEASURES[measure][1](SCALES[1:], key=lambda s: over_seeds(results, s, measure, args)[0])


def report(results: Results, args) -> None:
    """The table and the figure."""
    columns = ("frechet", "sureness", "as asked", "variety", "recall")
    rows = [["real digits", "", *(f"{results.cells['real digits'][m]:.3f}" for m in columns)]]
    for scale in SCALES:
        spread = (over_seeds(results, scale, m, args) for m in columns)
        rows.append([f"s = {scale:g}" + ", nobody asks" * (scale == 0),
                     args.calls if scale in (0, 1) else args.calls // 2,
                     *(f"{mean:.3f} +- {deviation:.3f}" for mean, deviation in spread)])
    rows += [[key, "", *(f"{cell[m]:.3f}" for m in columns)]
             for key, cell in results.cells.items() if key.endswith(f", n = {args.n_best}")]
    results.text([f"n = {args.n}, {args.calls} calls, {args.seeds} seeds", "steps",
                  "Frechet distance", *columns[1:]], rows)
    figure = Figure(figsize=(8, 5), layout="constrained")
    places = range(len(SCALES))
    for ax, (key, (title, _)) in zip(figure.subplots(2, 2).flat, MEASURES.items(), strict=True):
        means, deviations = torch.tensor([over_seeds(results, s, key, args) for s in SCALES]).T
        real = results.cells["real digits"][key]
        if key == "sureness":
            means, real = 1 - means, 1 - real
        ax.errorbar(places, means, deviations, marker="o", ms=4, color="#009E73")
        ax.axhline(real, color="#0072B2", ls="--", label="real digits")
        ax.set(xticks=places, xticklabels=[f"{s:g}" for s in SCALES], xlabel="scale $s$",
               ylabel=title)
        if key in ("frechet", "sureness"):
            ax.set_yscale("log")
            ax.legend()
    results.figure(figure)


def main(argv: list[str] | None = None) -> None:
    """Fills the table. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=WITH_CLASSES, help="a model.safetensors")
    parser.add_argument("--n", type=count_flag, default=2000, help="images of each cell, of ten "
                        "classes")
    parser.add_argument("--n-best", type=count_flag, metavar="N", help="images of the best scales; "
                        "none are drawn without it")
    parser.add_argument("--calls", type=count_flag, default=40,
                        help="evaluations of the network for an image, even")
    parser.add_argument("--eta", type=fraction_flag, default=0.0, help="DDIM's share of noise")
    parser.add_argument("--seeds", type=count_flag, default=3, help="how many, from --seed on")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise, the first")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "guidance/results/guidance.json",
                        help="a .json; the table and the figure stand beside it")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    for flag, n in (("--n", args.n), ("--n-best", args.n_best or args.n)):
        if not LEAST <= n <= 50_000 or n % 10:
            parser.error(f"{flag} {n}: take a multiple of 10 from {LEAST}, for a covariance of 96 "
                         "features, to 50,000, since there are 5,421 fives")
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist" or len(model.config.classes) != 10:
        parser.error(f"--weights {args.weights}: the table needs a model of mnist's ten classes")
    if args.calls % 2 or args.calls > model.T:
        parser.error(f"--calls {args.calls}: take an even number, at most T = {model.T}")
    settings = {"weights": digest(args.weights)} | {
        key: getattr(args, key) for key in ("n", "calls", "eta", "seed")}
    results = Results(args.out, settings, parser)
    fill(results, model, Judge(args.device, args.data_dir), args)
    report(results, args)


if __name__ == "__main__":
    run(main)
