"""evaluation/: the distance, the bits and the tables, against closed forms and brute force."""
import argparse
import json
import math
import sys
import time

import numpy as np
import pytest
import torch
from conftest import EXAMPLE

sys.path.append(str(EXAMPLE / "evaluation"))

import judge as judge_module  # noqa: E402
from classifier import (  # noqa: E402
    SHIPPED,
    Classifier,
    accuracy,
    classify,
    fit,
    load_classifier,
    save_classifier,  # noqa: E402
)
from ddpm import cosine_schedule, linear_schedule, predict_x_0, q_sample  # noqa: E402
from frechet import frechet_distance, standard_error  # noqa: E402
from judge import Judge  # noqa: E402
from likelihood import decoder_bits, prior_bits, step_bits, terms  # noqa: E402
from machinery.cli import Parser  # noqa: E402
from machinery.weights import digest, load_weights, save_weights  # noqa: E402
from model import SHIPPED as WEIGHTS  # noqa: E402
from model import Config, Model  # noqa: E402
from results import Results  # noqa: E402
from samplers import draw_ddim  # noqa: E402
from unet import UNet  # noqa: E402

CPU = torch.device("cpu")


# --- the Frechet distance -------------------------------------------------------------------------

def cloud(mean, root, n=400, seed=1):
    """n vectors whose sample mean is `mean` and sample covariance root root^T, exactly."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x = x - x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(x @ np.asarray(root).T + np.asarray(mean))


def test_distance_of_gaussians_with_the_same_axes():
    """|m - m'|^2 + sum (s - s')^2, for axes with deviations s and s'."""
    a = cloud([0.3, -1.0, 2.0], np.diag([1.0, 0.5, 2.0]))
    b = cloud([0.1, 0.5, 2.5], np.diag([0.7, 1.5, 0.4]), 700, 2)
    expected = 0.2**2 + 1.5**2 + 0.5**2 + 0.3**2 + 1.0**2 + 1.6**2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_distance_does_not_depend_on_the_axes():
    """Turning both clouds alike changes nothing; turning one of them does."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    a, b = cloud([0, 1, 0], np.diag([1, 2, 3])), cloud([1, 0, 0], np.diag([3, 1, 1]), 500, 4)
    turned = [torch.from_numpy(x.numpy() @ turn) for x in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert abs(frechet_distance(turned[0], b) - frechet_distance(a, b)) > 0.1


def test_distance_of_a_cloud_from_itself_is_0():
    a = cloud([0.3, -1.0], [[1.0, 0.0], [0.5, 0.2]])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_samples_for_a_covariance_are_refused(n):
    """N <= D raises, on either side."""
    few, many = torch.randn(n, 3).double(), cloud([0, 0, 0], np.eye(3))
    for pair in ((few, many), (many, few)):
        with pytest.raises(ValueError, match="too few"):
            frechet_distance(*pair)


def test_standard_error_is_the_spread_over_other_samples():
    """The jackknife's error of one sample is the deviation over 60 samples, within a third."""
    rng, b = np.random.default_rng(5), cloud([0.4, 0, 0, 0], np.eye(4), 3000)
    samples = [torch.from_numpy(rng.normal(size=(200, 4))) for _ in range(60)]
    spread = np.std([frechet_distance(a, b) for a in samples], ddof=1)
    errors = np.mean([standard_error(a, b) for a in samples])
    assert errors == pytest.approx(spread, rel=0.33)


# --- bits per dimension ---------------------------------------------------------------------------

@pytest.mark.parametrize("centre", [-1.3, -1.0, -0.42, 0.003, 0.77, 1.0])
@pytest.mark.parametrize("schedule", [cosine_schedule(), linear_schedule(), cosine_schedule(20)])
def test_decoder_is_a_law_over_the_256_grey_levels(schedule, centre):
    """2^-bits of one pixel, summed over all grey levels, is 1."""
    levels = (torch.arange(256).double() / 127.5 - 1)[:, None]
    code = decoder_bits(torch.full_like(levels, centre), levels, schedule)
    assert code.shape == (256,) and code.isfinite().all()
    assert (2**-code).sum().item() == pytest.approx(1, abs=1e-9)
    assert levels[code.argmin()].item() == pytest.approx(max(-1, min(1, centre)), abs=0.005)


def test_prior_bits_are_a_divergence_of_gaussians(randn):
    """L_T is torch's own divergence, in bits a pixel."""
    alpha_bar, x_0 = cosine_schedule(30), randn(4, 1, 3, 3).clamp(-1, 1)
    normal, a = torch.distributions.Normal, alpha_bar[-2].item()
    expected = torch.distributions.kl_divergence(
        normal(math.sqrt(a) * x_0, torch.tensor(math.sqrt(1 - a)).double()), normal(0.0, 1.0))
    torch.testing.assert_close(prior_bits(x_0, alpha_bar[:-1]),
                               expected.mean((1, 2, 3)) / math.log(2), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("t", [2, 3, 17, 40])
def test_step_bits_are_a_divergence_of_gaussians(t, randn):
    """L_{t-1} is the divergence between Bayes' posterior of x_{t-1}, found on a grid, and the same
    with the network's x_0 in place of the true one."""
    alpha_bar = cosine_schedule(40)
    x_0, x_0_hat, eps = 0.31, 0.22, -0.8
    a_t, a_s = alpha_bar[t].item(), alpha_bar[t - 1].item()
    x_t = math.sqrt(a_t) * x_0 + math.sqrt(1 - a_t) * eps
    grid = torch.linspace(-6, 6, 240_001, dtype=torch.float64)

    def posterior(x):
        log = (-(grid - math.sqrt(a_s) * x)**2 / (2 * (1 - a_s))
               - (x_t - math.sqrt(a_t / a_s) * grid)**2 / (2 * (1 - a_t / a_s)))
        return log - log.logsumexp(0)
    p, q = posterior(x_0_hat), posterior(x_0)
    expected = (q.exp() * (q - p)).sum().item() / math.log(2)
    one = [torch.full((1, 1), value, dtype=torch.float64) for value in (x_0_hat, x_0, x_t)]
    assert step_bits(*one, t, alpha_bar).item() == pytest.approx(expected, rel=1e-5)


def test_terms_ask_the_model_once_at_t_and_clip_its_belief(randn):
    """L_{t-1} and the square error come from x_t, t and the clipped x_0_hat."""
    alpha_bar, x_0, eps, asked = cosine_schedule(40), randn(3, 1, 4, 4).clamp(-1, 1), randn(
        3, 1, 4, 4), []

    def model(x, t):
        asked.append(t.tolist())
        return 0.9 * x.tanh()
    for t in (1, 2, 25):
        x_t = q_sample(x_0, t, eps, alpha_bar)
        belief = predict_x_0(x_t, t, 0.9 * x_t.tanh(), alpha_bar).clamp(-1, 1)
        cost, error = terms(model, x_0, alpha_bar, t, eps)
        expected = (decoder_bits(belief, x_0, alpha_bar) if t == 1
                    else step_bits(belief, x_0, x_t, t, alpha_bar))
        torch.testing.assert_close(cost, expected)
        torch.testing.assert_close(error, (belief - x_0).square().mean((1, 2, 3)))
    assert asked == [[1] * 3, [2] * 3, [25] * 3]


# --- the classifier and the judge -----------------------------------------------------------------

def strokes(n: int, seed: int):
    """n uint8 images with a bright bar as long as its class says: a toy MNIST, with labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=generator)
    images = torch.randint(40, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 4:6 + 2 * label, 12:16] = 250
    return images, labels


def test_the_shipped_classifier_is_small_and_good():
    """Under 1.5 MB; its card says 99.4% or more."""
    assert SHIPPED.stat().st_size < 1_500_000
    assert load_weights(SHIPPED)[1]["classifier"]["test_accuracy"] >= 0.994


def test_the_shipped_classifier_reads_the_shipped_models_digits():
    """It is sure of most of 100 digits, and finds nearly all classes among them."""
    images = draw_ddim(Model.load(WEIGHTS, CPU), 100, 3, 10)
    confidence, named = classify(load_classifier(SHIPPED, CPU), images)[1].max(1)
    assert confidence.median() > 0.95 and len(named.unique()) >= 8


def test_a_classifier_learns_what_it_is_shown():
    """On the toy it beats chance by far, and its features have the shape that they should."""
    network = fit(*strokes(384, 1), 14, 0, CPU)
    assert accuracy(network, *strokes(300, 2)) > 0.3
    features, probabilities = classify(network, strokes(7, 3)[0])
    assert features.shape == (7, 96) and features.dtype == torch.float64
    torch.testing.assert_close(probabilities.sum(1), torch.ones(7))


def test_a_classifier_survives_its_file(tmp_path):
    """Saved and loaded, it says the same."""
    torch.manual_seed(0)
    network, images = Classifier().eval(), strokes(5, 4)[0]
    save_classifier(tmp_path / "c.safetensors", network, {"epochs": 0})
    again = load_classifier(tmp_path / "c.safetensors", CPU)
    torch.testing.assert_close(classify(again, images), classify(network, images))


@pytest.mark.parametrize("content", [None, b"", b"not one", WEIGHTS.read_bytes(),
                                     SHIPPED.read_bytes()[:5000]],
                         ids=["missing", "empty", "text", "a diffusion model", "truncated"])
def test_a_file_that_is_no_classifier_is_refused(content, tmp_path):
    """One OSError that says what to do."""
    path = tmp_path / "c.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match="no file|no classifier of this course"):
        load_classifier(path, CPU)


@pytest.fixture
def toy(monkeypatch):
    """The judge's test and training images are the toy's."""
    monkeypatch.setattr(judge_module, "mnist_with_labels",
                        lambda data_dir, train=True: strokes(400, 10 + train))
    monkeypatch.setattr(judge_module, "mnist", lambda data_dir: strokes(400, 11)[0])
    return Judge(CPU)


def test_the_judge_prefers_real_images(toy):
    """Real images stay near the floor, noise is far above; the summary's shares add up."""
    floor, real = toy.floor(200), toy.measure(strokes(200, 7)[0])
    noise = toy.measure(torch.randint(256, (200, 1, 28, 28), dtype=torch.uint8))
    assert 0 < floor["frechet"] and floor["standard_deviation"] > 0
    assert real["frechet"] < 5 * floor["frechet"]
    assert noise["frechet"] > 100 * floor["frechet"]
    assert real["n"] == floor["n"] == 200 and sum(real["classes"]) == pytest.approx(1, abs=1e-3)


def test_learning_from_samples_uses_the_shipped_classifiers_labels(toy, monkeypatch):
    """The new classifier is trained on the given images with the names the judge gives them."""
    shown = {}

    def fake_fit(images, labels, epochs, seed, device):
        shown.update(images=images, labels=labels, epochs=epochs)
        return toy.network
    monkeypatch.setattr(judge_module, "fit", fake_fit)
    images = strokes(100, 8)[0]
    assert toy.learn(images) == accuracy(toy.network, toy.test, toy.labels)
    assert torch.equal(shown["images"], images) and shown["epochs"] == 3000
    assert torch.equal(shown["labels"], classify(toy.network, images)[1].argmax(1))


# --- a model that draws ---------------------------------------------------------------------------

def test_model_draws_the_same_image_whatever_n():
    """Images belong to their seed and number, not to their batch; both samplers, two seeds."""
    model = Model.load(WEIGHTS, CPU)
    few, more = draw_ddim(model, 2, 5, 4, eta=1.0), draw_ddim(model, 5, 5, 4, eta=1.0)
    assert few.shape == (2, 1, 28, 28) and few.dtype == torch.uint8
    assert (few.int() - more[:2].int()).abs().max() <= 3          # bfloat16, another batch
    assert not torch.equal(few, draw_ddim(model, 2, 6, 4, eta=1.0))


def test_digest_names_a_content(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_weights(tmp_path / name, {"w": torch.tensor([value])}, {})
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b != c


# --- tables that can be interrupted ---------------------------------------------------------------

def test_results_keep_finished_cells(tmp_path):
    """After an interrupt in the second cell, the first is there and is not computed again."""
    path, parser = tmp_path / "new" / "table.json", Parser("a table")

    def interrupt():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        results = Results(path, {"n": 3}, parser)
        results.cell("first", lambda x: {"value": x}, 7)
        results.cell("second", interrupt)
    again = Results(path, {"n": 3}, parser)
    assert again.cell("first", interrupt) == {"value": 7}
    assert again.cell("second", lambda: {"value": 8}) == {"value": 8}
    assert json.loads(path.read_text())["cells"] == {"first": {"value": 7}, "second": {"value": 8}}


def test_results_of_other_settings_are_not_mixed(tmp_path, capsys):
    """Exit 2, one line that names what differs, and the file stays."""
    path, parser = tmp_path / "table.json", Parser("a table")
    Results(path, {"n": 3, "seed": 0}, parser).cell("a", dict)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as left:
        Results(path, {"n": 4, "seed": 0}, parser)
    assert left.value.code == 2 and path.read_bytes() == before
    error = capsys.readouterr().err
    assert "other settings (n)" in error and error.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"cells": 1, "settings": {}}', "\x00"])
def test_a_file_that_is_no_table_is_refused(content, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(OSError, match="holds no results"):
        Results(path, {}, Parser("a table"))
    assert path.read_text() == content


def test_results_write_text_and_figure(tmp_path, capsys):
    """A Markdown table and a PNG stand beside the JSON file."""
    from matplotlib.figure import Figure
    results = Results(tmp_path / "t.json", {}, Parser("a table"))
    results.text(["S", "10"], [["MNIST", 0.5]])
    results.figure(Figure())
    results.figure(Figure(), "other")
    assert (tmp_path / "t.md").read_text() == "| S | 10 |\n| --- | --- |\n| MNIST | 0.5 |\n"
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("t.png", "other.png"))


# --- the scripts ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def digits_model(script, tmp_path_factory):
    """A model of the small digits, which the classifier cannot judge."""
    folder = tmp_path_factory.mktemp("digits")
    script("ddpm", "train").main(["--dataset", "digits", "--epochs", "1", "--width", "8",
                                  "--timesteps", "20", "--out", str(folder)])
    return folder / "model.safetensors"


@pytest.mark.parametrize(("name", "flags"), [
    ("evaluate", "--n 119"), ("evaluate", "--n 60001"), ("evaluate", "--steps 1001"),
    ("evaluate", "--eta 2"), ("evaluate", "--weights DIGITS"), ("ddim_table_1", "--n 119"),
    ("ddim_table_1", "--weights DIGITS"), ("ddim_table_2", "--n 1"), ("ddim_table_2", "--n 10001"),
    ("ddim_table_2", "--weights DIGITS"), ("ddim_figures", "--weights DIGITS"),
    ("ddpm_table_2", "--n 20"), ("ddpm_table_4", "--n 1"), ("ddpm_table_4", "--weights DIGITS"),
    ("ddpm_figures", "--weights DIGITS"), ("minutes", "--n 119"), ("minutes", "--minutes 0"),
    ("minutes", "--steps 1001"), ("train_classifier", "--epochs 0")])
def test_bad_usage_ends_in_one_line(name, flags, script, digits_model, tmp_path, capsys):
    """Exit 2 and one line, before any work and before MNIST is asked for."""
    argv = [str(digits_model) if flag == "DIGITS" else flag for flag in flags.split()]
    if name != "evaluate":
        argv += ["--out", str(tmp_path / "t.json")]
    with pytest.raises(SystemExit) as left:
        script("evaluation", name).main(argv)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("*.md"))


def test_evaluate_prints_and_writes_what_it_measured(script, toy, monkeypatch, tmp_path, capsys):
    """Distance, error, floor, confidence, classes, and the classifier trained on samples."""
    evaluate = script("evaluation", "evaluate")
    monkeypatch.setattr(evaluate, "Judge", lambda device, data_dir: toy)
    monkeypatch.setattr(judge_module, "SHOWN", 100)
    path = tmp_path / "e.json"
    evaluate.main(["--n", "120", "--steps", "2", "--eta", "0.5", "--spacing", "quadratic",
                   "--train-on-samples", "--json", str(path), "--device", "cpu"])
    got = json.loads(path.read_text())
    assert got["settings"] == {"weights": digest(WEIGHTS), "sampler": "ddim", "steps": 2,
                               "eta": 0.5, "spacing": "quadratic", "seed": 0}
    expected = toy.measure(draw_ddim(Model.load(WEIGHTS, CPU), 120, 0, 2, 0.5, "quadratic"))
    assert got["samples"] == expected and got["floor"] == toy.floor(120)
    assert 0 <= got["trained on samples"] <= 1
    shown = capsys.readouterr().out
    assert f"{expected['frechet']:.3f}" in shown and "times the floor" in shown


def test_the_clock_of_minutes_stands_still_while_samples_are_judged(script, monkeypatch, tmp_path):
    """A look when each share of the time is over, the learning rate 0 at the end, and both
    networks' samples as large as MNIST's, though the other one sees 32 x 32."""
    minutes, seen, drawn = script("evaluation", "minutes"), set(), []

    class Small(UNet):
        def forward(self, x, t):
            seen.add(x.shape[1:])
            return super().forward(x, t)

    class Slow:
        def measure(self, images):
            drawn.append(images.shape)
            time.sleep(0.2)
            return {"frechet": 2.0, "standard_error": 0.5, "confidence": 0.9}
    monkeypatch.setattr(minutes, "unet_of_most_tutorials", lambda: (Small(8), 32))
    monkeypatch.setitem(minutes.CONFIG, "width", 8)
    args = argparse.Namespace(minutes=0.01, n=3, steps=2, seed=1, device=CPU)
    results = Results(tmp_path / "m.json", {}, Parser("minutes"))
    for kind in minutes.KINDS:
        began = time.perf_counter()
        looks = results.cell(kind, minutes.train_and_judge, kind, args, strokes(256, 1)[0],
                             Slow())["looks"]
        assert len(looks) == 6 and drawn[-6:] == [(3, 1, 28, 28)] * 6
        for share, look_ in zip(minutes.LOOKS, looks, strict=True):
            assert look_["minutes"] >= round(0.01 * share, 2) and look_["images"] % 128 == 0
        spent = time.perf_counter() - began - 6 * 0.2       # seconds, without the six looks
        assert 60 * looks[-1]["minutes"] < spent + 0.31     # that of a look is rounded to 0.6 s
    assert seen == {(1, 32, 32)}
    minutes.report(results, {"frechet": 0.3})
    assert (tmp_path / "m.md").read_text().count("| 2.00 +- 0.50 | 0.900 |") == 12
    training = minutes.Clocked(Config(**minutes.CONFIG, epochs=1),
                               strokes(256, 1)[0], CPU, seconds=8.0)
    training.spent = 4.0
    assert training.pace() == pytest.approx(0.5)
    training.spent = 9.0
    assert training.pace() == pytest.approx(0)


def test_minutes_needs_the_other_package(script, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", None)
    with pytest.raises(SystemExit, match="2"):
        script("evaluation", "minutes").main(["--minutes", "1"])
    assert "pip install denoising-diffusion-pytorch" in capsys.readouterr().err


def test_table_2_of_ddim_restores_better_with_more_steps(script):
    """The error of going up and down falls as S grows, on the model's own digits."""
    table = script("evaluation", "ddim_table_2")
    model = Model.load(WEIGHTS, CPU)
    images = draw_ddim(model, 4, 0, 20)
    few, many = (table.restore(model, images, S)["mean_square_error"] for S in (5, 40))
    assert 0 < many < 0.5 * few


def test_table_4_adds_up(script, tmp_path, capsys):
    """Rates of the steps and of the images agree, and the last row is the whole bound."""
    table = script("evaluation", "ddpm_table_4")

    class Untrained:
        T, alpha_bar, device = 20, cosine_schedule(20), CPU

        @staticmethod
        def eps_model(x, t):
            return 0.5 * x
    results = Results(tmp_path / "t.json", {}, Parser("a table"))
    for k in range(2):
        images = torch.randint(256, (3 + k, 1, 4, 4), dtype=torch.uint8)
        cell = results.cell(str(k), table.all_terms, Untrained, images, k)
        assert len(cell["step_bits"]) == len(cell["square_errors"]) == 20
        assert sum(cell["step_bits"]) + cell["prior_bits"] == pytest.approx(
            sum(cell["bits_of_each_image"]), rel=1e-5)
        assert sum(cell["rate_of_each_image"]) == pytest.approx(
            sum(cell["step_bits"][1:]) + cell["prior_bits"], rel=1e-5)
    table.report(results, 20)
    rows = [line.split(" | ") for line in (tmp_path / "t.md").read_text().splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows[:10]] == [str(20 - 2 * k) for k in range(10)]
    rates = [float(row[1]) for row in rows[:10]]
    assert rates == sorted(rates, reverse=True)
