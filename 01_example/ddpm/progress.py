"""What a training shows of itself: its loss by epoch, and what it draws after some epochs."""
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddpm import EPS_MODELS, sample
from device import fast
from draw import generate
from files import write
from parallel import rank
from picture import grid, png
from stop import Requests

if TYPE_CHECKING:           # train.py imports this file
    from train import Training

ROW = 8                                 # images in a row of samples_by_epoch.png
EPOCHS = {4**k for k in range(10)}      # after which a row is drawn: 1, 4, 16, ...; and the last
BLUE = "#0072B2"


def draw(training: "Training", n: int, requests: Requests) -> Tensor:
    """n images (n, 1, H, W) by all T steps of Algorithm 2, from the averaged weights."""
    alpha_bar = training.alpha_bar
    eps_model = EPS_MODELS[training.config["predict"]](fast(training.average), alpha_bar)

    def sampler(*inputs) -> Iterator[Tensor]:
        for x in sample(*inputs, clip=True):
            requests.grant()
            yield x
    return generate(sampler, len(alpha_bar) - 1, eps_model, alpha_bar, n, training.config["size"],
                    0, training.images.device)[0]


def draw_progress(training: "Training", out: Path, requests: Requests) -> None:
    """OUT's pictures, if they are due: a row of samples, or after the last epoch 64 images."""
    epoch, finished = len(training.log), len(training.log) >= training.config["epochs"]
    if not finished and (epoch not in EPOCHS or epoch in training.drawn):
        return
    images = draw(training, 64 if finished else ROW, requests)
    training.drawn[epoch] = images[:ROW].clone()    # a view would be saved with all 64
    if rank() == 0:
        if finished:
            write(out / "samples.png", png(grid(images)))
        write(out / "samples_by_epoch.png", strip(training.drawn))
        write(out / "loss.png", curve(training.log))


def curve(log: list[dict]) -> bytes:
    """The mean loss of each epoch, as the content of a PNG file."""
    from matplotlib.figure import Figure  # here, since it takes half a second
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["epoch"] for row in log], [row["loss"] for row in log], ".-", color=BLUE)
    axes.set(xlabel="epoch", ylabel="loss, mean over the epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    return _content(figure)


def strip(drawn: dict[int, Tensor]) -> bytes:
    """uint8 images (ROW, 1, H, W) by the epoch after which they were drawn, a row each; a PNG."""
    from matplotlib.figure import Figure
    epochs = sorted(drawn)
    canvas = np.asarray(grid(torch.cat([drawn[epoch] for epoch in epochs]), columns=ROW))
    height = len(canvas) / len(epochs)
    figure = Figure(figsize=(6, 0.7 * len(epochs)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[(i + 0.5) * height for i in range(len(epochs))],
             yticklabels=[f"epoch {epoch}" for epoch in epochs])
    axes.tick_params(length=0)
    return _content(figure)


def _content(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, bbox_inches="tight")
    return buffer.getvalue()
