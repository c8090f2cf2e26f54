"""Rows of images as one figure with names beside the rows."""
import torch
from matplotlib.figure import Figure
from torch import Tensor


def image_table(rows: list[Tensor], names: list[str], axis: str, columns: list[str] | None = None
          ) -> Figure:
    """Rows of uint8 images (N, 1, H, W) with names; `axis` says what changes along them."""
    framed = [torch.nn.functional.pad(row[:, 0].cpu(), (1, 1, 1, 1), value=96) for row in rows]
    canvas = torch.cat([torch.cat(list(row), 1) for row in framed])
    _, height, width = framed[0].shape
    figure = Figure(figsize=(0.62 * len(rows[0]) + 0.9, 0.62 * len(rows) + 0.5),
                    layout="constrained")
    ax = figure.subplots()
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    ax.set(xlabel=axis, yticks=[(i + 0.5) * height for i in range(len(rows))], yticklabels=names,
           xticks=[(j + 0.5) * width for j in range(len(columns or []))],
           xticklabels=columns or [])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure
