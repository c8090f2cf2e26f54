"""Pictures as files: a grid of small images, an animated GIF, a training's loss and samples."""
import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def grid(images: Tensor, width: int = 600, columns: int | None = None) -> Image.Image:
    """uint8 images (N, C, H, W), grey or RGB, with lines between, enlarged to about width.

    They stand in a square, unless the number of columns is given.
    """
    n, channels, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, channels), 96, np.uint8)
    for i, image in enumerate(channels_last(images)):
        top, left = 1 + i // columns * (h + 1), 1 + i % columns * (w + 1)
        canvas[top:top + h, left:left + w] = image
    scale = max(1, width // canvas.shape[1])
    enlarged = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(enlarged[..., 0] if channels == 1 else enlarged)


def channels_last(images: Tensor) -> np.ndarray:
    """uint8 images (N, C, H, W) as an array (N, H, W, C)."""
    return images.permute(0, 2, 3, 1).cpu().numpy()


def png(picture: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def gif(pictures: list[Image.Image], seconds: float = 4.0, pause: float = 2.0) -> bytes:
    """The pictures in 16 greys or 64 colours, as the content of an endless GIF that rests on the
    last one."""
    pictures = [picture.point([v // 16 * 17 for v in range(256)]) if picture.mode == "L"
                else picture.quantize(64) for picture in pictures]
    each = 1000 * seconds / len(pictures)
    durations = [each] * (len(pictures) - 1) + [1000 * pause]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "gif", save_all=True, append_images=pictures[1:], loop=0,
                     duration=durations)
    return buffer.getvalue()


def curve(log: list[dict]) -> bytes:
    """The mean loss of each epoch, as the content of a PNG file."""
    from matplotlib.figure import Figure  # here, since it takes half a second
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["epoch"] for row in log], [row["loss"] for row in log], ".-", color="#0072B2")
    axes.set(xlabel="epoch", ylabel="loss, mean over the epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    return figure_png(figure)


def strip(drawn: dict[int, Tensor]) -> bytes:
    """uint8 images (N, C, H, W) by the epoch after which they were drawn, a row each; a PNG."""
    from matplotlib.figure import Figure
    epochs = sorted(drawn)
    columns = len(drawn[epochs[0]])
    canvas = np.asarray(grid(torch.cat([drawn[epoch] for epoch in epochs]), columns=columns))
    height = len(canvas) / len(epochs)
    figure = Figure(figsize=(6, 0.7 * len(epochs)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[(i + 0.5) * height for i in range(len(epochs))],
             yticklabels=[f"epoch {epoch}" for epoch in epochs])
    axes.tick_params(length=0)
    return figure_png(figure)


def figure_png(figure) -> bytes:
    """A matplotlib figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, bbox_inches="tight")
    return buffer.getvalue()
