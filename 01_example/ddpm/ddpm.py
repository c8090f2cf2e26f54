r"""DDPM, the whole algorithm: noise schedules, q_sample, the loss, one step back, sampling.

Equations are those of Ho, Jain and Abbeel 2020 (arXiv 2006.11239) unless another paper is named.
Time is theirs: t = 1..T is noisy, t = 0 is clean data. A schedule is the tensor alpha_bar of T + 1
float64 entries with alpha_bar[0] = 1, so alpha_bar[t] is read as written, and no step has a special
case. Images x are (N, ...) tensors in [-1, 1]; `t` is one int, or an integer tensor (N,) on
alpha_bar's device, one time per image. `eps_model(x_t, t)` is any callable that takes such a tensor
t (on x_t's device) and returns its estimate of the noise in x_t, shaped like x_t.
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

    The rescaling (Nichol and Dhariwal 2021, section 4) keeps x_T close to pure noise at any T.

    Returns: alpha_bar, (T + 1,), float64.
    Raises: ValueError if T < 1 or a rescaled beta is not in (0, 1), as for T <= 20 by default.
    """
    if T < 1:
        raise ValueError(f"a schedule needs at least one step, not T = {T}")
    beta = torch.linspace(beta_1, beta_T, T, dtype=torch.float64) * (1000 / T)
    if not (0 < beta.min() and max(beta_1, beta_T) * 1000 / T < 1):
        raise ValueError(f"the linear schedule rescaled to T = {T} has a beta outside (0, 1): "
                         "take more steps, or the cosine schedule")
    return _alpha_bar(beta)


def cosine_schedule(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Tensor:
    r"""alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi/2), beta capped at beta_max.

    Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17. alpha_bar is the product of the capped
    1 - beta, so that the two belong together.

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
    """alpha_bar_t, the product of 1 - beta up to t (below equation 4), from t = 0 on."""
    return torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)])


SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


# --- the forward process and its posterior --------------------------------------------------------

def per_image(c: Tensor, x: Tensor) -> Tensor:
    """The coefficient c, one for all images () or one each (N,), ready to multiply x (N, ...)."""
    assert c.ndim == 0 or c.shape == x.shape[:1], f"{tuple(c.shape)} for {tuple(x.shape)}"
    return c.to(x).view(-1, *[1] * (x.ndim - 1))


def q_sample(x_0: Tensor, t: int | Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (equation 4), for t = 0..T."""
    assert eps.shape == x_0.shape
    a_t = alpha_bar[t]
    return per_image(a_t.sqrt(), x_0) * x_0 + per_image((1 - a_t).sqrt(), x_0) * eps


def q_posterior(x_0: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor
                ) -> tuple[Tensor, Tensor]:
    """Mean, like x_t, and variance, (1 or N, 1, ...), of q(x_{t-1} | x_t, x_0), for t = 1..T.

    Equations 6 and 7. At t = 1 the mean is x_0 and the variance 0, since alpha_bar[0] = 1.
    """
    assert x_0.shape == x_t.shape
    a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
    beta = 1 - a_t / a_s
    mean = (per_image(a_s.sqrt() * beta / (1 - a_t), x_t) * x_0
            + per_image((1 - beta).sqrt() * (1 - a_s) / (1 - a_t), x_t) * x_t)
    return mean, per_image(beta * (1 - a_s) / (1 - a_t), x_t)


# --- training -------------------------------------------------------------------------------------

def l_simple(eps_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The mean over images and pixels of (eps - eps_model(x_t, t))^2 (equation 14, Algorithm 1)."""
    estimate = eps_model(q_sample(x_0, t, eps, alpha_bar), t.to(x_0.device))
    assert estimate.shape == eps.shape
    return (eps - estimate).square().mean()


def l_vlb(eps_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The bound L itself, in nats a pixel: l_simple with equation 12's weight, sigma_t^2 = beta_t.

    At t = 1, where the paper decodes pixels, this is the density of a Gaussian, up to a constant.
    """
    estimate = eps_model(q_sample(x_0, t, eps, alpha_bar), t.to(x_0.device))
    a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
    weight = (1 - a_t / a_s) / (2 * (a_t / a_s) * (1 - a_t))
    assert estimate.shape == eps.shape
    return (per_image(weight, x_0) * (eps - estimate).square()).mean()


def l_mu(mu_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The mean over images and pixels of (mu_tilde - mu_model(x_t, t))^2: the network predicts the
    mean of the step back, mu_tilde of equation 7."""
    return _mu_error(mu_model, x_0, t, eps, alpha_bar).square().mean()


def l_mu_vlb(mu_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The bound L, in nats a pixel, of a network that predicts mu_tilde (equation 8)."""
    beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
    error = _mu_error(mu_model, x_0, t, eps, alpha_bar)
    return (per_image(1 / (2 * beta), x_0) * error.square()).mean()


def _mu_error(mu_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """mu_tilde - mu_model(x_t, t), like x_0."""
    x_t = q_sample(x_0, t, eps, alpha_bar)
    estimate = mu_model(x_t, t.to(x_0.device))
    assert estimate.shape == x_0.shape
    return q_posterior(x_0, x_t, t, alpha_bar)[0] - estimate


def l_v(v_model: EpsModel, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The mean over images and pixels of (v - v_model(x_t, t))^2, for a network that predicts v.

    v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans and Ho 2022, arXiv 2202.00512,
    section 4) is eps where x_t is clean and -x_0 where it is noise: always what x_t hides.
    """
    estimate = v_model(q_sample(x_0, t, eps, alpha_bar), t.to(x_0.device))
    a_t = alpha_bar[t]
    v = per_image(a_t.sqrt(), x_0) * eps - per_image((1 - a_t).sqrt(), x_0) * x_0
    assert estimate.shape == v.shape
    return (v - estimate).square().mean()


def mu_to_eps(mu: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise in x_t, given the mean mu of the step back: equation 11 solved for eps."""
    assert mu.shape == x_t.shape
    a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
    towards = x_t - per_image((a_t / a_s).sqrt(), x_t) * mu
    return per_image((1 - a_t).sqrt() / (1 - a_t / a_s), x_t) * towards


def v_to_eps(v: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t: the noise in x_t, given v."""
    assert v.shape == x_t.shape
    a_t = alpha_bar[t]
    return per_image(a_t.sqrt(), x_t) * v + per_image((1 - a_t).sqrt(), x_t) * x_t


def eps_model_of_v(v_model: EpsModel, alpha_bar: Tensor) -> EpsModel:
    """A network that predicts v, as the eps_model that every sampler takes."""
    return lambda x_t, t: v_to_eps(v_model(x_t, t), x_t, t.to(alpha_bar.device), alpha_bar)


def eps_model_of_mu(mu_model: EpsModel, alpha_bar: Tensor) -> EpsModel:
    """A network that predicts mu_tilde, as the eps_model that every sampler takes."""
    return lambda x_t, t: mu_to_eps(mu_model(x_t, t), x_t, t.to(alpha_bar.device), alpha_bar)


def eps_model_of_eps(eps_model: EpsModel, alpha_bar: Tensor) -> EpsModel:
    """A network that predicts eps is one already."""
    return eps_model


# What a network predicts, and by which loss: the loss, and how the network becomes an eps_model.
LOSSES = {"v": l_v, "eps": l_simple, "eps-vlb": l_vlb, "mu": l_mu, "mu-vlb": l_mu_vlb}
EPS_MODELS = {"v": eps_model_of_v, "eps": eps_model_of_eps, "eps-vlb": eps_model_of_eps,
              "mu": eps_model_of_mu, "mu-vlb": eps_model_of_mu}


# --- sampling -------------------------------------------------------------------------------------

def predict_x_0(x_t: Tensor, t: int | Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The x_0 that noise eps turns into x_t: q_sample solved for x_0 (equation 15)."""
    assert eps.shape == x_t.shape
    a_t = alpha_bar[t]
    return per_image(1 / a_t.sqrt(), x_t) * x_t - per_image((1 / a_t - 1).sqrt(), x_t) * eps


def ddpm_step(x_t: Tensor, t: int | Tensor, eps: Tensor, alpha_bar: Tensor, z: Tensor,
              clip: bool = False) -> Tensor:
    """x_{t-1} from x_t and its predicted noise eps, with sigma_t^2 = beta_tilde_t (Algorithm 2).

    Algorithm 2's mean is q_posterior's at the predicted x_0. `clip` first brings that x_0 back to
    [-1, 1], where images live. z is standard normal noise shaped like x_t; at t = 1 its factor
    is 0.
    """
    assert z.shape == x_t.shape
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)
    if clip:
        x_0 = x_0.clamp(-1, 1)
    mean, variance = q_posterior(x_0, x_t, t, alpha_bar)
    return mean + variance.sqrt() * z


def noise_like(x: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise shaped like x (N, ...), drawn on the generator's device, or x's.

    A list of generators has one for each image, which is then the same in any batch.
    """
    if isinstance(generator, Sequence):
        return torch.cat([noise_like(x_i, g)
                          for x_i, g in zip(x.split(1), generator, strict=True)])
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)


@torch.no_grad()
def sample(eps_model: EpsModel, alpha_bar: Tensor, x_T: Tensor,
           generator: Generators = None, clip: bool = False) -> Iterator[Tensor]:
    """Algorithm 2: yields x_{T-1}, ..., x_1, x_0, each shaped like x_T, which is N(0, I) noise."""
    x_t = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        eps = eps_model(x_t, torch.full(x_t.shape[:1], t, device=x_t.device))
        x_t = ddpm_step(x_t, t, eps, alpha_bar, noise_like(x_t, generator), clip)
        yield x_t
