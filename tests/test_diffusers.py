"""Both samplers against an independent implementation: the schedulers of the package diffusers."""
import re
from pathlib import Path

import nbformat
import pytest
import torch

from ddim import ddim_step, subsequence
from ddim import sample as ddim_sample
from ddpm import cosine_schedule, ddpm_step, linear_schedule
from ddpm import sample as ddpm_sample
from model import SHIPPED, Model

diffusers = pytest.importorskip("diffusers")

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
clips = pytest.mark.parametrize("clip", [False, True])
both = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def theirs(kind, alpha_bar, steps, clip, spacing="trailing", **settings):
    """Their scheduler, of `steps` of our T times, with our float64 schedule in place of its own."""
    scheduler = kind(num_train_timesteps=len(alpha_bar) - 1, clip_sample=clip,
                     timestep_spacing=spacing, **settings)
    scheduler.alphas_cumprod = alpha_bar[1:]             # its times are 0-based: its t is our t + 1
    scheduler.alphas = alpha_bar[1:] / alpha_bar[:-1]
    scheduler.betas = 1 - scheduler.alphas
    scheduler.set_timesteps(steps)
    return scheduler


def ddpm_scheduler(alpha_bar, clip, steps=None, spacing="trailing"):
    return theirs(diffusers.DDPMScheduler, alpha_bar, steps or len(alpha_bar) - 1, clip, spacing,
                  variance_type="fixed_small")


def ddim_scheduler(alpha_bar, steps, clip, spacing="trailing"):    # trailing: the last time is T
    return theirs(diffusers.DDIMScheduler, alpha_bar, steps, clip, spacing, set_alpha_to_one=True)


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
    torch.testing.assert_close(ddpm_step(x, t, eps, z, alpha_bar, clip), expected.prev_sample,
                               **TOLERANCE)


@clips
@pytest.mark.parametrize(("schedule", "T"), [
    (cosine_schedule, 10), (linear_schedule, 50), (cosine_schedule, 50), (linear_schedule, 1000),
    (cosine_schedule, 1000)])
def test_ddpm_trajectory(schedule, T, clip, randn):
    """Every state of a DDPM run over all T times, with the same noise, is theirs."""
    alpha_bar, x = schedule(T), randn(3, 1, 4, 4)
    scheduler, noise = ddpm_scheduler(alpha_bar, clip), seeded()
    ours, expected = list(ddpm_sample(model, x, alpha_bar, seeded(), clip)), []
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
    ours = ddim_step(x, t, t - 1000 // steps, eps, z, alpha_bar, eta, clip)
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
    ours, expected = list(ddim_sample(model, x, alpha_bar, tau, eta, seeded(), clip)), []
    for t in scheduler.timesteps:
        eps = model(x, torch.full((3,), t.item() + 1))
        x = scheduler.step(eps, t, x, eta=eta, use_clipped_model_output=clip,
                           generator=noise).prev_sample
        expected.append(x)
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), **TOLERANCE)


# --- other spacings of the times ------------------------------------------------------------------

SPACINGS = pytest.mark.parametrize(("spacing", "steps"), [
    ("trailing", 10), ("trailing", 7), ("leading", 10), ("leading", 7), ("leading", 50),
    ("linspace", 10), ("linspace", 7)])


def test_the_times_that_they_visit():
    """In our times: trailing ends at T; leading begins at 1 and misses T; linspace has both."""
    def visited(spacing, steps):
        timesteps = ddim_scheduler(linear_schedule(1000), steps, False, spacing).timesteps
        return (timesteps.flip(0) + 1).tolist()
    assert visited("trailing", 10) == subsequence(1000, 10)
    assert visited("leading", 10) == list(range(1, 1000, 100))
    assert visited("linspace", 10) == list(range(1, 1001, 111))
    assert visited("linspace", 1000) == visited("leading", 1000) == subsequence(1000, 1000)


@clips
@SPACINGS
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_ddim_in_any_spacing(spacing, steps, clip, eta, randn):
    """Every state of a run by their hops, which are T // steps long, with the same noise.

    Where each hop ends at the next time visited, the run is our `sample` along those times.
    """
    alpha_bar, x_T = cosine_schedule(1000), randn(3, 1, 4, 4)
    scheduler, noise = ddim_scheduler(alpha_bar, steps, clip, spacing), seeded()
    starts = [t + 1 for t in scheduler.timesteps.tolist()]
    ends = [max(t - 1000 // steps, 0) for t in starts]
    x, expected = x_T, []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, torch.full((3,), t.item() + 1)), t, x, eta=eta,
                           use_clipped_model_output=clip, generator=noise).prev_sample
        expected.append(x)
    x, noise, ours = x_T, seeded(), []
    for t, s in zip(starts, ends, strict=True):
        z = torch.randn(x.shape, dtype=x.dtype, generator=noise)
        x = ddim_step(x, t, s, model(x, torch.full((3,), t)), z, alpha_bar, eta, clip)
        ours.append(x)
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), **TOLERANCE)
    chained = ends == [*starts[1:], 0]
    assert chained == (spacing == "leading" or (spacing == "trailing" and 1000 % steps == 0))
    if chained:
        run = list(ddim_sample(model, x_T, alpha_bar, starts[::-1], eta, seeded(), clip))
        torch.testing.assert_close(torch.stack(run), torch.stack(expected), **TOLERANCE)


@clips
@SPACINGS
def test_eta_1_is_their_ddpm_in_any_spacing(spacing, steps, clip, randn):
    """DDPM of a shorter chain, by their scheduler, is our DDIM with eta = 1 along its times."""
    alpha_bar, x = linear_schedule(1000), randn(3, 1, 4, 4)
    scheduler, noise = ddpm_scheduler(alpha_bar, clip, steps, spacing), seeded()
    tau = (scheduler.timesteps.flip(0) + 1).tolist()
    ours, expected = list(ddim_sample(model, x, alpha_bar, tau, 1.0, seeded(), clip)), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, torch.full((3,), t.item() + 1)), t, x,
                           generator=noise).prev_sample
        expected.append(x)
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), **TOLERANCE)


# --- the lines that notebook 09 shows -------------------------------------------------------------

NOTEBOOK = Path(__file__).resolve().parents[1] / "01_example" / "ddim" / "ddim.ipynb"


@pytest.fixture(scope="module")
def shipped():
    """What the notebook has at hand where it shows the lines, and our digits, for two starts."""
    model = Model.load(SHIPPED, torch.device("cpu"))
    model = Model(model.network, model.config, precise=True)
    eps_model, alpha_bar, T = model.eps_model, model.alpha_bar, model.T
    x_T = torch.randn(2, 1, 28, 28, generator=seeded())
    *_, ours = ddim_sample(eps_model, x_T, alpha_bar, subsequence(T, 50), clip=True)
    return {"torch": torch, "network": model.network, "eps_model": eps_model,
            "alpha_bar": alpha_bar, "T": T, "x_T": x_T}, ours


def shown():
    """The lines that notebook 09 shows as text."""
    text = "\n".join(c.source for c in nbformat.read(NOTEBOOK, as_version=4).cells
                     if c.cell_type == "markdown")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (lines,) = [block for block in blocks if "diffusers" in block]
    return lines


def off(lines, shipped):
    """By how much a pixel differs at most from ours when these lines draw."""
    space, ours = shipped
    space = dict(space)
    exec(lines, space)
    return (space["x"] - ours).abs().max().item()


def test_the_lines_shown_draw_our_digits(shipped):
    """They run as they stand, and give our images up to float32, as does eps in place of v."""
    assert off(shown(), shipped) < 5e-3
    of_eps = shown().replace("v_prediction", "epsilon").replace("network(x,", "eps_model(x,")
    assert of_eps.count("eps") == 2 + shown().count("eps") and off(of_eps, shipped) < 5e-3


@pytest.mark.parametrize(("right", "wrong"), [
    ("t + 1", "t"), ("trained_betas=betas, ", ""), ("trailing", "leading"), ("(50)", "(51)"),
    ("one=True", "one=False"), ("v_prediction", "epsilon"), ("output=True", "output=False")])
def test_each_word_of_the_lines_matters(right, wrong, shipped):
    """A wrong one raises nothing and draws other images."""
    lines = shown()
    assert lines.count(right) == 1
    assert off(lines.replace(right, wrong), shipped) > 0.01
