r"""DDIM, what is new over DDPM: long steps with any share of noise, and the way back to the noise.

Equations are those of Song, Meng and Ermon 2020 (arXiv 2010.02502), whose alpha is our alpha_bar:
T + 1 float64 entries, alpha_bar[0] = 1. Images, times, the order of arguments and `eps_model` are
those of ddpm.py: the network is trained as DDPM's is, since both have the same marginals
q(x_t | x_0). Noise comes from one generator for a batch, or from a list, one for each image.
"""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm import EpsModel, Generators, at, noise_like, per_image, predict_x_0, q_sample


def ddim_step(x_t: Tensor, t: int | Tensor, s: int | Tensor, eps: Tensor, z: Tensor,
              alpha_bar: Tensor, eta: float, clip: bool = False) -> Tensor:
    """x_s from x_t and its predicted noise eps, for 0 <= s < t (equations 12 and 16).

    eta = 0 adds no noise, eta = 1 as much as DDPM: from t to t - 1 it is then DDPM's
    step. `clip` brings the predicted x_0 back to [-1, 1], where images live, and
    derives eps from it anew. z is standard normal noise shaped like x_t. At s = 0 the
    predicted x_0 is returned.
    """
    assert eps.shape == z.shape == x_t.shape
    a_t, a_s = at(alpha_bar, t), at(alpha_bar, s)
    sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)                       # predicted x_0
    if clip:
        x_0 = x_0.clamp(-1, 1)
        eps = x_t - per_image(a_t.sqrt(), x_t) * x_0
        eps = eps / per_image((1 - a_t).sqrt(), x_t)
    return (per_image(a_s.sqrt(), x_t) * x_0
            + per_image((1 - a_s - sigma**2).sqrt(), x_t) * eps  # direction to x_t
            + per_image(sigma, x_t) * z)                         # random noise


def sigma_hat_step(x_t: Tensor, t: int | Tensor, s: int | Tensor, eps: Tensor, z: Tensor,
                   alpha_bar: Tensor, eta: float, clip: bool = False) -> Tensor:
    """ddim_step with the larger noise sigma-hat, sqrt(1 - a_t / a_s), of DDPM's beta (section 5).
    The factor of eps keeps the sigma of eta (the paper's is 1). A step to s = 0 adds no noise."""
    sigma_hat = (1 - at(alpha_bar, t) / at(alpha_bar, s)).sqrt() * (s > 0)
    quiet = ddim_step(x_t, t, s, eps, torch.zeros_like(z), alpha_bar, eta, clip)
    return quiet + per_image(sigma_hat, x_t) * z


def subsequence(T: int, S: int, kind: str = "linear") -> list[int]:
    """S of the times 1..T, increasing, the last one T: tau of appendix D.2.

    `linear` takes floor(c i) and `quadratic` floor(c i^2), i = 1..S, with c such that the last is
    T; where times would repeat, the i-th is i. Raises: ValueError unless 1 <= S <= T, or for
    another kind."""
    if not 1 <= S <= T:
        raise ValueError(f"a chain of T = {T} times has no sub-sequence of S = {S}")
    if kind == "linear":
        return [i * T // S for i in range(1, S + 1)]
    if kind == "quadratic":
        return [max(i, i * i * T // (S * S)) for i in range(1, S + 1)]
    raise ValueError(f"a sub-sequence is linear or quadratic, not {kind}")


def check_times(tau: list[int], alpha_bar: Tensor) -> None:
    """Raises: ValueError unless 1 <= tau_1 < ... < tau_S <= T, as the paper counts."""
    T = len(alpha_bar) - 1
    if not tau or list(tau) != sorted(set(tau)) or not 1 <= tau[0] <= tau[-1] <= T:
        raise ValueError(f"tau must increase within 1..{T}, as subsequence's: {list(tau)[:3]}...")


@torch.no_grad()
def sample(eps_model: EpsModel, x_T: Tensor, alpha_bar: Tensor, tau: list[int],
           eta: float = 0.0, generator: Generators = None, clip: bool = False,
           step: Callable = ddim_step) -> Iterator[Tensor]:
    """Yields x at each earlier time of tau and at last x_0, each shaped like x_T.

    x_T is N(0, I) noise at the last time of tau, which increases: 1 <= tau_1 < ... <
    tau_S <= T (else ValueError). `step` is ddim_step or sigma_hat_step. With eta = 0
    no noise is drawn.
    """
    check_times(tau, alpha_bar)
    x_t = x_T
    for t, s in zip(reversed(tau), reversed([0, *tau[:-1]]), strict=True):
        eps = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
        z = noise_like(x_t, generator) if eta else torch.zeros_like(x_t)
        x_t = step(x_t, t, s, eps, z, alpha_bar, eta, clip)
        yield x_t


@torch.no_grad()
def encode(eps_model: EpsModel, x_0: Tensor, alpha_bar: Tensor, tau: list[int]) -> Iterator[Tensor]:
    """Yields x at each time of tau, the last one the code x_T of the image x_0 (N, ...).

    These are Euler steps of the ODE behind eta = 0 (equation 14), from clean to noisy; sample with
    eta = 0 undoes them, exactly only in the limit of many steps (section 5.4). No network has seen
    t = 0: there it is asked at t = 1.
    """
    check_times(tau, alpha_bar)
    x_s = x_0
    for s, t in zip([0, *tau[:-1]], tau, strict=True):
        eps = eps_model(x_s, torch.full(x_s.shape[:1], max(s, 1), device=x_s.device))
        x_s = q_sample(predict_x_0(x_s, s, eps, alpha_bar), t, eps, alpha_bar)
        yield x_s


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at that share, 0..1, of the arc from a to b, (N, ...), image by image.

    Spherical interpolation (appendix D.5) keeps the length of noise, which a straight mixture of
    a and b would lose. Raises: ValueError for a share outside 0..1, or multiples of each other.
    """
    assert a.shape == b.shape
    angle = torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1).acos()
    if not 0 <= share <= 1 or (angle.sin() < 1e-3).any():
        raise ValueError(f"no arc has a point at {share}, or the noises are multiples")
    return (per_image(((1 - share) * angle).sin() / angle.sin(), a) * a
            + per_image((share * angle).sin() / angle.sin(), b) * b)
