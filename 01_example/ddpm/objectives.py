r"""What a network may predict, and with which weight its error counts, as one table.

DDPM predicts eps (Ho, Jain and Abbeel 2020, section 3.2); v is of Salimans and Ho 2022
(arXiv 2202.00512, section 4). A row says what the target is, how an estimate of it becomes eps,
which all samplers take, and how a square error is weighted: not at all, or as in the bound L
(equations 8 and 12, with sigma_t^2 = beta_t; in nats per pixel, one term of L up to constants: T
times its mean over t is the bound). At t = 1, where the paper decodes pixels, that weight belongs
to the density of a Gaussian. Shapes and times are those of ddpm.py.
"""
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ddpm import EpsModel, at, per_image, q_posterior, q_sample

Model = Callable[[Tensor, Tensor], Tensor]      # model(x_t, t), whatever it predicts


def eps_target(x_0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise itself."""
    return eps


def v_target(x_0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor
             ) -> Tensor:
    """v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0: eps where x_t is clean,
    and -x_0 where it is noise, so always what x_t hides."""
    a_t = at(alpha_bar, t)
    return per_image(a_t.sqrt(), x_0) * eps - per_image((1 - a_t).sqrt(), x_0) * x_0


def mu_target(x_0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """mu_tilde, the mean of the step back (equation 7)."""
    return q_posterior(x_0, x_t, t, alpha_bar)[0]


def eps_to_eps(eps: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """Nothing to do."""
    return eps


def v_to_eps(v: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t: the noise, given v."""
    assert v.shape == x_t.shape
    a_t = at(alpha_bar, t)
    return per_image(a_t.sqrt(), x_t) * v + per_image((1 - a_t).sqrt(), x_t) * x_t


def mu_to_eps(mu: Tensor, x_t: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise in x_t, given the mean mu of the step back: equation 11 solved for eps."""
    assert mu.shape == x_t.shape
    a_t, a_s = at(alpha_bar, t), at(alpha_bar, t - 1)
    towards = x_t - per_image((a_t / a_s).sqrt(), x_t) * mu
    return per_image((1 - a_t).sqrt() / (1 - a_t / a_s), x_t) * towards


def bound_of_eps(t: Tensor, alpha_bar: Tensor) -> Tensor:
    """The weight of |eps - eps_model|^2 in the bound (equation 12), (N,)."""
    a_t, a_s = at(alpha_bar, t), at(alpha_bar, t - 1)
    return (1 - a_t / a_s) / (2 * (a_t / a_s) * (1 - a_t))


def bound_of_mu(t: Tensor, alpha_bar: Tensor) -> Tensor:
    """The weight of |mu_tilde - mu_model|^2 in the bound (equation 8), (N,)."""
    return 1 / (2 * (1 - at(alpha_bar, t) / at(alpha_bar, t - 1)))


class Objective(NamedTuple):
    """One row of the table: target, conversion to eps, weight (None: 1 for every t)."""

    target: Callable[..., Tensor]
    to_eps: Callable[..., Tensor]
    weight: Callable[..., Tensor] | None = None

    def loss(self, model: Model, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
        """The mean over images and pixels of weight (target - model(x_t, t))^2."""
        x_t = q_sample(x_0, t, eps, alpha_bar)
        estimate = model(x_t, t.to(x_0.device))
        assert estimate.shape == x_0.shape
        error = (self.target(x_0, x_t, t, eps, alpha_bar) - estimate).square()
        if self.weight:
            error = per_image(self.weight(t, alpha_bar), x_0) * error
        return error.mean()

    def eps_model(self, model: Model, alpha_bar: Tensor) -> EpsModel:
        """The model, whatever it predicts, as the eps_model that every sampler takes."""
        return lambda x_t, t: self.to_eps(model(x_t, t), x_t, t, alpha_bar)


OBJECTIVES = {
    "v": Objective(v_target, v_to_eps),
    "eps": Objective(eps_target, eps_to_eps),           # l_simple of ddpm.py
    "eps-vlb": Objective(eps_target, eps_to_eps, bound_of_eps),
    "mu": Objective(mu_target, mu_to_eps),
    "mu-vlb": Objective(mu_target, mu_to_eps, bound_of_mu),
}
