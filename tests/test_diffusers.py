"""Both samplers against an independent implementation: the schedulers of the package diffusers."""
import pytest
import torch

from ddim import ddim_step, subsequence
from ddim import sample as ddim_sample
from ddpm import cosine_schedule, ddpm_step, linear_schedule
from ddpm import sample as ddpm_sample

diffusers = pytest.importorskip("diffusers")

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
clips = pytest.mark.parametrize("clip", [False, True])
both = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def theirs(kind, alpha_bar, steps, clip, **settings):
    """Their scheduler, of `steps` of our T times, with our float64 schedule in place of its own."""
    scheduler = kind(num_train_timesteps=len(alpha_bar) - 1, clip_sample=clip, **settings)
    scheduler.alphas_cumprod = alpha_bar[1:]             # its times are 0-based: its t is our t + 1
    scheduler.alphas = alpha_bar[1:] / alpha_bar[:-1]
    scheduler.betas = 1 - scheduler.alphas
    scheduler.set_timesteps(steps)
    return scheduler


def ddpm_scheduler(alpha_bar, clip):
    return theirs(diffusers.DDPMScheduler, alpha_bar, len(alpha_bar) - 1, clip,
                  variance_type="fixed_small")


def ddim_scheduler(alpha_bar, steps, clip):
    return theirs(diffusers.DDIMScheduler, alpha_bar, steps, clip, set_alpha_to_one=True,
                  timestep_spacing="trailing")           # trailing: the last time is T


def model(x, t):
    """A network that depends on x and t, in general position."""
    return (1.1 * x + 0.3 * x.flip(-1)).tanh() + 0.2 * (t / 90).sin()[:, None, None, None]


def seeded():
    return torch.Generator().manual_seed(9)


@clips
@both
@pytest.mark.parametrize("t", [1, 2, 30, 999, 1000])
def test_ddpm_step(schedule, clip, t, randn):
    """One DDPM step with the same noise is theirs."""
    alpha_bar, x, eps = schedule(1000), 1.5 * randn(3, 1, 4, 4), randn(3, 1, 4, 4)
    z = torch.randn(x.shape, dtype=x.dtype, generator=seeded())
    expected = ddpm_scheduler(alpha_bar, clip).step(eps, t - 1, x, generator=seeded())
    torch.testing.assert_close(ddpm_step(x, t, eps, alpha_bar, z, clip), expected.prev_sample,
                               **TOLERANCE)


@clips
@pytest.mark.parametrize(("schedule", "T"), [
    (cosine_schedule, 10), (linear_schedule, 50), (cosine_schedule, 50), (linear_schedule, 1000),
    (cosine_schedule, 1000)])
def test_ddpm_trajectory(schedule, T, clip, randn):
    """Every state of a DDPM run over all T times, with the same noise, is theirs."""
    alpha_bar, x = schedule(T), randn(3, 1, 4, 4)
    scheduler, noise = ddpm_scheduler(alpha_bar, clip), seeded()
    ours, expected = list(ddpm_sample(model, alpha_bar, x, seeded(), clip)), []
    for t in scheduler.timesteps:
        eps = model(x, torch.full((3,), t.item() + 1))
        x = scheduler.step(eps, t, x, generator=noise).prev_sample
        expected.append(x)
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), **TOLERANCE)


@clips
@both
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("steps", "t"), [(10, 1000), (10, 300), (10, 100), (50, 40), (1000, 1)])
def test_ddim_step(schedule, clip, eta, steps, t, randn):
    """One DDIM step to the time T / steps earlier, with the same noise, is theirs."""
    alpha_bar, x, eps = schedule(1000), 1.5 * randn(3, 1, 4, 4), randn(3, 1, 4, 4)
    z = randn(3, 1, 4, 4)
    expected = ddim_scheduler(alpha_bar, steps, clip).step(
        eps, t - 1, x, eta=eta, use_clipped_model_output=clip, variance_noise=z)
    ours = ddim_step(x, t, t - 1000 // steps, eps, alpha_bar, eta, z, clip)
    torch.testing.assert_close(ours, expected.prev_sample, **TOLERANCE)


@clips
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("schedule", "steps"), [
    (linear_schedule, 10), (cosine_schedule, 10), (linear_schedule, 50), (cosine_schedule, 50),
    (cosine_schedule, 1000)])
def test_ddim_trajectory(schedule, clip, eta, steps, randn):
    """The times visited, and every state of a DDIM run with the same noise, are theirs."""
    alpha_bar, x, tau = schedule(1000), randn(3, 1, 4, 4), subsequence(1000, steps)
    scheduler, noise = ddim_scheduler(alpha_bar, steps, clip), seeded()
    assert (scheduler.timesteps + 1).tolist() == tau[::-1]
    ours, expected = list(ddim_sample(model, alpha_bar, x, tau, eta, seeded(), clip)), []
    for t in scheduler.timesteps:
        eps = model(x, torch.full((3,), t.item() + 1))
        x = scheduler.step(eps, t, x, eta=eta, use_clipped_model_output=clip,
                           generator=noise).prev_sample
        expected.append(x)
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), **TOLERANCE)
