"""Images of a model by either sampler, as the tables need them."""
from functools import partial

from torch import Tensor

import ddim
import ddpm
from model import Model


def draw_ddpm(model: Model, n: int, seed: int, clip: bool = True) -> Tensor:
    """n images, uint8 (n, 1, H, W), by DDPM's Algorithm 2, all T steps."""
    return model.draw(partial(ddpm.sample, clip=clip), n=n, seed=seed, steps=model.T)[0]


def draw_ddim(model: Model, n: int, seed: int, steps: int, eta: float = 0.0,
              spacing: str = "linear", clip: bool = True, step=ddim.ddim_step) -> Tensor:
    """n images, uint8 (n, 1, H, W), by DDIM in so many steps."""
    tau = ddim.subsequence(model.T, steps, spacing)
    sampler = partial(ddim.sample, tau=tau, eta=eta, clip=clip, step=step)
    return model.draw(sampler, n=n, seed=seed, steps=steps)[0]
