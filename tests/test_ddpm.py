"""ddpm.py against formulas, brute force and data whose best eps is known in closed form."""
import math

import pytest
import torch

from ddpm import (
    cosine_schedule,
    ddpm_step,
    l_simple,
    linear_schedule,
    predict_x_0,
    q_posterior,
    q_sample,
    sample,
)
from objectives import OBJECTIVES, mu_to_eps, v_to_eps

SCHEDULES = {"linear": linear_schedule(), "linear-80": linear_schedule(80),
             "cosine": cosine_schedule(), "cosine-15": cosine_schedule(15)}
every_schedule = pytest.mark.parametrize("alpha_bar", SCHEDULES.values(), ids=SCHEDULES.keys())


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b).to(a), rtol=tolerance, atol=tolerance)


# --- schedules ------------------------------------------------------------------------------------

@pytest.mark.parametrize("T", [25, 50, 400, 1000])
@pytest.mark.parametrize("schedule", [linear_schedule, cosine_schedule])
def test_schedule_is_a_decreasing_float64_of_T_plus_1_entries_from_1(schedule, T):
    """alpha_bar has T + 1 float64 entries, falls from exactly 1 and stays above 0."""
    alpha_bar = schedule(T)
    assert alpha_bar.shape == (T + 1,) and alpha_bar.dtype == torch.float64
    assert alpha_bar[0] == 1 and (alpha_bar.diff() < 0).all() and alpha_bar[-1] > 0


def test_linear_schedule_has_the_published_end():
    """With Ho et al.'s T = 1000, alpha_bar_T = 4.0e-5 and beta runs from 1e-4 to 0.02."""
    alpha_bar = linear_schedule()
    assert f"{alpha_bar[-1]:.1e}" == "4.0e-05"
    assert 1 - alpha_bar[1].item() == pytest.approx(1e-4, rel=1e-9)
    assert 1 - (alpha_bar[-1] / alpha_bar[-2]).item() == pytest.approx(0.02, rel=1e-9)


@pytest.mark.parametrize("T", [25, 50, 200, 400, 2000])
def test_rescaled_linear_schedule_ends_in_noise_at_any_T(T):
    """alpha_bar_T stays below 5e-5, where it would be up to 0.6 without the rescaling."""
    assert linear_schedule(T)[-1] < 5e-5


def test_linear_schedule_equals_its_formula():
    """alpha_bar_t is the product of 1 - beta 1000 / T, for other ends than the default."""
    expected, T = 1.0, 250
    alpha_bar = linear_schedule(T, beta_1=3e-4, beta_T=0.012)
    for t in range(1, T + 1):
        expected *= 1 - 1000 / T * (3e-4 + (0.012 - 3e-4) * (t - 1) / (T - 1))
        assert alpha_bar[t].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("T", "s"), [(1000, 0.008), (30, 0.008), (200, 0.02)])
def test_cosine_schedule_equals_its_formula_up_to_the_cap(T, s):
    """alpha_bar_t = f(t) / f(0) for t < T; the last beta, 1 by the formula, is capped at 0.999."""
    alpha_bar = cosine_schedule(T, s)
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    for t in range(T):
        assert alpha_bar[t].item() == pytest.approx(f[t] / f[0], rel=1e-9)
    assert (alpha_bar[T] / alpha_bar[T - 1]).item() == pytest.approx(0.001, rel=1e-9)


def test_cosine_cap_holds_for_beta_and_alpha_bar_alike():
    """With a low cap every beta obeys it, and those below it are the formula's."""
    T, cap = 40, 0.3
    alpha_bar, free = cosine_schedule(T, beta_max=cap), cosine_schedule(T)
    beta, beta_free = 1 - alpha_bar[1:] / alpha_bar[:-1], 1 - free[1:] / free[:-1]
    close(beta, beta_free.clamp(max=cap))
    assert 3 < (beta_free > cap).sum() < T - 3


@pytest.mark.parametrize(("schedule", "T"), [
    (linear_schedule, 0), (linear_schedule, -3), (linear_schedule, 20), (linear_schedule, 1),
    (cosine_schedule, 0), (cosine_schedule, -3)])
def test_schedule_refuses_T(schedule, T):
    """T < 1 is refused, and a T so small that the rescaled beta leaves (0, 1)."""
    with pytest.raises(ValueError, match=str(T)):
        schedule(T)


@pytest.mark.parametrize("ends", [(0.0, 0.02), (-1e-4, 0.02), (1e-4, 1.0)])
def test_linear_schedule_refuses_beta_outside_0_1(ends):
    """beta must lie strictly between 0 and 1."""
    with pytest.raises(ValueError, match="beta"):
        linear_schedule(1000, *ends)


# --- the forward process --------------------------------------------------------------------------

def test_single_steps_compose_to_q_sample():
    """Means and variances of x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) eps compose as they say."""
    alpha_bar, T = SCHEDULES["linear"], 1000
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    factor, variance = 1.0, 0.0
    for t in range(1, T + 1):
        beta = 1e-4 + (0.02 - 1e-4) * (t - 1) / (T - 1)
        factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
        assert q_sample(one, t, zero, alpha_bar).item() == pytest.approx(factor, rel=1e-10)
        assert q_sample(zero, t, one, alpha_bar).item() ** 2 == pytest.approx(variance, rel=1e-10)


def test_single_steps_have_the_law_of_q_sample(randn):
    """Simulated step by step from one x_0, x_t has q_sample's law: each part passes one KS test."""
    T, t, n, x_0 = 50, 23, 20_000, 0.7
    x = torch.full((n,), x_0, dtype=torch.float64)
    for i in range(1, t + 1):
        beta = 20 * (1e-4 + (0.02 - 1e-4) * (i - 1) / (T - 1))
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * randn(n)
    alpha_bar, zero, one = linear_schedule(T), torch.zeros(1), torch.ones(1)
    mean = q_sample(x_0 * one, t, zero, alpha_bar)
    deviation = q_sample(zero, t, one, alpha_bar)
    cdf = torch.special.ndtr((x - mean) / deviation).sort().values
    distance = (cdf - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.63 / math.sqrt(n)         # the 1% quantile of Kolmogorov's law


def test_q_sample_at_0_is_the_data(randn):
    """t = 0 is clean data: alpha_bar_0 = 1."""
    x_0 = randn(3, 2)
    assert torch.equal(q_sample(x_0, 0, randn(3, 2), SCHEDULES["cosine"]), x_0)


@every_schedule
def test_predict_x_0_inverts_q_sample(alpha_bar, randn):
    """From x_t and the noise that is in it, predict_x_0 finds x_0 again at every t."""
    t = torch.arange(len(alpha_bar))
    x_0, eps = randn(len(t), 3), randn(len(t), 3)
    x_t = q_sample(x_0, t, eps, alpha_bar)
    close(predict_x_0(x_t, t, eps, alpha_bar), x_0, 1e-10)


@pytest.mark.parametrize("t", [2, 3, 17, 60, 80])
def test_posterior_equals_bayes_on_a_grid(t):
    """Mean and variance of q(x_{t-1} | x_t, x_0) equal prior times likelihood, summed on a grid."""
    alpha_bar, x_0, x_t = SCHEDULES["linear-80"], -0.37, 0.81
    beta = 12.5 * (1e-4 + (0.02 - 1e-4) * (t - 1) / 79)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)       # of x_{t-1}
    prior = (grid - alpha_bar[t - 1].sqrt() * x_0) ** 2 / (1 - alpha_bar[t - 1])
    likelihood = (x_t - math.sqrt(1 - beta) * grid) ** 2 / beta
    weight = (-(prior + likelihood) / 2).softmax(0)
    mean = weight @ grid
    variance = weight @ (grid - mean) ** 2
    one = torch.ones(1, dtype=torch.float64)
    ours = q_posterior(x_0 * one, x_t * one, t, alpha_bar)
    close(ours[0], [mean], 1e-9)
    close(ours[1], [variance], 1e-9)


@every_schedule
def test_posterior_at_1_is_the_data(alpha_bar, randn):
    """At t = 1 the posterior is the point x_0: mean x_0, variance exactly 0."""
    x_0, x_1 = randn(4, 3), randn(4, 3)
    mean, variance = q_posterior(x_0, x_1, 1, alpha_bar)
    close(mean, x_0)
    assert (variance == 0).all()


def test_int_time_equals_tensor_time_per_image(randn):
    """A batch of times gives each image what its own int gives it alone."""
    alpha_bar, t = SCHEDULES["cosine"], torch.tensor([1, 2, 500, 999, 1000])
    x, y, z = randn(5, 1, 2, 3), randn(5, 1, 2, 3), randn(5, 1, 2, 3)
    for i, number in enumerate(t.tolist()):
        one = slice(i, i + 1)
        close(q_sample(x, t, y, alpha_bar)[one], q_sample(x[one], number, y[one], alpha_bar))
        close(predict_x_0(x, t, y, alpha_bar)[one], predict_x_0(x[one], number, y[one], alpha_bar))
        close(ddpm_step(x, t, y, z, alpha_bar)[one],
              ddpm_step(x[one], number, y[one], z[one], alpha_bar))
        for both, alone in zip(q_posterior(x, y, t, alpha_bar),
                               q_posterior(x[one], y[one], number, alpha_bar), strict=True):
            close(both[one], alone)


# --- the loss -------------------------------------------------------------------------------------

def test_l_simple_equals_a_hand_computed_value():
    """With alpha_bar_t = 0.64 and 0.36, and the model 2 x_t + t, the value is found by hand."""
    alpha_bar = torch.tensor([1, 0.64, 0.36], dtype=torch.float64)
    x_0 = torch.tensor([[0.5, -1.0], [0.25, 0.75]], dtype=torch.float64)
    eps = torch.tensor([[1.0, 0.5], [-0.5, 2.0]], dtype=torch.float64)
    t = torch.tensor([1, 2])
    # x_t = [0.8 * 0.5 + 0.6 * 1, 0.8 * -1 + 0.6 * 0.5], [0.6 * 0.25 + 0.8 * -0.5, ...]
    x_t = [[1.0, -0.5], [-0.25, 2.05]]
    off = [1.0 - (2 * 1.0 + 1), 0.5 - (2 * -0.5 + 1), -0.5 - (2 * -0.25 + 2), 2.0 - (2 * 2.05 + 2)]
    seen = []

    def model(x, times):
        seen.append((x, times))
        return 2 * x + times[:, None]
    loss = l_simple(model, x_0, t, eps, alpha_bar)
    assert loss.item() == pytest.approx(sum(e * e for e in off) / 4, rel=1e-12)
    close(seen[0][0], torch.tensor(x_t, dtype=torch.float64))
    assert torch.equal(seen[0][1], t) and loss.shape == ()


def test_v_is_what_the_noise_and_the_data_say(randn):
    """sqrt(a) eps - sqrt(1 - a) x_0, read as v, gives eps back, and is the target of the row v."""
    alpha_bar, t = SCHEDULES["cosine"], torch.tensor([1, 40, 500, 1000])
    x_0, eps, off = randn(4, 2), randn(4, 2), randn(4, 2)
    a = alpha_bar[t][:, None]
    v, x_t = a.sqrt() * eps - (1 - a).sqrt() * x_0, a.sqrt() * x_0 + (1 - a).sqrt() * eps
    close(v_to_eps(v, x_t, t, alpha_bar), eps)
    close(v_to_eps(v[:1], x_t[:1], 1, alpha_bar), eps[:1])
    loss = OBJECTIVES["v"].loss(lambda x, times: v + off * (x - x_t + 1), x_0, t, eps, alpha_bar)
    assert loss.item() == pytest.approx(off.square().mean().item(), rel=1e-12)


@every_schedule
@pytest.mark.parametrize("of_T", [0, 0.3, 0.9, 1])
def test_the_bound_is_one_however_the_network_is_asked(of_T, alpha_bar, randn):
    """L of a network that predicts eps (equation 12) is L of the mean that it implies (equation 8),
    and the Kullback-Leibler divergence of two Gaussians with variance beta_t, by torch."""
    x_0, eps, off = randn(5, 3), randn(5, 3), randn(5, 3)
    t = max(1, round(of_T * (len(alpha_bar) - 1)))
    times, beta = torch.full((5,), t), 1 - alpha_bar[t] / alpha_bar[t - 1]
    x_t = q_sample(x_0, t, eps, alpha_bar)

    def mean(eps):                                                       # equation 11
        return (x_t - beta / (1 - alpha_bar[t]).sqrt() * eps) / (1 - beta).sqrt()
    by_eps = OBJECTIVES["eps-vlb"].loss(lambda x, t: eps + off, x_0, times, eps, alpha_bar)
    by_mu = OBJECTIVES["mu-vlb"].loss(lambda x, t: mean(eps + off), x_0, times, eps, alpha_bar)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(
        normal(mean(eps), beta.sqrt()), normal(mean(eps + off), beta.sqrt())).mean()
    close(by_eps, divergence, 1e-9)
    close(by_mu, divergence, 1e-6)       # mu_tilde and the two x are close: digits cancel
    plain = OBJECTIVES["mu"].loss(lambda x, t: mean(eps + off), x_0, times, eps, alpha_bar)
    close(plain, 2 * beta * by_mu, 1e-9)


@every_schedule
@pytest.mark.parametrize("of_T", [0, 0.3, 0.9, 1])
def test_mu_gives_eps_back(of_T, alpha_bar, randn):
    """mu_tilde of the true x_0, read as the network's mean, is the true noise."""
    x_0, eps = randn(4, 2), randn(4, 2)
    t = max(1, round(of_T * (len(alpha_bar) - 1)))
    x_t = q_sample(x_0, t, eps, alpha_bar)
    mu, _ = q_posterior(x_0, x_t, t, alpha_bar)
    close(mu_to_eps(mu, x_t, t, alpha_bar), eps, 1e-6)


def test_whatever_a_network_predicts_it_samples_alike(mixture, randn):
    """A network that predicts v or mu, wrapped, is to a sampler what one that predicts eps is."""
    alpha_bar, x_T = linear_schedule(50), randn(7)
    model = mixture.eps_model(alpha_bar)

    def v_model(x, t):
        a = alpha_bar[t]
        return (model(x, t) - (1 - a).sqrt() * x) / a.sqrt()

    def mu_model(x, t):
        x_0 = predict_x_0(x, t, model(x, t), alpha_bar)
        return q_posterior(x_0, x, t, alpha_bar)[0]
    networks = {"v": v_model, "eps": model, "eps-vlb": model, "mu": mu_model, "mu-vlb": mu_model}
    assert networks.keys() == OBJECTIVES.keys()
    runs = {}
    for name, network in networks.items():
        eps_model, generator = OBJECTIVES[name].eps_model(network, alpha_bar), torch.Generator()
        runs[name] = torch.stack(list(sample(eps_model, x_T, alpha_bar, generator.manual_seed(1))))
    for run in runs.values():
        close(run, runs["eps"], 1e-9)


def test_the_row_eps_is_l_simple(randn):
    """The table's plain error of eps is Algorithm 1's loss, to the bit."""
    alpha_bar, t = SCHEDULES["cosine"], torch.tensor([1, 40, 500, 1000])
    x_0, eps = randn(4, 2), randn(4, 2)
    inputs = (lambda x, times: 0.3 * x - 0.1, x_0, t, eps, alpha_bar)
    assert torch.equal(OBJECTIVES["eps"].loss(*inputs), l_simple(*inputs))


def test_the_network_gets_the_time_where_the_images_are():
    """Images may be elsewhere (here on meta, without contents) than schedule and times."""
    seen, x = [], torch.zeros(2, 3, device="meta")

    def model(x_t, t):
        seen.append(t.device.type)
        return x_t
    inputs = model, x, torch.tensor([1, 1000]), x, SCHEDULES["linear"]
    for loss in (l_simple, *(row.loss for row in OBJECTIVES.values())):
        assert loss(*inputs).device.type == "meta"
    assert seen == ["meta"] * 6


@pytest.mark.parametrize("t", [-1, 1001, torch.tensor([3, -1]), torch.tensor([1001, 1])])
def test_times_outside_the_chain_are_refused(t, randn):
    """t = -1 is not T, and T + 1 is nothing: refused with the reason."""
    x, alpha_bar = randn(2, 3), SCHEDULES["linear"]
    for function in (q_sample, predict_x_0):
        with pytest.raises(ValueError, match="0 to T = 1000"):
            function(x, t, x, alpha_bar)
    with pytest.raises(ValueError, match="-1"):
        q_posterior(x, x, 0, alpha_bar)


# --- one step back --------------------------------------------------------------------------------

@every_schedule
def test_step_has_the_mean_of_algorithm_2(alpha_bar, randn):
    """Without noise a step is (x_t - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha), at every t."""
    t = torch.arange(1, len(alpha_bar))
    x_t, eps = randn(len(t), 3), randn(len(t), 3)
    alpha = (alpha_bar[1:] / alpha_bar[:-1])[:, None]
    expected = (x_t - (1 - alpha) / (1 - alpha_bar[1:, None]).sqrt() * eps) / alpha.sqrt()
    close(ddpm_step(x_t, t, eps, torch.zeros_like(x_t), alpha_bar), expected)


@every_schedule
def test_step_adds_noise_of_variance_beta_tilde(alpha_bar, randn):
    """z enters times sqrt((1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t), at t = 1 times 0."""
    t = torch.arange(1, len(alpha_bar))
    x_t, eps, z = randn(len(t), 3), randn(len(t), 3), randn(len(t), 3)
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    deviation = ((1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta).sqrt()[:, None]
    still = ddpm_step(x_t, t, eps, torch.zeros_like(x_t), alpha_bar)
    step = ddpm_step(x_t, t, eps, z, alpha_bar)
    close(step - still, deviation * z)
    assert torch.equal(step[0], still[0]) and not torch.equal(step[1], still[1])


def test_clip_acts_on_the_predicted_x_0(randn):
    """clip moves the predicted x_0, not x_{t-1}, to [-1, 1]; what lay inside stays as it was."""
    alpha_bar, t = SCHEDULES["linear-80"], torch.tensor([1, 2, 40, 79, 80])
    x_t, eps, z = 2 * randn(5, 6), randn(5, 6), randn(5, 6)
    x_0 = predict_x_0(x_t, t, eps, alpha_bar)
    mean, variance = q_posterior(x_0.clamp(-1, 1), x_t, t, alpha_bar)
    clipped = ddpm_step(x_t, t, eps, z, alpha_bar, clip=True)
    close(clipped, mean + variance.sqrt() * z)
    assert clipped.abs().max() > 1
    inside, free = x_0.abs() <= 1, ddpm_step(x_t, t, eps, z, alpha_bar)
    assert inside.any() and (~inside).any()
    close(clipped[inside], free[inside])
    assert ((clipped - free)[~inside].abs() > 1e-6).all()


def test_float32_stays_float32_with_float64_coefficients(randn):
    """Images keep their dtype; sqrt(1 - alpha_bar_1) = 0.01 is exact to float32's last digits."""
    alpha_bar, x, z = SCHEDULES["linear"], randn(2, 3).float(), randn(2, 3).float()
    results = [q_sample(x, 5, z, alpha_bar), predict_x_0(x, 5, z, alpha_bar),
               *q_posterior(x, z, 5, alpha_bar), ddpm_step(x, 5, z, z, alpha_bar),
               *sample(lambda x, t: x, x, linear_schedule(30))]
    assert [r.dtype for r in results] == [torch.float32] * 35
    noise = q_sample(torch.zeros(1), 1, torch.ones(1), alpha_bar)
    assert noise.item() == pytest.approx(0.01, rel=2e-7)


WRONG = {
    "q_sample eps": lambda a, x, t: q_sample(x, t, x[:, :1], a),
    "q_sample t": lambda a, x, t: q_sample(x, t[:1], x, a),
    "q_sample t as a column": lambda a, x, t: q_sample(x, t[:, None], x, a),
    "q_posterior x_0": lambda a, x, t: q_posterior(x[:, :1], x, t, a),
    "predict_x_0 eps": lambda a, x, t: predict_x_0(x, t, x[:1], a),
    "ddpm_step z": lambda a, x, t: ddpm_step(x, t, x, x[:, :1], a),
    "ddpm_step eps": lambda a, x, t: ddpm_step(x, t, x[:, :1], x, a),
    "v_to_eps v": lambda a, x, t: v_to_eps(x[:1], x, t, a),
    "l_v model": lambda a, x, t: OBJECTIVES["v"].loss(lambda x, t: x[:, :1], x, t, x, a),
    "l_simple model": lambda a, x, t: l_simple(lambda x, t: x[:, :1], x, t, x, a),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_shapes_that_would_broadcast_are_refused(call, randn):
    """A shape that PyTorch would broadcast in silence stops the computation."""
    with pytest.raises(AssertionError):
        call(SCHEDULES["linear"], randn(3, 3), torch.tensor([4, 5, 6]))


# --- sampling -------------------------------------------------------------------------------------

def test_sample_yields_every_state_and_asks_the_model_at_every_time():
    """T states come out, each like x_T, and the model sees T, ..., 1 as an integer (N,)."""
    alpha_bar, times = cosine_schedule(12), []

    def model(x, t):
        assert t.shape == (2,) and t.dtype == torch.int64 and (t == t[0]).all()
        times.append(t[0].item())
        return 0.1 * x
    states = list(sample(model, torch.ones(2, 1, 4, 4), alpha_bar))
    assert times == list(range(12, 0, -1))
    assert [x.shape for x in states] == [(2, 1, 4, 4)] * 12


def test_sample_is_its_steps(randn):
    """The sampler is ddpm_step from T to 1 with the generator's noise; a seed fixes it."""
    alpha_bar, x_T = cosine_schedule(12), randn(3, 2)

    def model(x, t):
        return (x + t[:, None] / 7).sin()

    def generator(seed):
        return torch.Generator().manual_seed(seed)
    states = list(sample(model, x_T, alpha_bar, generator(5), clip=True))
    noise, x = generator(5), x_T
    for t, state in zip(range(12, 0, -1), states, strict=True):
        z = torch.randn(3, 2, dtype=torch.float64, generator=noise)
        x = ddpm_step(x, t, model(x, torch.full((3,), t)), z, alpha_bar, clip=True)
        assert torch.equal(x, state)
    other = list(sample(model, x_T, alpha_bar, generator(6), clip=True))
    assert not torch.equal(other[-1], states[-1])


@pytest.mark.parametrize(("schedule", "clip"), [(linear_schedule, False), (cosine_schedule, True)])
def test_exact_eps_recovers_the_mixture(schedule, clip, mixture, randn):
    """With the best eps, 1000 steps turn noise into the data's law: mean, variance, KS < 0.025."""
    n, alpha_bar = 6000, schedule(1000)
    model, noise = mixture.eps_model(alpha_bar), torch.Generator().manual_seed(8)
    for x in sample(model, randn(n), alpha_bar, noise, clip):   # noqa: B007
        pass
    assert x.mean().item() == pytest.approx(mixture.mean, abs=4 * math.sqrt(mixture.variance / n))
    assert x.var().item() == pytest.approx(mixture.variance, rel=0.05)
    assert mixture.kolmogorov_smirnov(x) < 0.025     # 0.021 is the 1% quantile of exact draws


@pytest.mark.parametrize(("mean", "variance"), [(0.3, 0.2), (-0.4, 0.05)])
def test_exact_eps_recovers_a_gaussian(mean, variance):
    """For Gaussian data every step is affine, so mean and variance follow without any draw."""
    alpha_bar = linear_schedule(1000)
    m, v = 0.0, 1.0                                  # of x_T
    points = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for t in range(1000, 0, -1):
        a = alpha_bar[t]
        eps = (1 - a).sqrt() * (points - a.sqrt() * mean) / (a * variance + 1 - a)
        shift, slope, deviation = ddpm_step(points, t, eps, z, alpha_bar)
        m = shift + (slope - shift) * m
        v = (slope - shift) ** 2 * v + (deviation - shift) ** 2
    assert m.item() == pytest.approx(mean, abs=2e-3)
    assert v.item() == pytest.approx(variance, rel=0.04)     # the steps are finite: 3.3% at most
