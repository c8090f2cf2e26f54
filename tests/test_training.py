"""training.py: Algorithm 1's step, the rate, the labels that are hidden, the average."""
import pytest
import torch

from ddpm import l_simple, linear_schedule
from model import Config
from training import FALL, UNKNOWN, WARM_UP, Training, algorithm_1, update_ema


@pytest.fixture
def training():
    """A small training of 40 images of three classes, which has not begun."""
    config = Config(width=8, size=8, timesteps=12, batch_size=8, epochs=4, classes=("a", "b", "c"))
    images = torch.arange(40 * 64, dtype=torch.uint8).view(40, 1, 8, 8)
    return Training(config, images, torch.device("cpu"), torch.arange(40) % 3)


def test_algorithm_1_is_a_step_downhill_at_its_own_times_and_noise():
    """t and eps come from the generator in this order; the parameter moves by rate times gradient,
    as its loss's derivative by hand says."""
    scale = torch.nn.Parameter(torch.tensor(0.2))
    optimizer, generator = torch.optim.SGD([scale], lr=0.1), torch.Generator().manual_seed(7)
    x_0, alpha_bar = torch.linspace(-1, 1, 12).view(3, 1, 2, 2), linear_schedule(100)
    loss = algorithm_1(lambda x, t, eps: l_simple(lambda x_t, t: scale * x_t, x, t, eps, alpha_bar),
                       x_0, 100, optimizer, generator)
    again = torch.Generator().manual_seed(7)
    t = torch.randint(1, 101, (3,), generator=again)
    eps = torch.randn(3, 1, 2, 2, generator=again)
    a = alpha_bar[t].float().view(3, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    assert loss.item() == pytest.approx((eps - 0.2 * x_t).square().mean().item(), rel=1e-5)
    slope = (-2 * x_t * (eps - 0.2 * x_t)).mean().clamp(-1, 1)         # CLIP is 1
    assert scale.item() == pytest.approx((0.2 - 0.1 * slope).item(), rel=1e-5)


def test_each_parameter_has_one_rule(training):
    """Matrices inside the network are Muon's; ends, labels, biases and norms are Adam's."""
    muon, adam = (set(map(id, group["params"])) for group in training.optimizer.param_groups)
    assert not muon & adam
    for name, p in training.network.named_parameters():
        inner = p.ndim > 1 and name not in ("stem.weight", "head.weight", "label.weight")
        assert id(p) in (muon if inner else adam), name
    assert training.peaks == pytest.approx([0.02, 0.002])


def test_the_rate_climbs_is_held_and_falls(training):
    """1 between WARM_UP and 1 - FALL; half of it in the middle of either slope; 0 at the end."""
    steps = training.steps * training.config.epochs
    for share, pace in ((WARM_UP / 2, 0.5), (WARM_UP, 1), (0.5, 1), (1 - FALL, 1),
                        (1 - FALL / 2, 0.5), (1, 0)):
        training.step = share * steps - 0.5
        assert training.pace() == pytest.approx(pace)
    training.step = 10
    training.update(torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64))
    training.step = 10
    assert [group["lr"] for group in training.optimizer.param_groups] == pytest.approx(
        [peak * training.pace() for peak in training.peaks])


def test_a_share_of_the_labels_is_hidden(training):
    """UNKNOWN of them become the number after the last class, the others stay."""
    labels = torch.arange(3).repeat(3000)
    told = training.hide(labels)
    hidden = told == 3
    assert abs(hidden.double().mean() - UNKNOWN) < 5 * (UNKNOWN * (1 - UNKNOWN) / 9000) ** 0.5
    assert torch.equal(told[~hidden], labels[~hidden])
    assert not torch.equal(training.hide(labels), told)


def test_the_network_is_told_the_labels_of_its_images(training, monkeypatch):
    """In an epoch each image meets its own label or "unknown": image i begins with 64 i mod 256."""
    met = []
    monkeypatch.setattr(training, "hide", lambda labels: labels)
    monkeypatch.setattr(training, "loss", lambda x_0, t, eps, labels: met.extend(
        zip(x_0[:, 0, 0, 1].tolist(), labels.tolist(), strict=True)) or training.ema_loss())
    training.ema_loss = lambda: training.network.head.bias.sum()
    training.images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 8, 8)
    training.epoch()
    assert sorted((round((x + 1) * 127.5), label) for x, label in met) == [
        (i, i % 3) for i in range(40)]


def test_the_average_follows_the_weights():
    """After step 1 nine tenths of the new weights, in the long run a thousandth."""
    for step, share in ((1, 0.9), (91, 0.09), (10**6, 0.001)):
        average = [torch.tensor([1.0])]
        update_ema(average, [torch.tensor([3.0])], step)
        assert average[0].item() == pytest.approx(1 + 2 * share, rel=1e-4)
