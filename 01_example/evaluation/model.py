"""A trained model, ready to draw images by either sampler, or to be asked for the noise."""
import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import ddim
import ddpm
from checkpoint import load_model
from device import fast
from draw import generate


def digest(path: Path) -> str:
    """A short name of a file's content, by which results know which weights they are of."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


class Model:
    """A network and its schedule: `eps_model`, `alpha_bar`, T, and draws of images."""

    def __init__(self, network, alpha_bar: Tensor, config: dict, device: torch.device):
        self.alpha_bar, self.config, self.device = alpha_bar, config, device
        self.T = len(alpha_bar) - 1
        self.eps_model = ddpm.EPS_MODELS[config["predict"]](network, alpha_bar)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "Model":
        """The model of a file. Raises: OSError if it cannot be read."""
        network, alpha_bar, config = load_model(path, device)
        return cls(fast(network), alpha_bar, config, device)

    def ddpm(self, n: int, seed: int, clip: bool = True) -> Tensor:
        """n images, uint8 (n, 1, H, W), by DDPM's Algorithm 2, all T steps."""
        return self._draw(partial(ddpm.sample, clip=clip), self.T, n, seed)

    def ddim(self, n: int, seed: int, steps: int, eta: float = 0.0, spacing: str = "linear",
             clip: bool = True, step=ddim.ddim_step) -> Tensor:
        """n images, uint8 (n, 1, H, W), by DDIM in so many steps."""
        tau = ddim.subsequence(self.T, steps, spacing)

        def sampler(eps_model, alpha_bar, x_T, generators):
            return ddim.sample(eps_model, alpha_bar, x_T, tau, eta, generators, clip, step)
        return self._draw(sampler, steps, n, seed)

    def _draw(self, sampler, steps: int, n: int, seed: int) -> Tensor:
        return generate(sampler, steps, self.eps_model, self.alpha_bar, n, self.config["size"],
                        seed, self.device)[0]
