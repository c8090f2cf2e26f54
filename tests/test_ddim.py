"""ddim.py against DDPM, the marginals it must keep, and data whose best eps is known exactly."""
import math

import pytest
import torch

from ddim import (
    ddim_step,
    encode,
    noise_like,
    sample,
    sigma_hat_step,
    slerp,
    subsequence,
)
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
    close(ddim_step(x_t, t, t - 1, eps, z, alpha_bar, 1.0, clip),
          ddpm_step(x_t, t, eps, z, alpha_bar, clip))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", ETAS)
@every_schedule
def test_step_to_0_returns_the_predicted_x_0(alpha_bar, eta, clip, randn):
    """A step to s = 0 from any t ends at the predicted x_0, clipped if asked, whatever eta is."""
    t = torch.arange(1, len(alpha_bar))
    x_t, eps, z = randn(len(t), 5), randn(len(t), 5), randn(len(t), 5)
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)
    close(ddim_step(x_t, t, 0, eps, z, alpha_bar, eta, clip), x_0.clamp(-1, 1) if clip else x_0)


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
        mean, of_eps, of_z = ddim_step(x_t, t, s, eps, z, alpha_bar, eta)
        close(mean, 1.7 * alpha_bar[s].sqrt(), 1e-10)
        close(of_eps**2 + of_z**2, 1 - alpha_bar[s], 1e-10)


@pytest.mark.parametrize(("t", "s"), HOPS)
@pytest.mark.parametrize("eta", [0.2, 0.35, 1.0])
def test_step_adds_eta_times_equation_16(eta, t, s, randn):
    """z enters times eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s)."""
    alpha_bar, x, eps, z = SCHEDULES["linear"], randn(4), randn(4), randn(4)
    a_t, a_s = alpha_bar[t].item(), alpha_bar[s].item()
    sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
    still = ddim_step(x, t, s, eps, torch.zeros_like(x), alpha_bar, eta)
    close(ddim_step(x, t, s, eps, z, alpha_bar, eta) - still, sigma * z, 1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_chain_keeps_the_marginals_as_drawn(eta, randn):
    """Down a chain with the true x_0, mean and variance stay q's within 4 standard errors."""
    alpha_bar, n, x_0 = SCHEDULES["linear"], 20_000, torch.tensor(0.6, dtype=torch.float64)
    tau = subsequence(1000, 8, "quadratic")
    x = q_sample(x_0.expand(n), 1000, randn(n), alpha_bar)
    for t, s in zip(tau[:0:-1], tau[-2::-1], strict=True):
        eps = (x - alpha_bar[t].sqrt() * x_0) / (1 - alpha_bar[t]).sqrt()
        x = ddim_step(x, t, s, eps, randn(n), alpha_bar, eta)
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
    x_s = ddim_step(x_t, t, s, eps, torch.zeros_like(x_t), alpha_bar, eta, clip=True)
    used = (x_s - a_s.sqrt() * x_0) / (1 - a_s - sigma**2).sqrt()
    close(a_t.sqrt() * x_0 + (1 - a_t).sqrt() * used, x_t, 1e-10)


def test_int_times_equal_tensor_times_per_image(randn):
    """A batch of times t and s gives each image what its own ints give it alone."""
    alpha_bar = SCHEDULES["cosine"]
    t, s = torch.tensor([1, 9, 500, 1000]), torch.tensor([0, 1, 77, 3])
    x, eps, z = randn(4, 1, 2, 3), randn(4, 1, 2, 3), randn(4, 1, 2, 3)
    for clip in (False, True):
        batch = ddim_step(x, t, s, eps, z, alpha_bar, 0.35, clip)
        for i in range(4):
            one = slice(i, i + 1)
            alone = ddim_step(x[one], t[i].item(), s[i].item(), eps[one], z[one], alpha_bar, 0.35,
                              clip)
            close(batch[one], alone)


def test_float32_stays_float32(randn):
    """Images keep their dtype though alpha_bar is float64."""
    x, alpha_bar = randn(3, 2).float(), SCHEDULES["linear"]
    assert ddim_step(x, 90, 7, x, x, alpha_bar, 0.35, clip=True).dtype == torch.float32
    assert last(sample(lambda x, t: x, x, alpha_bar, [5, 1000])).dtype == torch.float32


WRONG = {
    "eps": lambda a, x, t: ddim_step(x, t, 1, x[:, :1], x, a, 0.5),
    "z": lambda a, x, t: ddim_step(x, t, 1, x, x[:1], a, 0.5),
    "t": lambda a, x, t: ddim_step(x, t[:1], 1, x, x, a, 0.5),
    "t and s as columns": lambda a, x, t: ddim_step(x, t[:, None], t[:, None] - 1, x, x, a, 0.5),
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
    ours = sample(model, x_T, alpha_bar, list(range(1, T + 1)), 1.0,
                  torch.Generator().manual_seed(4), clip)
    theirs = ddpm_sample(model, x_T, alpha_bar, torch.Generator().manual_seed(4), clip)
    close(torch.stack(list(ours)), torch.stack(list(theirs)))


def test_sample_visits_tau_backwards_and_ends_at_0(randn):
    """The model is asked at tau from T down; the states are the steps between, down to s = 0."""
    alpha_bar, tau, times = SCHEDULES["linear-80"], [3, 17, 44, 80], []

    def model(x, t):
        assert t.shape == (5,) and t.dtype == torch.int64 and (t == t[0]).all()
        times.append(t[0].item())
        return (x + t[:, None] / 7).sin()
    x = randn(5, 2)
    states = list(sample(model, x, alpha_bar, tau, 0.35, torch.Generator().manual_seed(5), True))
    assert times == [80, 44, 17, 3] and len(states) == 4
    noise = torch.Generator().manual_seed(5)
    for (t, s), state in zip([(80, 44), (44, 17), (17, 3), (3, 0)], states, strict=True):
        z = torch.randn(5, 2, dtype=torch.float64, generator=noise)
        x = ddim_step(x, t, s, model(x, torch.full((5,), t)), z, alpha_bar, 0.35, True)
        assert torch.equal(x, state)


def test_eta_0_is_deterministic_and_needs_no_noise(mixture, randn):
    """With eta = 0, the default, the noise does not change x_0; with eta > 0 it does."""
    alpha_bar, x_T, tau = SCHEDULES["linear"], randn(9), subsequence(1000, 6)
    model = mixture.eps_model(alpha_bar)

    def x_0(seed, *eta):
        noise = torch.Generator().manual_seed(seed)
        return last(sample(model, x_T, alpha_bar, tau, *eta, generator=noise))
    assert torch.equal(x_0(1), x_0(2)) and torch.equal(x_0(1), x_0(3, 0.0))
    assert not torch.equal(x_0(1, 0.35), x_0(2, 0.35))
    step = [ddim_step(x_T, 90, 20, x_T, randn(9), alpha_bar, 0.0) for _ in range(2)]
    assert torch.equal(*step)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("eta", "spread", "distance"), [
    (0.0, 0.06, 0.02), (0.5, 0.09, 0.025), (1.0, 0.12, 0.04)])
def test_exact_eps_recovers_the_mixture_in_50_steps(eta, spread, distance, clip, mixture, randn):
    """With the best eps, 50 of 1000 times give the data's law, the better the smaller eta is."""
    n, alpha_bar = 10_000, SCHEDULES["cosine"]
    x = last(sample(mixture.eps_model(alpha_bar), randn(n), alpha_bar, subsequence(1000, 50), eta,
                    torch.Generator().manual_seed(8), clip))
    assert x.mean().item() == pytest.approx(mixture.mean, abs=0.02)
    assert x.var().item() == pytest.approx(mixture.variance, rel=spread)
    assert mixture.kolmogorov_smirnov(x) < distance     # 0.016 is the 1% quantile of exact draws


# --- noise: one generator, or one for each image --------------------------------------------------

def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_an_image_gets_the_same_noise_in_any_batch():
    """With a list of generators, an image's draws depend on its own generator alone."""
    x = torch.empty(5, 1, 3, 2)
    together, generators = [], seeded(3, 14, 15, 92, 65)
    for _ in range(2):
        together.append(noise_like(x, generators))
    for i, generator in enumerate(seeded(3, 14, 15, 92, 65)):
        for draw in together:
            assert torch.equal(draw[i:i + 1], noise_like(x[:1], generator))
    others = noise_like(x[:2], seeded(92, 3))
    assert torch.equal(others, together[0][[3, 0]])
    flat = torch.cat(together).flatten()
    assert len(flat.unique()) == len(flat)


def test_noise_is_standard_normal_like_x():
    """Mean 0, variance 1, shape and dtype of x, from one generator, from a list, from none."""
    for generator in (seeded(1)[0], seeded(*range(40)), None):
        z = noise_like(torch.empty(40, 50, 50, dtype=torch.float64), generator)
        assert z.shape == (40, 50, 50) and z.dtype == torch.float64
        assert abs(z.mean()) < 0.016 and abs(z.var() - 1) < 0.023          # 5 standard errors
        assert 2.9 < z.pow(4).mean() < 3.1                                 # a uniform law has 1.8


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_a_wrong_number_of_generators_is_refused(n):
    """As many generators as images, no fewer and no more."""
    with pytest.raises(ValueError):
        noise_like(torch.empty(3, 1, 2, 2), seeded(*range(n)))


def test_a_sample_is_the_same_in_any_batch(mixture, randn):
    """With a generator of its own an image ends the same, whatever else is drawn beside it."""
    alpha_bar, x_T = SCHEDULES["linear-80"], randn(4)
    model, tau = mixture.eps_model(alpha_bar), subsequence(80, 7)
    for eta, step in ((0.0, ddim_step), (0.35, ddim_step), (1.0, sigma_hat_step)):
        whole = last(sample(model, x_T, alpha_bar, tau, eta, seeded(1, 2, 3, 4), step=step))
        parts = [last(sample(model, x_T[i], alpha_bar, tau, eta, generators, step=step))
                 for i, generators in (([0], seeded(1)), ([1, 2, 3], seeded(2, 3, 4)))]
        close(torch.cat(parts), whole)


def test_eta_0_draws_nothing_from_the_generator(mixture, randn):
    """A generator is untouched by eta = 0, and used by any eta > 0."""
    alpha_bar, tau = SCHEDULES["linear-80"], [10, 50, 80]
    model = mixture.eps_model(alpha_bar)
    one, *each = generators = seeded(6, 7, 8, 9)
    for eta, untouched in ((0.0, True), (0.2, False)):
        for generator in (one, each):
            last(sample(model, randn(3), alpha_bar, tau, eta, generator))
        for g, fresh in zip(generators, seeded(6, 7, 8, 9), strict=True):
            assert torch.equal(g.get_state(), fresh.get_state()) == untouched


# --- sigma-hat ------------------------------------------------------------------------------------

@pytest.mark.parametrize("clip", [False, True])
@every_schedule
def test_sigma_hat_without_noise_is_the_step_of_eta_1(alpha_bar, clip, randn):
    """Where z = 0 only the factor of eps is left, and that is eta's: 1 in the paper."""
    t = torch.arange(1, len(alpha_bar))
    x_t, eps = randn(len(t), 5), randn(len(t), 5)
    silent = torch.zeros_like(eps)
    for eta in (1.0, 0.35):
        for s in (t - 1, t // 2):
            close(sigma_hat_step(x_t, t, s, eps, silent, alpha_bar, eta, clip),
                  ddim_step(x_t, t, s, eps, silent, alpha_bar, eta, clip))


@pytest.mark.parametrize("eta", [1.0, 0.35])
@every_schedule
def test_sigma_hats_variance(alpha_bar, eta, randn):
    """Noise of variance 1 - a_t / a_s, whatever eta is; none in a step to 0."""
    T = len(alpha_bar) - 1
    x_t, eps, z = randn(3, 5), randn(3, 5), randn(3, 5)
    z[z.abs() < 0.1] = 0.1
    for t, s in [(T, T // 2), (T, 1), (T // 2, T // 3), (9, 2), (2, 1)]:
        noise = (sigma_hat_step(x_t, t, s, eps, z, alpha_bar, eta)
                 - sigma_hat_step(x_t, t, s, eps, 0 * z, alpha_bar, eta)) / z
        close(noise**2, (1 - alpha_bar[t] / alpha_bar[s]).expand(3, 5), 1e-9)
        assert (noise > 0).all()
    close(sigma_hat_step(x_t, T, 0, eps, z, alpha_bar, eta), predict_x_0(x_t, T, eps, alpha_bar))


def test_sigma_hat_is_ddpms_beta():
    """From t to t - 1 the noise has DDPM's variance beta_t, of section 4, at every t > 1."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.arange(2, 1001)
    zero, one = torch.zeros(999, 1, dtype=torch.float64), torch.ones(999, 1, dtype=torch.float64)
    noise = sigma_hat_step(zero, t, t - 1, zero, one, SCHEDULES["linear"], 1.0)
    close(noise[:, 0]**2, beta[1:], 1e-9)


def test_sigma_hat_leaves_too_much_variance(randn):
    """Along (1) the variance of x_s given x_0 is 1 - a_s + sigma-hat^2 - sigma_1^2, by sampling."""
    alpha_bar, n = SCHEDULES["linear"], 400_000
    a_t, a_s = alpha_bar[700], alpha_bar[400]
    eps, z = randn(n, 1), randn(n, 1)
    x_s = sigma_hat_step(q_sample(torch.full_like(eps, 0.6), 700, eps, alpha_bar), 700, 400, eps,
                         z, alpha_bar, 1.0)
    excess = (1 - a_t / a_s) * (1 - (1 - a_s) / (1 - a_t))
    assert excess > 0.01
    assert x_s.var().item() == pytest.approx((1 - a_s + excess).item(), rel=0.011)
    assert x_s.mean().item() == pytest.approx((a_s.sqrt() * 0.6).item(), abs=0.008)


def test_sample_takes_sigma_hat_steps(randn):
    """sample(step=sigma_hat_step) goes through its states, with the noise of the generator."""
    alpha_bar, tau, x = SCHEDULES["linear-80"], [3, 17, 44, 80], 2 * randn(6, 2)

    def model(x, t):
        return (x + t[:, None] / 7).sin()
    states = list(sample(model, x, alpha_bar, tau, 1.0, seeded(5)[0], True, sigma_hat_step))
    noise = seeded(5)[0]
    for (t, s), state in zip([(80, 44), (44, 17), (17, 3), (3, 0)], states, strict=True):
        z = torch.randn(6, 2, dtype=torch.float64, generator=noise)
        x = sigma_hat_step(x, t, s, model(x, torch.full((6,), t)), z, alpha_bar, 1.0, True)
        assert torch.equal(x, state)


@pytest.mark.parametrize(("S", "spread"), [(80, 0.1), (8, 0.35)])
def test_sigma_hat_recovers_the_mixture_over_every_time(S, spread, mixture, randn):
    """Over all times sigma-hat is DDPM with variance beta: the data's law, roughly so in 8 hops."""
    n, alpha_bar = 10_000, SCHEDULES["linear-80"]
    x = last(sample(mixture.eps_model(alpha_bar), randn(n), alpha_bar, subsequence(80, S), 1.0,
                    seeded(8)[0], step=sigma_hat_step))
    assert x.mean().item() == pytest.approx(mixture.mean, abs=0.03)
    assert x.var().item() == pytest.approx(mixture.variance, rel=spread)


# --- encode ---------------------------------------------------------------------------------------

def quantiles(mixture, n):
    """n draws of the mixture as even as can be: its quantiles (i + 1/2) / n, by bisection."""
    low, high = torch.full((n,), -3.0).double(), torch.full((n,), 3.0).double()
    u = (torch.arange(n) + 0.5) / n
    for _ in range(60):
        middle = (low + high) / 2
        below = (mixture.weights * torch.special.ndtr(
            (middle[:, None] - mixture.means) / mixture.variances.sqrt())).sum(1) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def test_encode_yields_a_state_at_each_time_of_tau(randn):
    """S states; the model is asked at 1 (for t = 0), then at tau's times but the last."""
    alpha_bar, tau, times = SCHEDULES["cosine"], [3, 170, 444, 1000], []

    def model(x, t):
        assert t.shape == (5,) and t.dtype == torch.int64 and (t == t[0]).all()
        times.append(t[0].item())
        return (x + t[:, None] / 7).sin()
    x = randn(5, 2)
    states = list(encode(model, x, alpha_bar, tau))
    assert times == [1, 3, 170, 444] and len(states) == 4
    for s, t, state in zip([0, 3, 170, 444], tau, states, strict=True):
        eps = model(x, torch.full((5,), max(s, 1)))
        close(state, q_sample(predict_x_0(x, s, eps, alpha_bar), t, eps, alpha_bar))
        x = state


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_decoding_undoes_encoding_as_S_grows(schedule, mixture):
    """With the exact eps sample(encode(x)) tends to x, with order one."""
    alpha_bar, x_0 = SCHEDULES[schedule], quantiles(mixture, 400)
    model, error = mixture.eps_model(alpha_bar), {}
    for S in (50, 100, 200, 400):
        code = last(encode(model, x_0, alpha_bar, subsequence(1000, S)))
        back = last(sample(model, code, alpha_bar, subsequence(1000, S)))
        error[S] = (back - x_0).abs().mean().item()
    assert error[400] < 0.01
    for S in (50, 100, 200):
        assert 0.7 < math.log2(error[S] / error[2 * S]) < 1.4, error


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_codes_of_the_mixture_are_standard_normal(schedule, mixture):
    """With the exact eps the codes of data have the law N(0, 1), in the order of the data."""
    alpha_bar, n = SCHEDULES[schedule], 2000
    code = last(encode(mixture.eps_model(alpha_bar), quantiles(mixture, n), alpha_bar,
                       subsequence(1000, 1000)))
    assert (code.diff() > 0).all()
    gap = torch.special.ndtr(code) - (torch.arange(n) + 0.5) / n
    assert gap.abs().max() < 0.01


def test_sampling_undoes_encoding_step_by_step_where_eps_is_constant(randn):
    """If the network says the same eps everywhere, encode's states are sample's, turned round."""
    alpha_bar, tau, x_0 = SCHEDULES["cosine"], [40, 300, 610, 1000], randn(3, 1, 2, 2)
    eps = randn(3, 1, 2, 2)
    up = list(encode(lambda x, t: eps, x_0, alpha_bar, tau))
    down = list(sample(lambda x, t: eps, up[-1], alpha_bar, tau))
    close(torch.stack(down), torch.stack([x_0, *up[:-1]][::-1]), 1e-9)


# --- slerp ----------------------------------------------------------------------------------------

def test_slerp_begins_at_a_and_ends_at_b(randn):
    """Share 0 is a, share 1 is b, of any lengths."""
    a, b = randn(3, 1, 4, 4), 2.5 * randn(3, 1, 4, 4)
    close(slerp(a, b, 0.0), a)
    close(slerp(a, b, 1.0), b)


@pytest.mark.parametrize("share", [0.15, 0.5, 0.8])
def test_slerp_keeps_the_length_and_divides_the_angle(share, randn):
    """Between images of one length: that length, and the share of the angle, in their plane."""
    a, b = randn(4, 1, 4, 4), randn(4, 1, 4, 4)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(4, 1, 1, 1)
    c = slerp(a, b, share)

    def angle(x, y):
        return torch.cosine_similarity(x.flatten(1), y.flatten(1)).acos()
    close(c.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
    close(angle(a, c), share * angle(a, b))
    close(angle(c, b), (1 - share) * angle(a, b))


def test_slerp_keeps_the_law_of_noise_where_a_mixture_does_not(randn):
    """Halfway between independent noises the variance is 1, of the straight mixture 1/2."""
    a, b = randn(2, 200, 500).unbind()
    assert slerp(a, b, 0.5).var().item() == pytest.approx(1, abs=0.02)
    assert ((a + b) / 2).var().item() == pytest.approx(0.5, abs=0.01)


def test_slerp_goes_image_by_image(randn):
    """Each pair has its own angle: a batch is what its pairs are alone."""
    a, b = randn(4, 1, 3, 3), randn(4, 1, 3, 3)
    b[0] += 2 * a[0]
    batch = slerp(a, b, 0.3)
    for i in range(4):
        close(batch[i:i + 1], slerp(a[i:i + 1], b[i:i + 1], 0.3))
    assert slerp(a.float(), b.float(), 0.3).dtype == torch.float32
    for other in (b[:1], b.view(4, 3, 1, 3)):     # shapes that would broadcast
        with pytest.raises(AssertionError):
            slerp(a, other, 0.3)


# --- times that are no sub-sequence ---------------------------------------------------------------

@pytest.mark.parametrize("tau", [[], [0, 40, 80], [80, 40, 1], [1, 40, 40, 80], [1, 81], [-1, 80]])
def test_times_that_do_not_increase_within_the_chain_are_refused(tau, randn):
    """range(0, 1000, 50) and descending lists gave nothing but NaN: both ways are refused."""
    alpha_bar, x = SCHEDULES["linear-80"], randn(2, 3)
    for run in (sample, encode):
        with pytest.raises(ValueError, match="tau must increase"):
            next(run(lambda x, t: x, x, alpha_bar, tau))


@pytest.mark.parametrize(("b", "share"), [(1, -0.1), (1, 1.1), (1, float("nan")), (2, 0.5)])
def test_slerp_refuses_what_is_no_arc(randn, b, share):
    """A share outside 0..1, and two noises of one direction."""
    a = randn(2, 9)
    with pytest.raises(ValueError, match="arc"):
        slerp(a, randn(2, 9) if b == 1 else 2 * a, share)
