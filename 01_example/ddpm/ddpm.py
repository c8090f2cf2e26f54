r"""DDPM, the whole algorithm: noise schedules, q_sample, the loss, one step back, sampling.

Equations are those of Ho, Jain and Abbeel 2020 (arXiv 2006.11239) unless another paper is named.
Time is theirs: t = 1..T is noisy, t = 0 is clean data. A schedule is the tensor alpha_bar of T + 1
float64 entries; alpha_bar[0] = 1, so that no step is special. a_t is short for alpha_bar[t], a_s
for alpha_bar[s] at an earlier time s (here t - 1). Images x are (N, ...) tensors in [-1, 1]; t is
an int, or an integer tensor (N,), one time per image. Arguments stand in one order: images, times,
alpha_bar, settings. `eps_model(x_t, t)` is any callable that estimates the noise in x_t, t (N,).
"""
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

EpsModel = Callable[[Tensor, Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator] | None


# --- schedules ------------------------------------------------------------------------------------
def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """alpha_bar of a beta that grows linearly (section 4), rescaled by 1000 / T.

    The factor keeps x_T close to noise for any T. It stands in the code of Nichol and Dhariwal 2021
    (github.com/openai/improved-diffusion), not in their paper. Returns: (T + 1,), float64.
    Raises: ValueError if T < 1 or a rescaled beta is not in (0, 1), as for T <= 20 by default.
    """
    if T < 1:
        raise ValueError(f"a schedule needs at least one step, not T = {T}")
    first, last = beta_1 * 1000 / T, beta_T * 1000 / T
    if not (0 < min(first, last) and max(first, last) < 1):
        raise ValueError(f"the linear schedule rescaled to T = {T} has a beta outside (0, 1): "
                         "take more steps, or the cosine schedule")
    return _alpha_bar(torch.linspace(first, last, T, dtype=torch.float64))


def cosine_schedule(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Tensor:
    r"""alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi/2), beta capped.

    Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17. alpha_bar is the product
    of the capped 1 - beta, so that the two belong together.

    Returns: alpha_bar, (T + 1,), float64.
    Raises: ValueError if T < 1.
    """
    if T < 1:
        raise ValueError(f"a schedule needs at least one step, not T = {T}")
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=beta_max)
    return _alpha_bar(beta)


def _alpha_bar(beta: Tensor) -> Tensor:
    """alpha_bar_t, the product of 1 - beta up to t (below equation 4), from t = 0."""
    return torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)])


SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


# --- the forward process and its posterior --------------------------------------------------------
def at(alpha_bar: Tensor, t: int | Tensor) -> Tensor:
    """alpha_bar[t], () or (N,), wherever t is. Raises: ValueError if a time is not in 0..T."""
    T, first, last = len(alpha_bar) - 1, t, t
    if isinstance(t, Tensor):
        t = t.to(alpha_bar.device)
        read = t.device.index is None and t.numel()     # an accelerator would wait for it
        first, last = (int(t.min()), int(t.max())) if read else (0, T)
    if not 0 <= first <= last <= T:
        raise ValueError(f"times go from 0 to T = {T}, not from {first} to {last}")
    return alpha_bar[t]


def per_image(c: Tensor, x: Tensor) -> Tensor:
    """The coefficient c, () for all images or (N,) for each, ready to multiply x."""
    assert c.ndim == 0 or c.shape == x.shape[:1], f"{c.shape} for {x.shape}"
    return c.to(x).view(-1, *[1] * (x.ndim - 1))


def q_sample(x_0: Tensor, t: int | Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (equation 4)."""
    assert eps.shape == x_0.shape
    a_t = at(alpha_bar, t)
    return per_image(a_t.sqrt(), x_0) * x_0 + per_image((1 - a_t).sqrt(), x_0) * eps


def q_posterior(x_0: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor
                ) -> tuple[Tensor, Tensor]:
    """Mean, like x_t, and variance, (1 or N, 1, ...), of q(x_{t-1} | x_t, x_0).

    Equations 6 and 7, for t = 1..T. At t = 1 the mean is x_0 and the variance 0.
    """
    assert x_0.shape == x_t.shape
    a_t, a_s = at(alpha_bar, t), at(alpha_bar, t - 1)
    beta = 1 - a_t / a_s
    mean = (per_image(a_s.sqrt() * beta / (1 - a_t), x_t) * x_0
            + per_image((1 - beta).sqrt() * (1 - a_s) / (1 - a_t), x_t) * x_t)
    return mean, per_image(beta * (1 - a_s) / (1 - a_t), x_t)


# --- training -------------------------------------------------------------------------------------
def l_simple(eps_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor
             ) -> Tensor:
    """The mean over images and pixels of (eps - eps_model(x_t, t))^2 (equation 14)."""
    x_t = q_sample(x_0, t, eps, alpha_bar)
    estimate = eps_model(x_t, t.to(x_0.device))
    assert estimate.shape == eps.shape
    return (eps - estimate).square().mean()


# --- sampling -------------------------------------------------------------------------------------
def predict_x_0(x_t: Tensor, t: int | Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The x_0 that noise eps turns into x_t: q_sample solved for x_0 (equation 15)."""
    assert eps.shape == x_t.shape
    a_t = at(alpha_bar, t)
    return (per_image(1 / a_t.sqrt(), x_t) * x_t
            - per_image((1 / a_t - 1).sqrt(), x_t) * eps)


def ddpm_step(x_t: Tensor, t: int | Tensor, eps: Tensor, z: Tensor, alpha_bar: Tensor,
              clip: bool = False) -> Tensor:
    """x_{t-1} from x_t and its predicted noise eps (Algorithm 2, sigma^2 = beta_tilde).

    `clip` first brings the predicted x_0 back to [-1, 1], where images live. z is
    standard normal noise shaped like x_t; at t = 1 its factor is 0.
    """
    assert z.shape == x_t.shape
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)
    if clip:
        x_0 = x_0.clamp(-1, 1)
    # Algorithm 2, line 4. Without the clip this mean is the paper's
    # (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t), by equations 7 and 15.
    mean, variance = q_posterior(x_0, x_t, t, alpha_bar)
    return mean + variance.sqrt() * z


def noise_like(x: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise shaped like x (N, ...), drawn on the generator's device, or x's.

    A list of generators has one for each image, which is then the same in any batch.
    """
    if isinstance(generator, Sequence):
        noise = torch.empty(x.shape, dtype=x.dtype, device=next(iter(generator), x).device)
        for row, g in zip(noise, generator, strict=True):
            row.normal_(generator=g)
        return noise.to(x.device)                       # one copy for all images
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)


@torch.no_grad()
def sample(eps_model: EpsModel, x_T: Tensor, alpha_bar: Tensor,
           generator: Generators = None, clip: bool = False) -> Iterator[Tensor]:
    """Algorithm 2: yields x_{T-1}, ..., x_1, x_0, shaped like x_T, N(0, I) noise."""
    x_t = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        eps = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
        x_t = ddpm_step(x_t, t, eps, noise_like(x_t, generator), alpha_bar, clip)
        yield x_t
