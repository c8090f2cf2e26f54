"""guidance/ against closed forms: classes that are Gaussians, whose exact eps and whose exact
classifier are known, and pictures of which a part must stay."""
import ast
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import EXAMPLE
from scripts import names

sys.path[:0] = [str(EXAMPLE / "guidance")]

from editing import inpaint, noise_again, redraw, vary  # noqa: E402

sys.path.append(str(EXAMPLE / "evaluation"))

from ddim import ddim_step, encode, sample, subsequence  # noqa: E402
from ddpm import cosine_schedule, linear_schedule, noise_like, q_sample  # noqa: E402
from ddpm import sample as ddpm_sample  # noqa: E402
from guidance import classifier_free, classifier_guided, mixed, switched  # noqa: E402
from model import Config, Model, save_model  # noqa: E402

ALPHA_BAR = linear_schedule()
UNKNOWN = 3
MEANS = torch.tensor([[-0.7, 0.2], [0.5, 0.4], [0.1, -0.6]], dtype=torch.float64)
VARIANCES = torch.tensor([0.09, 0.05, 0.16], dtype=torch.float64)
PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def last(states):
    *_, x = states
    return x


def classifier(x_t, t):
    """log p(x_t, c) of three Gaussian classes in the plane, (N, 3): exact logits of the noised."""
    a = ALPHA_BAR[t][:, None]
    variance = a * VARIANCES + 1 - a                                        # (N, 3)
    off = x_t[:, None] - a[..., None].sqrt() * MEANS                        # (N, 3, 2)
    return PRIOR.log() - variance.log() - off.square().sum(2) / (2 * variance)


def conditional(labels):
    """The exact eps of these classes; UNKNOWN is their mixture. It counts its calls."""
    def eps_model(x_t, t):
        conditional.calls.append(len(x_t))
        assert x_t.shape[:1] == t.shape == labels.shape
        a = ALPHA_BAR[t][:, None, None]
        eps = ((1 - a).sqrt() * (x_t[:, None] - a.sqrt() * MEANS)
               / (a * VARIANCES[:, None] + 1 - a))                          # (N, 3, 2)
        share = torch.nn.functional.one_hot(labels, 4)[:, :3].double()
        share = torch.where(labels[:, None] == UNKNOWN, classifier(x_t, t).softmax(1), share)
        return (share[..., None] * eps).sum(1)
    return eps_model


@pytest.fixture(autouse=True)
def calls():
    conditional.calls = []
    return conditional.calls


@pytest.fixture
def points(randn):
    """Seven points at seven times, with seven labels: in general position."""
    t = torch.tensor([1, 3, 40, 200, 450, 800, 1000])
    return 1.2 * randn(7, 2), t, torch.tensor([2, 0, 1, 1, 2, 0, 1])


def unasked(labels):
    return conditional(torch.full_like(labels, UNKNOWN))


# --- asking ---------------------------------------------------------------------------------------

def test_scale_0_does_not_ask_and_scale_1_asks_plainly(points):
    x, t, labels = points
    guided = partial(classifier_free, conditional, labels, unknown=UNKNOWN)
    close(guided(scale=0.0)(x, t), unasked(labels)(x, t))
    close(guided(scale=1.0)(x, t), conditional(labels)(x, t))
    assert (conditional(labels)(x, t) - unasked(labels)(x, t)).abs().max() > 0.1


@pytest.mark.parametrize("w", [-1.0, -0.3, 0.0, 0.7, 3.0])
def test_both_conventions(w, points):
    """s = 1 + w: Ho and Salimans' (1 + w) eps_c - w eps is ours."""
    x, t, labels = points
    theirs = (1 + w) * conditional(labels)(x, t) - w * unasked(labels)(x, t)
    close(classifier_free(conditional, labels, 1 + w, UNKNOWN)(x, t), theirs)


def test_one_call_answers_both(points, calls):
    """One batch of 2 N; every image has its own label, and gets what it gets alone."""
    x, t, labels = points
    together = classifier_free(conditional, labels, 2.5, UNKNOWN)(x, t)
    assert calls == [14]
    for i in range(7):
        one = slice(i, i + 1)
        close(together[one], classifier_free(conditional, labels[one], 2.5, UNKNOWN)(x[one],
                                                                                    t[one]))


def test_the_networks_doubled_batch_is_two_calls():
    """The same for a U-Net with classes: both branches in one batch, or one after the other."""
    torch.manual_seed(1)
    config = Config(width=8, size=8, timesteps=20, classes=("a", "b", "c"))
    network = config.network()
    for parameter in network.parameters():                                  # no branch is born dead
        parameter.data += 0.1 * torch.randn_like(parameter)
    model = Model(network.requires_grad_(False), config, precise=True)
    x, t, labels = torch.randn(4, 1, 8, 8), torch.tensor([3, 20, 1, 9]), torch.tensor([2, 0, 1, 1])
    plain, asked = model.eps_model(x, t), model.conditional(labels)(x, t)
    assert (asked - plain).abs().max() > 0.01
    close(classifier_free(model.conditional, labels, 2.5, 3)(x, t), plain + 2.5 * (asked - plain),
          1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.7])
def test_the_exact_classifier_guides_as_no_classifier_does(scale, points):
    """With exact eps and the classifier of the noised data both guidances are one, in no_grad."""
    x, t, labels = points
    with torch.no_grad():
        by_slope = classifier_guided(unasked(labels), classifier, labels, ALPHA_BAR, scale)(x, t)
    assert not by_slope.requires_grad and x.grad is None
    close(by_slope, classifier_free(conditional, labels, scale, UNKNOWN)(x, t), 1e-9)


def test_the_classifiers_gradient_is_the_closed_form(points):
    """grad log p(c | x_t) is the score of the class less the mean score, by Bayes."""
    x, t, labels = points
    a = ALPHA_BAR[t][:, None, None]
    scores = -(x[:, None] - a.sqrt() * MEANS) / (a * VARIANCES[:, None] + 1 - a)
    share = classifier(x, t).softmax(1)[..., None]
    slope = scores[torch.arange(7), labels] - (share * scores).sum(1)
    guided = classifier_guided(lambda x, t: torch.zeros_like(x), classifier, labels, ALPHA_BAR, 1.7)
    close(guided(x, t), -1.7 * (1 - ALPHA_BAR[t]).sqrt()[:, None] * slope, 1e-9)


def test_several_wishes_add_up(points, calls):
    """eps + sum s_k (eps_k - eps), in one call; a class asked twice is asked more loudly."""
    x, t, labels = points
    other = (labels + 1) % 3
    ours = mixed(conditional, [labels, other], [1.5, -0.4], UNKNOWN)(x, t)
    assert calls == [21]
    plain = unasked(labels)(x, t)
    close(ours, plain + 1.5 * (conditional(labels)(x, t) - plain)
          - 0.4 * (conditional(other)(x, t) - plain))
    close(mixed(conditional, [labels, labels], [1.5, 0.7], UNKNOWN)(x, t),
          classifier_free(conditional, labels, 2.2, UNKNOWN)(x, t))
    close(mixed(conditional, [labels], [1.3], UNKNOWN)(x, t),
          classifier_free(conditional, labels, 1.3, UNKNOWN)(x, t))
    with pytest.raises(AssertionError):
        mixed(conditional, [labels, other], [1.5], UNKNOWN)


def test_switched_changes_below_its_time():
    """The early model while t > time, the late one at that time and below; each asked once."""
    model = switched(lambda x, t: x + 1, lambda x, t: x - 1, 40)
    x = torch.zeros(3, 2)
    for t, expected in ((1000, 1), (41, 1), (40, -1), (1, -1)):
        close(model(x, torch.full((3,), t)), x + expected)


GAUSSIAN = {0: 1.0, 1: 2.0}     # the class is N(0, 1), all data are N(0, 2)


def by_hand(labels):
    """Data whose class, label 0, is N(0, 1) and whose whole, label 1, is taken for N(0, 2)."""
    variance = torch.tensor([GAUSSIAN[int(label)] for label in labels], dtype=torch.float64)

    def eps_model(x_t, t):
        a = ALPHA_BAR[t]
        return (1 - a).sqrt() * x_t / (a * variance + 1 - a)
    return eps_model


@pytest.mark.parametrize("s", [1.0, 1.5, 2.5])
def test_guided_samplers_end_where_notebook_10_says(s, randn):
    """Its equation (8): DDIM at variance 2^(1 - s), DDPM at (2 - 2^(2 - 2 s)) / (2 s - 1)."""
    one = torch.ones(1, dtype=torch.float64)
    guided = classifier_free(by_hand, torch.zeros(1, dtype=torch.int64), s, 1)
    end = last(sample(guided, one, ALPHA_BAR, list(range(1, 1001))))        # a linear map of x_T
    assert end.item()**2 == pytest.approx(2**(1 - s), rel=0.01)
    n = 20_000
    guided = classifier_free(by_hand, torch.zeros(n, dtype=torch.int64), s, 1)
    end = last(ddpm_sample(guided, randn(n), ALPHA_BAR, torch.Generator().manual_seed(3)))
    exact = (2 - 2**(2 - 2 * s)) / (2 * s - 1)
    assert end.var().item() == pytest.approx(exact, rel=4 * math.sqrt(2 / n) + 0.01)


# --- editing --------------------------------------------------------------------------------------

def test_noise_again_is_the_forward_process(randn):
    """From s to t, after q_sample up to s: the mean and variance of q_sample up to t; s = t: x."""
    for s, t in ((0, 700), (40, 41), (300, 900)):
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        of_x_0 = noise_again(q_sample(one, s, zero, ALPHA_BAR), s, t, zero, ALPHA_BAR)
        of_eps = noise_again(q_sample(zero, s, one, ALPHA_BAR), s, t, zero, ALPHA_BAR)
        of_z = noise_again(zero, s, t, one, ALPHA_BAR)
        close(of_x_0, ALPHA_BAR[t].sqrt()[None])
        close(of_eps**2 + of_z**2, (1 - ALPHA_BAR[t])[None])
    x = randn(3, 2)
    close(noise_again(x, 300, 300, randn(3, 2), ALPHA_BAR), x)


RHO = 0.8       # of the two pixels of an image


def pair(x_t, t):
    """The exact eps of images of two Gaussian pixels with variance 1 and correlation RHO."""
    a = ALPHA_BAR[t][:, None, None]
    covariance = a * torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64) + (1 - a) * torch.eye(
        2, dtype=torch.float64)
    return (1 - a[..., 0]).sqrt() * torch.linalg.solve(covariance, x_t)


KNOWN = torch.tensor([True, False])


@pytest.mark.parametrize("repeats", [1, 4])
def test_inpainting_keeps_what_is_known(repeats, randn):
    """Known pixels come back to the last bit, all others are new; so many calls, S states."""
    asked, x_0, tau = [], randn(6, 2), [30, 200, 600, 1000]

    def model(x, t):
        asked.append(t[0].item())
        return pair(x, t)
    states = list(inpaint(model, randn(6, 2), x_0, KNOWN, ALPHA_BAR, tau, repeats,
                          generator=torch.Generator().manual_seed(2)))
    assert torch.equal(states[-1][:, 0], x_0[:, 0])
    assert (states[-1][:, 1] != x_0[:, 1]).all()
    assert len(states) == 4
    assert asked == [1000] * repeats + [600] * repeats + [200] * repeats + [30]


def test_inpainting_noises_the_known_pixels_to_each_time(randn):
    """At time s a known pixel is sqrt(a_s) x_0 plus noise of variance 1 - a_s."""
    n, tau = 20_000, [100, 400, 1000]
    x_0 = torch.full((n, 2), 1.7, dtype=torch.float64)
    states = inpaint(pair, randn(n, 2), x_0, KNOWN, ALPHA_BAR, tau, 2,
                     generator=torch.Generator().manual_seed(4))
    for s, x in zip((400, 100), states, strict=False):
        a = ALPHA_BAR[s].item()
        assert x[:, 0].mean().item() == pytest.approx(1.7 * a**0.5, abs=4 * math.sqrt(1 / n))
        assert x[:, 0].var().item() == pytest.approx(1 - a, rel=4 * math.sqrt(2 / n))


def test_resampling_makes_the_parts_agree(randn):
    """Given the first pixel 1.5, the second has mean 1.5 RHO = 1.2; hops taken ten times come near
    it, hops taken once fall far short."""
    n = 4000
    x_0 = torch.full((n, 2), 1.5, dtype=torch.float64)
    means = [last(inpaint(pair, randn(n, 2), x_0, KNOWN, ALPHA_BAR, subsequence(1000, 25), repeats,
                          generator=torch.Generator().manual_seed(5)))[:, 1].mean().item()
             for repeats in (1, 10)]
    assert means[0] < 0.9 and 1.05 < means[1] < 1.25


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_redraw_starts_in_the_middle(eta, randn):
    """x_0 is noised up to the last time of tau, and DDIM goes on from there."""
    x_0, tau, noise = randn(5, 2), [20, 150, 400], torch.Generator().manual_seed(6)
    ours = list(redraw(pair, x_0, ALPHA_BAR, tau, eta, torch.Generator().manual_seed(6)))
    x_t = q_sample(x_0, 400, noise_like(x_0, noise), ALPHA_BAR)
    theirs = list(sample(pair, x_t, ALPHA_BAR, tau, eta, noise))
    close(torch.stack(ours), torch.stack(theirs))


def test_redraw_keeps_less_the_later_it_starts(randn):
    """The correlation with x_0 falls with the time from which one samples, from 1 to 0."""
    x_0, kept = randn(4000, 2), []
    for t in (10, 300, 600, 1000):
        y = last(redraw(pair, x_0, ALPHA_BAR, list(range(5, t + 1, 5)), 1.0,
                        torch.Generator().manual_seed(7)))
        kept.append(torch.corrcoef(torch.stack([x_0[:, 0], y[:, 0]]))[0, 1].item())
    assert kept[0] > 0.99 and abs(kept[-1]) < 0.06
    assert kept == sorted(kept, reverse=True)


def test_variations_go_from_the_image_to_a_new_one(randn):
    """Share 0 is the way to the code and back, share 1 a fresh sample, a half is neither."""
    x_0, tau = randn(3, 40), subsequence(1000, 200)

    def model(x, t):                                        # pixels that are N(0, 1) on their own
        a = ALPHA_BAR[t][:, None]
        return (1 - a).sqrt() * x / (a * 0.25 + 1 - a)

    def of(share):
        return last(vary(model, x_0, share, ALPHA_BAR, tau, torch.Generator().manual_seed(8)))
    code = last(encode(model, x_0, ALPHA_BAR, tau))
    close(of(0.0), last(sample(model, code, ALPHA_BAR, tau)))
    close(of(0.0), x_0, 0.05)
    fresh = noise_like(x_0, torch.Generator().manual_seed(8))
    close(of(1.0), last(sample(model, fresh, ALPHA_BAR, tau)))
    gaps = [(of(share) - x_0).norm().item() for share in (0.0, 0.2, 0.5, 1.0)]
    assert gaps == sorted(gaps)


def test_an_edit_is_the_same_in_any_batch(randn):
    """With a generator of its own an image ends the same, whatever else is edited beside it."""
    x_T, x_0, tau = randn(3, 2), randn(3, 2), [30, 200, 1000]

    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    edits = {"inpaint": lambda i, g: inpaint(pair, x_T[i], x_0[i], KNOWN, ALPHA_BAR, tau, 3,
                                             generator=g),
             "redraw": lambda i, g: redraw(pair, x_0[i], ALPHA_BAR, tau, 0.5, g),
             "vary": lambda i, g: vary(pair, x_0[i], 0.4, ALPHA_BAR, tau, g)}
    for edit in edits.values():
        whole = last(edit([0, 1, 2], seeded(4, 5, 6)))
        close(whole, torch.cat([last(edit([0], seeded(4))), last(edit([1, 2], seeded(5, 6)))]))


# --- the script -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A file of a model with ten classes of 28 x 28, that has learned nothing, T = 24."""
    torch.manual_seed(2)
    config = Config(width=8, timesteps=24, classes=tuple("0123456789"))
    network = config.network()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    network.label.weight.data *= 30
    path = tmp_path_factory.mktemp("classes") / "model.safetensors"
    save_model(path, network, config)
    return path


@pytest.mark.parametrize("flags", [
    "--scale nan", "--scale inf", "--scale loud", "--sampler euler", "--steps 0", "--steps 25",
    "--eta 2", "--label 10", "--label seven", "--n 0", "--out a.txt"])
def test_sample_refuses_bad_usage(flags, call, classes, tmp_path, monkeypatch):
    """Exit 2, one line that names the flag, nothing written."""
    monkeypatch.chdir(tmp_path)
    few = [] if "--steps" in flags else ["--steps", 4]
    call("guidance", "sample", "--weights", classes, *few, *flags.split()).refuses(
        2, flags.split()[0])
    assert names(tmp_path) == []


def test_sample_refuses_a_model_that_knows_no_classes(call, tmp_path):
    path = tmp_path / "model.safetensors"
    config = Config(width=8, timesteps=24)
    save_model(path, config.network(), config)
    call("guidance", "sample", "--weights", path, "--out", tmp_path / "a.png").refuses(
        2, "--label all", "knows no classes")
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sample_at_scales_0_and_1_draws_what_the_samplers_draw(sampler, call, classes, tmp_path):
    """Scale 0 is the sampler without a label, scale 1 the sampler with it, 3 is neither."""
    few = ["--steps", 4] if sampler == "ddim" else []

    def drawn(folder, *flags):
        out = tmp_path / "a.npy"
        done = call(folder, "sample", "--weights", classes, "--n", 3, "--out", out, *few, *flags)
        assert done.status == 0, done
        return np.load(out).astype(int)
    guided = {scale: drawn("guidance", "--sampler", sampler, "--label", 7, "--scale", scale)
              for scale in (0, 1, 3)}
    assert guided[0].shape == (3, 28, 28)
    assert abs(guided[0] - drawn(sampler)).max() <= 2                   # rounding of other batches
    assert abs(guided[1] - drawn(sampler, "--label", 7)).max() <= 2
    assert abs(guided[0] - guided[1]).max() > 8 and abs(guided[3] - guided[1]).max() > 8


def test_sample_draws_a_row_of_each_class_by_default(call, classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("guidance", "sample", "--weights", classes, "--steps", 1, "--n", 2)
    assert (done.status, done.out) == (0, "20 images: samples.png\n")


@pytest.mark.parametrize("folder", ["ddpm", "ddim"])
def test_the_samplers_do_not_know_guidance(folder):
    """The arrow goes from guidance/ to ddpm/ and ddim/ only."""
    for path in (EXAMPLE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [node.module] if isinstance(node, ast.ImportFrom) else [
                name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not {"guidance", "editing"} & set(found), path


# --- the table ------------------------------------------------------------------------------------

@pytest.fixture
def table(script):
    return script("evaluation", "guidance_table")


def test_distance_within_a_class_by_hand(table):
    """Two flat images of each class, 51 and 102 grey levels apart: 0.2 and 0.4, 0.3 in the mean."""
    images = torch.tensor([0, 51, 100, 202], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 5, 5)
    within = table.distance_within(images, torch.tensor([4, 4, 7, 7]))
    assert within == pytest.approx(0.3, rel=1e-5)
    assert table.distance_within(images, torch.tensor([4, 7, 4, 7])) > 0.35


def test_recall_is_the_share_of_real_points_within_reach(table):
    """Against a loop over all pairs; one law has nearly all, a shrunken one few, a far one none."""
    generator = torch.Generator().manual_seed(9)
    real, samples = torch.randn(2, 300, 3, generator=generator, dtype=torch.float64)
    radius = [sorted((samples - x).norm(dim=1).tolist())[3] for x in samples]
    inside = [any((x - y).norm() <= r for x, r in zip(samples, radius, strict=True)) for y in real]
    assert table.recall(samples, real) == pytest.approx(sum(inside) / 300)
    assert table.recall(samples, real) > 0.8 > 0.5 > table.recall(0.3 * samples, real)
    assert table.recall(samples + 20, real) == 0


def test_equal_calls_for_every_scale(table, classes, monkeypatch):
    """40 images at 6 calls each, whether they are asked for or not, and labels where one asks."""
    model, asked = Model.load(classes, torch.device("cpu")), []
    monkeypatch.setattr(model, "computed", lambda x, t, label=None: asked.append(
        len(x)) or 0.1 * x * (1 if label is None else 1 + label.view(-1, 1, 1, 1)))
    model.eps_model = model.objective.eps_model(model.computed, model.alpha_bar)
    labels, drawn = torch.arange(4).repeat_interleave(10), {}
    for scale in (0.0, 1.0, 2.0):
        asked.clear()
        drawn[scale] = table.draw(model, labels, scale, 3, 6, 0.0)
        assert sum(asked) == 240 and drawn[scale].shape == (40, 1, 28, 28)
    assert not torch.equal(drawn[0.0], drawn[1.0]) and not torch.equal(drawn[1.0], drawn[2.0])


class Bars:
    """A stand-in for the judge and MNIST: a classifier that reads how bright an image is."""

    data_dir = None

    def __init__(self, *_):
        generator = torch.Generator().manual_seed(10)
        self.labels = torch.arange(10).repeat(30)
        self.test = (25 * self.labels.view(-1, 1, 1, 1) + torch.randint(
            25, (300, 1, 28, 28), generator=generator)).to(torch.uint8)
        self.network, self.features = None, self.see(self.test)[0]

    @staticmethod
    def see(images):
        brightness = images.flatten(1).double().mean(1)
        logits = -(brightness[:, None] - 12 - 25 * torch.arange(10)).abs()
        return images.flatten(1)[:, :96].double(), logits.softmax(1)

    def measure(self, images):
        return {"n": len(images), "frechet": 1.0, "standard_error": 0.1}


def test_the_table_is_filled_and_drawn(table, classes, monkeypatch, tmp_path, capsys):
    """A cell for each scale and seed and for the best scales; a row for each, a figure."""
    monkeypatch.setattr(table, "Judge", Bars)
    monkeypatch.setattr(table, "classify", lambda network, images: Bars.see(images))
    monkeypatch.setattr(table, "mnist_with_labels", lambda data_dir: (Bars().test, Bars().labels))
    monkeypatch.setattr(table, "SCALES", (0.0, 1.0, 2.0))
    out = tmp_path / "g.json"
    flags = ["--weights", str(classes), "--n", "120", "--n-best", "130", "--calls", "2", "--seeds",
             "2", "--out", str(out)]
    table.main(flags)
    lines = (tmp_path / "g.md").read_text().splitlines()
    assert sum(line.startswith("| s = ") for line in lines) >= 4
    real = next(line for line in lines if line.startswith("| real digits |"))
    assert [float(cell) for cell in real.split("|")[4:6]] == pytest.approx([1, 1], abs=0.01)
    unasked_row = next(line for line in lines if "nobody asks" in line)
    assert "| 2 |" in unasked_row and "+-" in unasked_row
    assert any(line.startswith("| s = 2 | 1 |") for line in lines)
    assert any("n = 130" in line for line in lines)
    assert (tmp_path / "g.png").exists()
    capsys.readouterr()
    table.main(flags)                                                   # nothing is drawn again
    assert "done" not in capsys.readouterr().out


@pytest.mark.parametrize("flags", ["--n 119", "--n 125", "--n-best 5", "--calls 3", "--calls 26",
                                   "--eta 2", "--seeds 0"])
def test_the_table_refuses_bad_usage(flags, call, classes, tmp_path):
    """Exit 2 and one line, before MNIST is asked for."""
    call("evaluation", "guidance_table", "--weights", classes, "--out", tmp_path / "t.json",
         *flags.split()).refuses(2, flags.split()[0])


def test_the_table_refuses_a_model_without_classes(call, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, Config(width=8).network(), Config(width=8))
    call("evaluation", "guidance_table", "--weights", path, "--out", tmp_path / "t.json").refuses(
        2, "--weights", "classes")


def test_ddim_step_is_the_hop_of_inpainting(randn):
    """With nothing known and no noise, inpainting is DDIM."""
    x_T, nothing, tau = randn(4, 2), torch.tensor([False, False]), [100, 500, 1000]
    x = x_T
    for t, s in ((1000, 500), (500, 100), (100, 0)):
        x = ddim_step(x, t, s, pair(x, torch.full((4,), t)), torch.zeros_like(x), ALPHA_BAR, 0.0)
    close(last(inpaint(pair, x_T, randn(4, 2), nothing, ALPHA_BAR, tau, eta=0.0)), x)


def test_the_cosine_schedule_does_as_well(randn):
    """Nothing here belongs to one schedule: the known pixel stays under the cosine one, too."""
    alpha_bar, x_0 = cosine_schedule(50), randn(3, 2)
    end = last(inpaint(lambda x, t: x, randn(3, 2), x_0, KNOWN, alpha_bar, [10, 50]))
    assert torch.equal(end[:, 0], x_0[:, 0])
