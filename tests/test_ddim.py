"""ddim.py against DDPM, the marginals it must keep, and data whose best eps is known exactly."""
import math

import pytest
import torch

from ddim import ddim_step, sample, subsequence
from ddpm import (
    cosine_schedule,
    ddpm_step,
    linear_schedule,
    predict_x_0,
    q_sample,
)
from ddpm import sample as ddpm_sample

SCHEDULES = {"linear": linear_schedule(), "linear-80": linear_schedule(80),
             "cosine": cosine_schedule(), "cosine-15": cosine_schedule(15)}
every_schedule = pytest.mark.parametrize("alpha_bar", SCHEDULES.values(), ids=SCHEDULES.keys())
ETAS = [0.0, 0.35, 1.0]
HOPS = [(1000, 980), (1000, 1), (640, 40), (70, 69), (2, 1)]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b).to(a), rtol=tolerance, atol=tolerance)


def last(states):
    *_, x = states
    return x


# --- one step -------------------------------------------------------------------------------------

@pytest.mark.parametrize("clip", [False, True])
@every_schedule
def test_eta_1_to_the_time_before_is_ddpm(alpha_bar, clip, randn):
    """From t to t - 1 with eta = 1, DDIM's step is DDPM's, at every t."""
    t = torch.arange(1, len(alpha_bar))
    x_t, eps, z = randn(len(t), 5), randn(len(t), 5), randn(len(t), 5)
    close(ddim_step(x_t, t, t - 1, eps, alpha_bar, 1.0, z, clip),
          ddpm_step(x_t, t, eps, alpha_bar, z, clip))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", ETAS)
@every_schedule
def test_step_to_0_returns_the_predicted_x_0(alpha_bar, eta, clip, randn):
    """A step to s = 0 from any t ends at the predicted x_0, clipped if asked, whatever eta is."""
    t = torch.arange(1, len(alpha_bar))
    x_t, eps, z = randn(len(t), 5), randn(len(t), 5), randn(len(t), 5)
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)
    close(ddim_step(x_t, t, 0, eps, alpha_bar, eta, z, clip), x_0.clamp(-1, 1) if clip else x_0)


@pytest.mark.parametrize(("t", "s"), HOPS)
@pytest.mark.parametrize("eta", [0.0, 0.2, 0.35, 1.0])
def test_step_keeps_the_marginals(eta, t, s):
    """If x_t has q's law given x_0, so has x_s: mean sqrt(a_s) x_0, variance 1 - a_s, exactly."""
    for alpha_bar in (SCHEDULES["linear"], SCHEDULES["cosine"]):
        # A step is linear in (x_0, eps, z): the columns here are 1.7 x_0, eps and z alone.
        x_0 = torch.tensor([1.7, 0, 0], dtype=torch.float64)
        eps = torch.tensor([0, 1, 0], dtype=torch.float64)
        z = torch.tensor([0, 0, 1], dtype=torch.float64)
        x_t = q_sample(x_0, t, eps, alpha_bar)
        mean, of_eps, of_z = ddim_step(x_t, t, s, eps, alpha_bar, eta, z)
        close(mean, 1.7 * alpha_bar[s].sqrt(), 1e-10)
        close(of_eps**2 + of_z**2, 1 - alpha_bar[s], 1e-10)


@pytest.mark.parametrize(("t", "s"), HOPS)
@pytest.mark.parametrize("eta", [0.2, 0.35, 1.0])
def test_step_adds_eta_times_equation_16(eta, t, s, randn):
    """z enters times eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s)."""
    alpha_bar, x, eps, z = SCHEDULES["linear"], randn(4), randn(4), randn(4)
    a_t, a_s = alpha_bar[t].item(), alpha_bar[s].item()
    sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
    still = ddim_step(x, t, s, eps, alpha_bar, eta, torch.zeros_like(x))
    close(ddim_step(x, t, s, eps, alpha_bar, eta, z) - still, sigma * z, 1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_chain_keeps_the_marginals_as_drawn(eta, randn):
    """Down a chain with the true x_0, mean and variance stay q's within 4 standard errors."""
    alpha_bar, n, x_0 = SCHEDULES["linear"], 20_000, torch.tensor(0.6, dtype=torch.float64)
    tau = subsequence(1000, 8, "quadratic")
    x = q_sample(x_0.expand(n), 1000, randn(n), alpha_bar)
    for t, s in zip(tau[:0:-1], tau[-2::-1], strict=True):
        eps = (x - alpha_bar[t].sqrt() * x_0) / (1 - alpha_bar[t]).sqrt()
        x = ddim_step(x, t, s, eps, alpha_bar, eta, randn(n))
        variance = (1 - alpha_bar[s]).item()
        assert x.mean().item() == pytest.approx((alpha_bar[s].sqrt() * x_0).item(),
                                                abs=4 * math.sqrt(variance / n))
        assert x.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))


@pytest.mark.parametrize("eta", ETAS)
def test_after_a_clip_eps_is_derived_anew(eta, randn):
    """The eps in the step is the one that makes x_t of the clipped x_0."""
    alpha_bar = SCHEDULES["linear"]
    t, s = torch.tensor([1000, 700, 31]), torch.tensor([900, 350, 2])
    x_t, eps = 2 * randn(3, 6), randn(3, 6)
    a_t, a_s = alpha_bar[t][:, None], alpha_bar[s][:, None]
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)
    assert (x_0.abs() > 1).any() and (x_0.abs() < 1).any()
    x_0 = x_0.clamp(-1, 1)
    sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
    x_s = ddim_step(x_t, t, s, eps, alpha_bar, eta, torch.zeros_like(x_t), clip=True)
    used = (x_s - a_s.sqrt() * x_0) / (1 - a_s - sigma**2).sqrt()
    close(a_t.sqrt() * x_0 + (1 - a_t).sqrt() * used, x_t, 1e-10)


def test_int_times_equal_tensor_times_per_image(randn):
    """A batch of times t and s gives each image what its own ints give it alone."""
    alpha_bar = SCHEDULES["cosine"]
    t, s = torch.tensor([1, 9, 500, 1000]), torch.tensor([0, 1, 77, 3])
    x, eps, z = randn(4, 1, 2, 3), randn(4, 1, 2, 3), randn(4, 1, 2, 3)
    for clip in (False, True):
        batch = ddim_step(x, t, s, eps, alpha_bar, 0.35, z, clip)
        for i in range(4):
            one = slice(i, i + 1)
            alone = ddim_step(x[one], t[i].item(), s[i].item(), eps[one], alpha_bar, 0.35, z[one],
                              clip)
            close(batch[one], alone)


def test_float32_stays_float32(randn):
    """Images keep their dtype though alpha_bar is float64."""
    x, alpha_bar = randn(3, 2).float(), SCHEDULES["linear"]
    assert ddim_step(x, 90, 7, x, alpha_bar, 0.35, x, clip=True).dtype == torch.float32
    assert last(sample(lambda x, t: x, alpha_bar, x, [5, 1000])).dtype == torch.float32


WRONG = {
    "eps": lambda a, x, t: ddim_step(x, t, 1, x[:, :1], a, 0.5, x),
    "z": lambda a, x, t: ddim_step(x, t, 1, x, a, 0.5, x[:1]),
    "t": lambda a, x, t: ddim_step(x, t[:1], 1, x, a, 0.5, x),
    "t and s as columns": lambda a, x, t: ddim_step(x, t[:, None], t[:, None] - 1, x, a, 0.5, x),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_shapes_that_would_broadcast_are_refused(call, randn):
    """A shape that PyTorch would broadcast in silence stops the computation."""
    with pytest.raises(AssertionError):
        call(SCHEDULES["linear"], randn(3, 3), torch.tensor([4, 5, 6]))


# --- the sub-sequence -----------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_subsequence_is_S_increasing_times_that_end_at_T(kind):
    """For every S <= T up to 40, and for long chains: S increasing ints of 1..T, the last is T."""
    pairs = [(T, S) for T in range(1, 41) for S in range(1, T + 1)]
    for T, S in [*pairs, (1000, 10), (1000, 50), (1000, 333), (1000, 999), (1000, 1000), (4000, 7)]:
        tau = subsequence(T, S, kind)
        assert len(tau) == S and tau[-1] == T and tau[0] >= 1, (T, S)
        assert all(type(t) is int for t in tau), (T, S)
        assert all(s < t for s, t in zip(tau, tau[1:], strict=False)), (T, S)


@pytest.mark.parametrize(("T", "S", "kind", "tau"), [
    (1000, 50, "linear", list(range(20, 1001, 20))),
    (10, 4, "linear", [2, 5, 7, 10]),
    (1000, 10, "quadratic", [10, 40, 90, 160, 250, 360, 490, 640, 810, 1000]),
    (10, 4, "quadratic", [1, 2, 5, 10]),
    (7, 7, "quadratic", [1, 2, 3, 4, 5, 6, 7])])
def test_subsequence_by_hand(T, S, kind, tau):
    """floor(c i) and floor(c i^2) with c such that the last is T; linear is the default."""
    assert subsequence(T, S, kind) == tau
    assert kind != "linear" or subsequence(T, S) == tau


@pytest.mark.parametrize(("T", "S", "kind"), [
    (10, 0, "linear"), (10, 11, "linear"), (10, -2, "quadratic"), (10, 11, "quadratic"),
    (0, 0, "linear"), (10, 5, "cubic")])
def test_subsequence_refuses(T, S, kind):
    """S < 1, S > T and unknown kinds are refused."""
    with pytest.raises(ValueError):
        subsequence(T, S, kind)


# --- sampling -------------------------------------------------------------------------------------

@pytest.mark.parametrize("clip", [False, True])
@every_schedule
def test_eta_1_over_every_time_is_ddpm(alpha_bar, clip, mixture, randn):
    """All T times with eta = 1 and the same noise: every state of the run is DDPM's."""
    T, model = len(alpha_bar) - 1, mixture.eps_model(alpha_bar)
    x_T = 1.3 * randn(9)
    ours = sample(model, alpha_bar, x_T, list(range(1, T + 1)), 1.0,
                  torch.Generator().manual_seed(4), clip)
    theirs = ddpm_sample(model, alpha_bar, x_T, torch.Generator().manual_seed(4), clip)
    close(torch.stack(list(ours)), torch.stack(list(theirs)))


def test_sample_visits_tau_backwards_and_ends_at_0(randn):
    """The model is asked at tau from T down; the states are the steps between, down to s = 0."""
    alpha_bar, tau, times = SCHEDULES["linear-80"], [3, 17, 44, 80], []

    def model(x, t):
        assert t.shape == (5,) and t.dtype == torch.int64 and (t == t[0]).all()
        times.append(t[0].item())
        return (x + t[:, None] / 7).sin()
    x = randn(5, 2)
    states = list(sample(model, alpha_bar, x, tau, 0.35, torch.Generator().manual_seed(5), True))
    assert times == [80, 44, 17, 3] and len(states) == 4
    noise = torch.Generator().manual_seed(5)
    for (t, s), state in zip([(80, 44), (44, 17), (17, 3), (3, 0)], states, strict=True):
        z = torch.randn(5, 2, dtype=torch.float64, generator=noise)
        x = ddim_step(x, t, s, model(x, torch.full((5,), t)), alpha_bar, 0.35, z, True)
        assert torch.equal(x, state)


def test_eta_0_is_deterministic_and_needs_no_noise(mixture, randn):
    """With eta = 0, the default, the noise does not change x_0; with eta > 0 it does."""
    alpha_bar, x_T, tau = SCHEDULES["linear"], randn(9), subsequence(1000, 6)
    model = mixture.eps_model(alpha_bar)

    def x_0(seed, *eta):
        noise = torch.Generator().manual_seed(seed)
        return last(sample(model, alpha_bar, x_T, tau, *eta, generator=noise))
    assert torch.equal(x_0(1), x_0(2)) and torch.equal(x_0(1), x_0(3, 0.0))
    assert not torch.equal(x_0(1, 0.35), x_0(2, 0.35))
    step = [ddim_step(x_T, 90, 20, x_T, alpha_bar, 0.0, randn(9)) for _ in range(2)]
    assert torch.equal(*step)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("eta", "spread", "distance"), [
    (0.0, 0.06, 0.02), (0.5, 0.09, 0.025), (1.0, 0.12, 0.04)])
def test_exact_eps_recovers_the_mixture_in_50_steps(eta, spread, distance, clip, mixture, randn):
    """With the best eps, 50 of 1000 times give the data's law, the better the smaller eta is."""
    n, alpha_bar = 10_000, SCHEDULES["cosine"]
    x = last(sample(mixture.eps_model(alpha_bar), alpha_bar, randn(n), subsequence(1000, 50), eta,
                    torch.Generator().manual_seed(8), clip))
    assert x.mean().item() == pytest.approx(mixture.mean, abs=0.02)
    assert x.var().item() == pytest.approx(mixture.variance, rel=spread)
    assert mixture.kolmogorov_smirnov(x) < distance     # 0.016 is the 1% quantile of exact draws
