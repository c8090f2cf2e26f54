r"""What else a trained model can be asked: to fill in, to redraw, to vary. No training, only
`q_sample` and DDIM's step.

Any eps_model will do, guided or not. Arguments are those of ddim.py: `tau` holds increasing times,
`eta` is the share of DDPM's noise, `clip` brings the predicted x_0 back to [-1, 1].
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from ddim import check_times, ddim_step, encode, sample, slerp
from ddpm import EpsModel, Generators, at, noise_like, per_image, q_sample


def noise_again(x_s: Tensor, s: int, t: int, z: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t from x_s for s <= t: the forward process in one hop (DDPM's equation 2, many steps)."""
    ratio = at(alpha_bar, t) / at(alpha_bar, s)
    return per_image(ratio.sqrt(), x_s) * x_s + per_image((1 - ratio).sqrt(), x_s) * z


@torch.no_grad()
def inpaint(eps_model: EpsModel, x_T: Tensor, x_0: Tensor, known: Tensor, alpha_bar: Tensor,
            tau: list[int], repeats: int = 1, eta: float = 1.0, generator: Generators = None,
            clip: bool = False) -> Iterator[Tensor]:
    """Yields x at each earlier time of tau; at last x_0 where `known`, and what fits elsewhere.

    At each time the known pixels are x_0's, noised anew. With `repeats` > 1 each hop but the last
    is taken so many times, noised back in between, so that the two parts can agree (RePaint:
    Lugmayr et al. 2022, arXiv 2201.09865, Algorithm 1). `known` is boolean, shaped like x_0
    (N, ...) or ready to be broadcast to it.
    """
    check_times(tau, alpha_bar)
    x_t = x_T
    for t, s in zip(reversed(tau), reversed([0, *tau[:-1]]), strict=True):
        for left in reversed(range(repeats if s else 1)):
            eps = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
            x_s = ddim_step(x_t, t, s, eps, noise_like(x_t, generator), alpha_bar, eta, clip)
            x_s = x_s.where(~known, q_sample(x_0, s, noise_like(x_0, generator), alpha_bar))
            if left:
                x_t = noise_again(x_s, s, t, noise_like(x_s, generator), alpha_bar)
        x_t = x_s
        yield x_t


def redraw(eps_model: EpsModel, x_0: Tensor, alpha_bar: Tensor, tau: list[int], eta: float = 0.0,
           generator: Generators = None, clip: bool = False) -> Iterator[Tensor]:
    """Image to image: x_0 is noised up to the last time of tau, and sampled down from there.

    Meng et al. 2022 (SDEdit, arXiv 2108.01073). The later that time, the less of x_0 is left.
    """
    x_t = q_sample(x_0, tau[-1], noise_like(x_0, generator), alpha_bar)
    return sample(eps_model, x_t, alpha_bar, tau, eta, generator, clip)


def vary(eps_model: EpsModel, x_0: Tensor, share: float, alpha_bar: Tensor, tau: list[int],
         generator: Generators = None, clip: bool = False) -> Iterator[Tensor]:
    """Variations: x_0's code, moved by that share, 0..1, of the arc to fresh noise, decoded."""
    *_, code = encode(eps_model, x_0, alpha_bar, tau)
    x_T = slerp(code, noise_like(code, generator), share)
    return sample(eps_model, x_T, alpha_bar, tau, clip=clip)
