r"""DDIM, what is new over DDPM: a step to any earlier time with any share of noise, fewer times.

Equations are those of Song, Meng and Ermon 2020 (arXiv 2010.02502), whose alpha is our alpha_bar:
T + 1 float64 entries, alpha_bar[0] = 1. Images x are (N, ...) tensors in [-1, 1]; times t and s are
ints, or integer tensors (N,) on alpha_bar's device. `eps_model(x_t, t)` is any callable that takes
an integer tensor t (N,) on x_t's device and returns its estimate of the noise in x_t, shaped like
x_t: it is trained as DDPM's is, since both have the same marginals q(x_t | x_0).
"""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

EpsModel = Callable[[Tensor, Tensor], Tensor]


def per_image(c: Tensor, x: Tensor) -> Tensor:
    """The coefficient c, one for all images () or one each (N,), ready to multiply x (N, ...)."""
    assert c.ndim == 0 or c.shape == x.shape[:1], f"{tuple(c.shape)} for {tuple(x.shape)}"
    return c.to(x).view(-1, *[1] * (x.ndim - 1))


def ddim_step(x_t: Tensor, t: int | Tensor, s: int | Tensor, eps: Tensor, alpha_bar: Tensor,
              eta: float, z: Tensor, clip: bool = False) -> Tensor:
    """x_s from x_t and its predicted noise eps, for times 0 <= s < t (equations 12 and 16).

    eta = 0 adds no noise, eta = 1 as much as DDPM: from t to t - 1 it is then DDPM's step. `clip`
    brings the predicted x_0 back to [-1, 1], where images live, and derives eps from it anew. z is
    standard normal noise shaped like x_t. At s = 0 the predicted x_0 is returned.
    """
    assert eps.shape == z.shape == x_t.shape
    a_t, a_s = alpha_bar[t], alpha_bar[s]
    sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
    x_0 = per_image(1 / a_t.sqrt(), x_t) * x_t - per_image((1 / a_t - 1).sqrt(), x_t) * eps
    if clip:
        x_0 = x_0.clamp(-1, 1)
        eps = (x_t - per_image(a_t.sqrt(), x_t) * x_0) / per_image((1 - a_t).sqrt(), x_t)
    return (per_image(a_s.sqrt(), x_t) * x_0
            + per_image((1 - a_s - sigma**2).sqrt(), x_t) * eps
            + per_image(sigma, x_t) * z)


def subsequence(T: int, S: int, kind: str = "linear") -> list[int]:
    """S of the times 1..T, increasing, the last one T: tau of appendix D.2.

    `linear` takes floor(c i) and `quadratic` floor(c i^2) for i = 1..S, with c such that the last
    is T; where the squares are so dense that times would repeat, the i-th time is i.
    Raises: ValueError unless 1 <= S <= T, or for another kind.
    """
    if not 1 <= S <= T:
        raise ValueError(f"a chain of T = {T} times has no sub-sequence of S = {S}")
    if kind == "linear":
        return [i * T // S for i in range(1, S + 1)]
    if kind == "quadratic":
        return [max(i, i * i * T // (S * S)) for i in range(1, S + 1)]
    raise ValueError(f"a sub-sequence is linear or quadratic, not {kind}")


@torch.no_grad()
def sample(eps_model: EpsModel, alpha_bar: Tensor, x_T: Tensor, tau: list[int], eta: float = 0.0,
           generator: torch.Generator | None = None, clip: bool = False) -> Iterator[Tensor]:
    """Yields x at each earlier time of tau and at last x_0, each shaped like x_T, N(0, I) noise.

    tau is increasing and ends at T, where x_T lives. The noise is drawn on the generator's device.
    """
    x_t = x_T
    home = x_T.device if generator is None else generator.device
    for t, s in zip(reversed(tau), reversed([0, *tau[:-1]]), strict=True):
        eps = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
        z = torch.randn(x_t.shape, dtype=x_t.dtype, device=home, generator=generator).to(x_t.device)
        x_t = ddim_step(x_t, t, s, eps, alpha_bar, eta, z, clip)
        yield x_t
