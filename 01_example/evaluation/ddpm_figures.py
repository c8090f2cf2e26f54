r"""DDPM's pictures on MNIST: progressive generation, and interpolation at several times t.

    python 01_example/evaluation/ddpm_figures.py

writes progressive.png and interpolation.png into 01_example/ddpm/results/: what the model believes
that the image will be, x_0_hat, on the way from noise to digits (the paper's figure 6), and test
images of MNIST mixed after t steps of noise, then denoised (figure 8).
"""
import sys
from pathlib import Path

# The evaluation judges what ddpm/ and ddim/ make.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

import torch
from torch import Tensor
from tqdm import trange

from data import FOLDER, mnist, to_uint8, to_unit
from ddpm import ddpm_step, noise_like, predict_x_0, q_sample
from image_table import image_table
from machinery.cli import Parser, run, seed_flag
from machinery.devices import device_flag
from machinery.drawing import generator_of
from machinery.files import prepare
from model import SHIPPED, Model
from results import save_figure

EXAMPLE = Path(__file__).resolve().parents[1]

SHOWN = 8                                          # rows of both pictures
BELIEFS = (1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 1)
TIMES = (1000, 900, 800, 700, 600, 500, 250)       # of the mixtures
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


@torch.no_grad()
def down(model: Model, x_t: Tensor, t: int, generators: list[torch.Generator], looks: tuple = ()
         ) -> tuple[Tensor, list[Tensor]]:
    """Algorithm 2 from x_t (N, 1, H, W) at time t to x_0, and the beliefs x_0_hat at some times."""
    beliefs = []
    for s in trange(t, 0, -1, unit="step", desc=f"from t = {t}", leave=False):
        eps = model.eps_model(x_t, torch.full(x_t.shape[:1], s, device=x_t.device))
        if s in looks:
            beliefs.append(to_uint8(predict_x_0(x_t, s, eps, model.alpha_bar)))
        x_t = ddpm_step(x_t, s, eps, noise_like(x_t, generators), model.alpha_bar, clip=True)
    return x_t, beliefs


def progressive(model: Model, seed: int) -> list[Tensor]:
    """For each of SHOWN images, its beliefs on the way and then itself, (times + 1, 1, H, W)."""
    size, generators = model.config.size, [generator_of(seed, i) for i in range(SHOWN)]
    x_T = noise_like(torch.empty(SHOWN, 1, size, size, device=model.device), generators)
    x_0, beliefs = down(model, x_T, model.T, generators, BELIEFS)
    return list(torch.stack([*beliefs, to_uint8(x_0)], 1))


def mixtures(model: Model, images: Tensor, t: int, seed: int) -> Tensor:
    """From one image to the other, (SHARES, 1, H, W) uint8: mixed at time t, then denoised.

    All get the same noise, on both ways, so that a mixture is as noisy as its ends.
    """
    a, b = to_unit(images).to(model.device)
    x_0 = torch.stack([(1 - share) * a + share * b for share in SHARES])
    eps = noise_like(a[None], generator_of(seed, 1)).expand_as(x_0)
    x_t = q_sample(x_0, t, eps, model.alpha_bar)
    return to_uint8(down(model, x_t, t, [generator_of(seed, 0) for _ in SHARES])[0])


def main(argv: list[str] | None = None) -> None:
    """Draws both. Raises: OSError for a file that cannot be read or written."""
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="a model.safetensors")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "ddpm/results", help="a folder")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    model = Model.load(args.weights, args.device)
    if model.config.dataset != "mnist" or model.T != BELIEFS[0]:
        parser.error(f"--weights {args.weights}: the pictures need a model of mnist with T = 1000")
    prepare(args.out / "progressive.png")
    images = mnist(args.data_dir, train=False)[:2]                     # a seven and a two
    save_figure(args.out / "progressive.png", image_table(
        progressive(model, args.seed), [""] * SHOWN, "$t$, down to $x_0$",
        [*map(str, BELIEFS), "$x_0$"]))
    save_figure(args.out / "interpolation.png", image_table(
        [mixtures(model, images, t, args.seed) for t in TIMES], [f"$t$ = {t}" for t in TIMES],
        "share of the second image", [f"{share:g}" for share in SHARES]))


if __name__ == "__main__":
    run(main)
