r"""DPM-Solver++(2M): DDIM's hop, aimed by the last two predictions of x_0, for 10 to 20 calls.

Equations are those of Lu et al. 2022 (arXiv 2211.01095, algorithm 2) in the names of ddim.py: their
alpha_t is sqrt(alpha_bar_t), their sigma_t is sqrt(1 - alpha_bar_t). The ODE of eta = 0 is solved
in lambda_t = log(alpha_t / sigma_t), half the log of the signal-to-noise ratio. On a hop from t to
s the predicted x_0 moves; DDIM holds it still, which is of first order. Here a line through the
last two predictions says where it will be halfway: second order, for the same number of calls.
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from ddim import check_times
from ddpm import EpsModel, Generators, at, per_image, predict_x_0


def half_log_snr(t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """lambda_t = log(sqrt(alpha_bar_t) / sqrt(1 - alpha_bar_t)), () or (N,); infinite at t = 0."""
    a_t = at(alpha_bar, t)
    return (a_t / (1 - a_t)).log() / 2


def dpm_step(x_t: Tensor, x_0: Tensor, t: int | Tensor, s: int | Tensor, alpha_bar: Tensor
             ) -> Tensor:
    """x_s from x_t, s < t, aiming at the clean image x_0: for the predicted x_0 DDIM's, eta = 0.

    It is (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) x_0, h = lambda_s - lambda_t, written so
    that nothing is infinite at s = 0, where x_0 itself is returned.
    """
    assert x_0.shape == x_t.shape
    a_t, a_s = at(alpha_bar, t), at(alpha_bar, s)
    shrink = ((1 - a_s) / (1 - a_t)).sqrt()                     # sigma_s / sigma_t
    return per_image(shrink, x_t) * x_t + per_image(a_s.sqrt() - shrink * a_t.sqrt(), x_t) * x_0


@torch.no_grad()
def sample(eps_model: EpsModel, x_T: Tensor, alpha_bar: Tensor, tau: list[int],
           generator: Generators = None, clip: bool = False) -> Iterator[Tensor]:
    """Yields x at each earlier time of tau and at last x_0, each shaped like x_T, N(0, I) noise.

    tau is as for DDIM. The first hop, with no prediction before it, is of first order, and so is
    the last, where lambda is infinite. `clip` brings each predicted x_0 back to [-1, 1] before the
    line is drawn. No noise is drawn: `generator` is there since every sampler is given one.
    """
    check_times(tau, alpha_bar)
    x_t, before, u = x_T, None, None                            # u: the time before t
    for t, s in zip(reversed(tau), reversed([0, *tau[:-1]]), strict=True):
        eps = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
        aim = x_0 = predict_x_0(x_t, t, eps, alpha_bar)
        if clip:
            aim = x_0 = x_0.clamp(-1, 1)
        if before is not None and s > 0:
            lambda_u, lambda_t, lambda_s = (half_log_snr(r, alpha_bar) for r in (u, t, s))
            half = (lambda_s - lambda_t) / 2 / (lambda_t - lambda_u)        # 1 / (2 r)
            aim = x_0 + per_image(half, x_t) * (x_0 - before)
        x_t = dpm_step(x_t, aim, t, s, alpha_bar)
        before, u = x_0, t
        yield x_t


def even_in_lambda(S: int, alpha_bar: Tensor, ends: tuple[float, float] = (-2.75, 2.25)
                   ) -> list[int]:
    """S of the times 1..T, increasing, the last one T, the others evenly spread in lambda.

    Their lambdas run between the two ends, noisy and clean, as near as integer times allow; where
    times would repeat, the next free one is taken. (The authors' code calls this spacing logSNR.)
    The default ends suit 10 to 20 calls on MNIST.
    Raises: ValueError unless 1 <= S <= T and the ends increase.
    """
    T = len(alpha_bar) - 1
    if not (1 <= S <= T and ends[0] < ends[1]):
        raise ValueError(f"of T = {T} times none are S = {S} with lambda from one to the other "
                         f"of {ends}")
    known, tau = half_log_snr(torch.arange(1, T + 1), alpha_bar).cpu(), [0]
    aims = torch.linspace(ends[1], ends[0], S - 1, dtype=known.dtype)
    for i, aim in enumerate(aims, 1):
        nearest = 1 + int((known - aim).abs().argmin())
        tau.append(min(max(nearest, tau[-1] + 1), T - S + i))   # none twice, room for the rest
    return [*tau[1:], T]
