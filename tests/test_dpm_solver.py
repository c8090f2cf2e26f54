"""dpm_solver.py against diffusers, exact denoisers, DDIM; and the script that draws with it."""
import math
from importlib.util import find_spec

import pytest
import torch

from ddim import ddim_step, subsequence
from ddim import sample as ddim_sample
from ddpm import cosine_schedule, linear_schedule, predict_x_0
from dpm_solver import dpm_step, even_in_lambda, half_log_snr, sample

SCHEDULES = {"linear": linear_schedule(), "cosine": cosine_schedule()}
every_schedule = pytest.mark.parametrize("alpha_bar", SCHEDULES.values(), ids=SCHEDULES.keys())
clips = pytest.mark.parametrize("clip", [False, True])


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def last(states):
    *_, x = states
    return x


def predicting(belief, alpha_bar):
    """The eps_model of a network whose predicted x_0 at (x, t) is belief(x, t)."""
    def eps_model(x, t):
        a = alpha_bar[t].view(-1, *[1] * (x.ndim - 1))
        return (x - a.sqrt() * belief(x, t)) / (1 - a).sqrt()
    return eps_model


def belief(x, t):
    """A predicted x_0 in general position, of which some pixels leave [-1, 1]."""
    return 1.4 * (1.1 * x + 0.3 * x.flip(-1)).tanh() + 0.2 * (t / 90).sin()[:, None, None, None]


# --- the same as an independent implementation ----------------------------------------------------

@pytest.mark.skipif(not find_spec("diffusers"), reason="diffusers is not installed")
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 20, 50])
@every_schedule
def test_every_state_is_that_of_diffusers(alpha_bar, steps, randn):
    """Their scheduler of the same kind, order and times yields our states, in float32."""
    from diffusers import DPMSolverMultistepScheduler
    scheduler = DPMSolverMultistepScheduler(
        1000, trained_betas=(1 - alpha_bar[1:] / alpha_bar[:-1]).numpy(), solver_order=2,
        algorithm_type="dpmsolver++", solver_type="midpoint", prediction_type="sample",
        lower_order_final=True, final_sigmas_type="zero", timestep_spacing="trailing")
    scheduler.alphas_cumprod = alpha_bar[1:].numpy()        # ours of float64; their t is our t - 1
    scheduler.set_timesteps(steps)
    tau = subsequence(1000, steps)
    assert (scheduler.timesteps + 1).tolist() == tau[::-1]
    x, expected = randn(3, 1, 4, 4), []
    ours = list(sample(predicting(belief, alpha_bar), x, alpha_bar, tau))
    for t in scheduler.timesteps:
        x = scheduler.step(belief(x.double(), (t + 1).expand(3)), t, x).prev_sample
        expected.append(x.double())
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), rtol=2e-5, atol=2e-5)


# --- orders ---------------------------------------------------------------------------------------

def even_chain(T=1280, end=4.0):
    """A chain whose times are evenly spread in lambda, from 4 at t = 1 to -4 at t = T."""
    lambdas = torch.linspace(end, -end, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (2 * lambdas).sigmoid()])


def errors(method, eps_model, x_T, alpha_bar, exact):
    """The largest error at t = 1, after hops of 64, 32, 16 and 8 times from T."""
    T = len(alpha_bar) - 1
    return [(list(method(eps_model, x_T, alpha_bar, [1, *range(k, T + 1, k)]))[-2] - exact)
            .abs().max().item() for k in (64, 32, 16, 8)]


def test_the_order_is_2_where_ddims_is_1(mixture):
    """For the best eps of a mixture of Gaussians, half the hop is a quarter of the error."""
    alpha_bar, x_T = even_chain(), torch.linspace(-2, 2, 41, dtype=torch.float64)
    eps_model = mixture.eps_model(alpha_bar)
    exact = list(sample(eps_model, x_T, alpha_bar, list(range(1, 1281))))[-2]
    for method, order in ((sample, 2), (ddim_sample, 1)):
        found = errors(method, eps_model, x_T, alpha_bar, exact)
        orders = [math.log2(a / b) for a, b in zip(found, found[1:], strict=False)]
        assert orders[-1] == pytest.approx(order, abs=0.15), (method, orders)


def test_one_gaussian_ends_where_calculus_says():
    """For N(0, v) the ODE keeps x_t / sqrt(alpha_bar_t v + 1 - alpha_bar_t), with order 2."""
    alpha_bar, x_T, v = even_chain(), torch.linspace(-2, 2, 9, dtype=torch.float64), 0.3

    def belief(x, t):
        a = alpha_bar[t]
        return a.sqrt() * v / (a * v + 1 - a) * x
    spread = (alpha_bar * v + 1 - alpha_bar).sqrt()
    exact = x_T * spread[1] / spread[-1]
    found = errors(sample, predicting(belief, alpha_bar), x_T, alpha_bar, exact)
    assert found[-1] < 2e-4
    assert math.log2(found[-2] / found[-1]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("calls", "ends"), [(10, (-2.75, 2.25)), (20, (-3.0, 4.0))])
def test_half_of_ddims_calls_bring_an_exact_denoiser_nearer(calls, ends, mixture, randn):
    """To the result of many calls, from the same x_T; the solver has its own times."""
    alpha_bar, x_T = SCHEDULES["cosine"], randn(2000)
    eps_model = mixture.eps_model(alpha_bar)
    exact = last(sample(eps_model, x_T, alpha_bar, list(range(1, 1001))))
    ours = last(sample(eps_model, x_T, alpha_bar, even_in_lambda(calls, alpha_bar, ends)))
    theirs = last(ddim_sample(eps_model, x_T, alpha_bar, subsequence(1000, 2 * calls)))
    assert (ours - exact).abs().mean() < (theirs - exact).abs().mean()


# --- single hops ----------------------------------------------------------------------------------

@every_schedule
def test_a_hop_to_the_predicted_x_0_is_ddims(alpha_bar, randn):
    """From any t to any earlier s, for ints and for a batch of times."""
    t = torch.arange(1, 1001)
    x_t, eps = randn(1000, 5), randn(1000, 5)
    for s in (t - 1, t // 2, t // 20):
        x_0 = predict_x_0(x_t, t, eps, alpha_bar)
        close(dpm_step(x_t, x_0, t, s, alpha_bar),
              ddim_step(x_t, t, s, eps, torch.zeros_like(eps), alpha_bar, 0.0))
        close(dpm_step(x_t[7:8], x_0[7:8], 8, s[7].item(), alpha_bar),
              dpm_step(x_t, x_0, t, s, alpha_bar)[7:8])


@pytest.mark.parametrize(("t", "s"), [(1000, 940), (700, 300), (20, 1)])
def test_a_hop_is_the_papers(t, s, randn):
    """(sigma_s / sigma_t) x - alpha_s (exp(-h) - 1) x_0, in the paper's letters."""
    for alpha_bar in SCHEDULES.values():
        x, x_0 = randn(4), randn(4)
        alpha, sigma = (alpha_bar[s].sqrt(), (1 - alpha_bar[s]).sqrt())
        h = half_log_snr(s, alpha_bar) - half_log_snr(t, alpha_bar)
        wanted = sigma / (1 - alpha_bar[t]).sqrt() * x - alpha * ((-h).exp() - 1) * x_0
        close(dpm_step(x, x_0, t, s, alpha_bar), wanted)


@clips
@pytest.mark.parametrize("tau", [[1000], [1], [140, 1000], [3, 20]])
def test_one_or_two_hops_are_ddims(tau, clip, mixture, randn):
    """The first hop and the last are of first order."""
    for alpha_bar in SCHEDULES.values():
        x_T, model = randn(9), mixture.eps_model(alpha_bar)
        close(torch.stack(list(sample(model, x_T, alpha_bar, tau, clip=clip))),
              torch.stack(list(ddim_sample(model, x_T, alpha_bar, tau, clip=clip))))


@clips
def test_the_last_hop_returns_the_predicted_x_0(clip, randn):
    """At t = tau_1, clipped if that is asked for."""
    alpha_bar, tau = SCHEDULES["cosine"], [60, 300, 700, 1000]
    eps_model = predicting(belief, alpha_bar)
    *_, x_t, x = sample(eps_model, randn(3, 1, 4, 4), alpha_bar, tau, clip=clip)
    x_0 = belief(x_t, torch.full((3,), 60))
    close(x, x_0.clamp(-1, 1) if clip else x_0)


def test_a_middle_hop_aims_along_the_line_through_two_clipped_predictions(randn):
    """By hand: the hop from 600 to 250, after one from 1000 to 600."""
    alpha_bar = SCHEDULES["linear"]
    x_T = 2 * randn(3, 1, 4, 4)
    states = list(sample(predicting(belief, alpha_bar), x_T, alpha_bar, [250, 600, 1000],
                         clip=True))
    D, t = [], torch.full((3,), 1)
    for x, time in ((x_T, 1000), (states[0], 600)):
        assert (belief(x, t * time).abs() > 1).any()
        D.append(belief(x, t * time).clamp(-1, 1))
    u, t, s = (0.5 * math.log(a / (1 - a)) for a in alpha_bar[[1000, 600, 250]].tolist())
    r = (t - u) / (s - t)
    close(states[1], dpm_step(states[0], D[1] + (D[1] - D[0]) / (2 * r), 600, 250, alpha_bar))
    assert states[-1].abs().max() <= 1


# --- times ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("tau", [[], [1000, 500], [0, 500], [3, 3, 9], [1, 1001]])
def test_bad_times_are_refused(tau):
    """What ddim.sample refuses is refused here."""
    with pytest.raises(ValueError, match="tau must increase"):
        list(sample(lambda x, t: x, torch.zeros(1), SCHEDULES["linear"], tau))


@every_schedule
def test_even_in_lambda_gives_S_increasing_times_that_end_at_T(alpha_bar):
    """For every S <= T, with ends that the chain has and others."""
    for ends in ((-2.75, 2.25), (-9.0, 9.0), (4.5, 4.6)):
        for S in (*range(1, 60), 200, 500, 999, 1000):
            tau = even_in_lambda(S, alpha_bar, ends)
            assert len(tau) == S and tau[-1] == 1000 and tau[0] >= 1
            assert all(type(t) is int for t in tau)
            assert all(s < t for s, t in zip(tau, tau[1:], strict=False))


@every_schedule
def test_even_in_lambda_is_even(alpha_bar):
    """Between the ends lambda grows by equal parts, up to the rounding of times."""
    tau = even_in_lambda(12, alpha_bar, (-1.5, 1.5))
    lambdas = half_log_snr(torch.tensor(tau[:-1]), alpha_bar)
    close(lambdas, torch.linspace(1.5, -1.5, 11, dtype=torch.float64), 0.01)


@pytest.mark.parametrize(("S", "ends"), [(0, (-1, 1)), (1001, (-1, 1)), (10, (1, -1))])
def test_even_in_lambda_refuses(S, ends):
    """S outside 1..T, and ends in the wrong order."""
    with pytest.raises(ValueError):
        even_in_lambda(S, SCHEDULES["linear"], ends)


def test_float32_stays_float32(randn):
    """Images keep their dtype though alpha_bar is float64."""
    x = randn(3, 2).float()
    states = list(sample(lambda x, t: x, x, SCHEDULES["linear"], [5, 300, 1000]))
    assert [state.dtype for state in states] == 3 * [torch.float32]
    t = torch.tensor([900, 30, 2])
    assert dpm_step(x, x, t, t // 2, SCHEDULES["linear"]).dtype == torch.float32


# --- the script -----------------------------------------------------------------------------------

def test_the_script_draws_with_the_solver(call, weights, tmp_path):
    """--solver dpm draws other images than ddim, the same whatever the count; --spacing moves."""
    import numpy as np
    drawn = {}
    for name, flags in {"ddim": [], "dpm": ["--solver", "dpm"],
                        "first": ["--solver", "dpm", "--n", 2],
                        "linear": ["--solver", "dpm", "--spacing", "linear"],
                        "ddim, lambda": ["--spacing", "lambda"]}.items():
        out = tmp_path / f"{len(drawn)}.npy"
        done = call("ddim", "sample", "--weights", weights, "--n", 3, "--steps", 6, "--out", out,
                    "--device", "cpu", *flags)
        assert done.status == 0, done
        drawn[name] = np.load(out)
    assert (drawn["first"] == drawn["dpm"][:2]).all()
    different = [drawn[name] for name in ("ddim", "dpm", "linear", "ddim, lambda")]
    assert all((a != b).any() for i, a in enumerate(different) for b in different[:i])


def test_the_script_refuses_noise_with_the_solver(call, tmp_path):
    """--eta other than 0 ends in one line, exit status 2."""
    flags = "--solver", "dpm", "--out", tmp_path / "x.png"
    call("ddim", "sample", *flags, "--eta", 0.5).refuses(2, "--eta 0.5", "dpm")
    call("ddim", "sample", *flags, "--solver", "heun").refuses(2, "--solver")
