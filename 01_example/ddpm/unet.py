r"""The U-Net: a network that looks at a noisy image x_t and its time t, and predicts what it was
trained to predict: v by default, or eps, or mu (objectives.py).

Two resolutions, one residual block on each side of each, attention only on the small maps. The
image enters folded: each 2 x 2 square of pixels becomes one position with four channels
(`pixel_unshuffle`), which costs no information and a quarter of the arithmetic.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to 0: its branch adds nothing at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of t (N,), of dim / 2 frequencies from 1 to 1 / 10,000."""
    exponents = torch.arange(dim // 2, device=t.device) * (-math.log(1e4) / (dim // 2))
    angles = t[:, None].float() * torch.exp(exponents)  # (N, dim / 2), a row per image
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))); time scales and shifts norm_2."""

    def __init__(self, c_in: int, c_out: int, c_time: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(1, c_in), nn.GroupNorm(1, c_out)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv_2 = zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.modulate = nn.Linear(c_time, 2 * c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.modulate(time)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_2(F.silu(self.norm_2(h) * (1 + scale) + shift))
        return self.skip(x) + h


# Attention is written out, since torch's scaled_dot_product_attention is slower here: its backward
# pass in bfloat16 on a CPU took 14% of a training step, the two products and the softmax take 2%.

class Attention(nn.Module):
    """x plus what each position gathers from all others, with heads of 64 channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = max(1, channels // 64)
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.unbind(1)  # (N, heads, C / heads, H W)
        weights = (q.transpose(2, 3) @ k * q.shape[2] ** -0.5).softmax(-1)
        y = v @ weights.transpose(2, 3)  # weights: (N, heads, H W, H W); y: as v
        return x + self.out(y.reshape(n, c, h, w))


class UNet(nn.Module):
    """Images (N, C, H, W), times (N,), perhaps labels (N,) in; a prediction like x out.

    H and W are multiples of 4, such as MNIST's 28 and 8; `width` is the number of
    channels at half the resolution, twice as many work at a quarter. A network of so
    many `classes` knows the labels 0..classes - 1, and `classes` itself as "class
    unknown", which a call without labels means.
    """

    def __init__(self, width: int = 64, channels: int = 1, classes: int = 0):
        super().__init__()
        c1, c2, c_time = width, 2 * width, 4 * width
        self.width, self.channels, self.classes = width, channels, classes
        self.time = nn.Sequential(nn.Linear(width, c_time), nn.SiLU(),
                                  nn.Linear(c_time, c_time))
        if classes:
            self.label = zero(nn.Embedding(classes + 1, c_time))
        self.stem = nn.Conv2d(4 * channels, c1, 3, padding=1)
        self.down_1 = ResBlock(c1, c1, c_time)
        self.shrink = nn.Conv2d(c1, c1, 3, stride=2, padding=1)
        self.down_2, self.down_attention = ResBlock(c1, c2, c_time), Attention(c2)
        self.middle = ResBlock(c2, c2, c_time)
        self.up_2, self.up_attention = ResBlock(c2 + c2, c2, c_time), Attention(c2)
        self.grow = nn.Conv2d(c2, c1, 3, padding=1)
        self.up_1 = ResBlock(c1 + c1, c1, c_time)
        self.norm = nn.GroupNorm(1, c1)
        self.head = zero(nn.Conv2d(c1, 4 * channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert x.ndim == 4 and x.shape[1] == self.channels, f"{tuple(x.shape)}"
        assert t.shape == x.shape[:1], f"{tuple(t.shape)}: one time per image"
        h, w = x.shape[2:]
        assert h % 4 == w % 4 == 0, f"{h} x {w}: sizes are multiples of 4"
        time = F.silu(self.embedding(t, label))  # (N, 4 width)
        skips = []
        h = self.stem(F.pixel_unshuffle(x, 2))  # (N, width, H/2, W/2)
        h = self.down_1(h, time)
        skips.append(h)
        h = self.shrink(h)  # (N, width, H/4, W/4)
        h = self.down_attention(self.down_2(h, time))  # (N, 2 width, H/4, W/4)
        skips.append(h)
        h = self.middle(h, time)
        h = self.up_attention(self.up_2(torch.cat([h, skips.pop()], dim=1), time))
        h = self.grow(F.interpolate(h, scale_factor=2.0))  # (N, width, H/2, W/2)
        h = self.up_1(torch.cat([h, skips.pop()], dim=1), time)
        h = F.pixel_shuffle(self.head(F.silu(self.norm(h))), 2)  # (N, C, H, W)
        assert not skips
        return h.float()

    def embedding(self, t: Tensor, label: Tensor | None) -> Tensor:
        """What all blocks are told: the times and, if there are classes, the labels."""
        time = self.time(time_embedding(t, self.width))
        if not self.classes:
            assert label is None, "this network knows no classes"
            return time
        unknown = torch.full_like(t, self.classes)
        return time + self.label(unknown if label is None else label)
