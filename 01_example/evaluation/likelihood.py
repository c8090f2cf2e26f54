"""The bound on the code length of an image, term by term, in bits per dimension (pixel).

-log2 p(x_0) <= L_T + L_{T-1} + ... + L_1 + L_0 (Ho, Jain and Abbeel 2020, equation 5), divided by
the number of pixels. Images are (N, ...) in [-1, 1], the 256 grey levels 2 / 255 apart.
"""
import math

import torch
from torch import Tensor

from ddpm import EpsModel, predict_x_0, q_posterior, q_sample

HALF = 1 / 255           # of the distance between two grey levels


def bits(nats: Tensor) -> Tensor:
    """Nats (N, ...) to bits per dimension (N,)."""
    return nats.flatten(1).mean(1) / math.log(2)


def prior_bits(x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """L_T, (N,): the divergence of q(x_T | x_0) from N(0, I), which no network changes."""
    a_T = alpha_bar[-1].item()
    return bits((a_T * x_0.double()**2 - a_T - math.log1p(-a_T)) / 2)


def step_bits(x_0_hat: Tensor, x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> Tensor:
    """L_{t-1}, (N,), for t = 2..T: the divergence of p(x_{t-1} | x_t) from the posterior, given the
    network's x_0_hat; both have the variance beta_tilde, so that only the means count (eq. 8)."""
    mean, variance = q_posterior(x_0, x_t, t, alpha_bar)
    mean_hat, _ = q_posterior(x_0_hat, x_t, t, alpha_bar)
    return bits((mean - mean_hat).double()**2 / (2 * variance.double()))


def decoder_bits(x_0_hat: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """L_0, (N,): a Gaussian around x_0_hat, integrated over each grey level's bin (equation 13).

    The outermost bins reach to infinity. The variance is beta_tilde_2, as in the authors' code,
    since beta_tilde_1 is 0.
    """
    a_1, a_2 = alpha_bar[1], alpha_bar[2]
    sigma = ((1 - a_2 / a_1) * (1 - a_1) / (1 - a_2)).sqrt().item()
    off, x_0 = (x_0 - x_0_hat).double(), x_0.double()
    above, below = (off + HALF) / sigma, (off - HALF) / sigma
    mirrored = off > 0                    # far out, differences are taken in the lower tail
    above, below = torch.where(mirrored, -below, above), torch.where(mirrored, -above, below)
    log_above, log_below = torch.special.log_ndtr(above), torch.special.log_ndtr(below)
    inside = log_above + torch.log1p(-(log_below - log_above).exp())
    tail = torch.where(x_0 > 1 - HALF, torch.special.log_ndtr(-(off - HALF) / sigma),
                       torch.special.log_ndtr((off + HALF) / sigma))
    return bits(-torch.where(x_0.abs() > 1 - HALF, tail, inside))


@torch.no_grad()
def terms(eps_model: EpsModel, x_0: Tensor, alpha_bar: Tensor, t: int, eps: Tensor
          ) -> tuple[Tensor, Tensor]:
    """L_{t-1} in bits per dimension and the mean square error of x_0_hat, (N,) each, for t = 1..T.

    One random x_t stands for its mean over eps. x_0_hat is clipped to [-1, 1].
    """
    x_t = q_sample(x_0, t, eps, alpha_bar)
    eps_hat = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
    x_0_hat = predict_x_0(x_t, t, eps_hat, alpha_bar).clamp(-1, 1).cpu()
    x_0, x_t, alpha_bar = x_0.cpu(), x_t.cpu(), alpha_bar.cpu()         # mps has no float64
    square_error = (x_0_hat - x_0).double().square().flatten(1).mean(1)
    if t == 1:
        return decoder_bits(x_0_hat, x_0, alpha_bar), square_error
    return step_bits(x_0_hat, x_0, x_t, t, alpha_bar), square_error
