"""unet.py: shapes, what its output depends on, and what reaches its parameters."""
import ast
import math
from pathlib import Path

import pytest
import torch

import unet
from unet import UNet, time_embedding


@pytest.fixture
def network():
    """A small U-Net without the zeros it starts with, so that every branch takes part."""
    torch.manual_seed(5)
    network = UNet(8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return network


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(6)
    return lambda n, h=8, w=8: torch.randn(n, 1, h, w, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 12), (28, 28), (32, 32), (8, 20)])
def test_output_is_float32_shaped_like_the_input(network, images, height, width):
    """Every supported size comes out as it went in, as finite float32 numbers."""
    eps = network(images(3, height, width), torch.tensor([1, 40, 1000]))
    assert eps.shape == (3, 1, height, width) and eps.dtype == torch.float32
    assert eps.isfinite().all()


def test_output_is_float32_under_autocast(network, images):
    """Computed in bfloat16, the noise still comes out as float32."""
    with torch.autocast("cpu", torch.bfloat16):
        assert network(images(2), torch.tensor([3, 7])).dtype == torch.float32


def test_new_network_returns_zero(images):
    """The head starts at zero, so that the first loss is the noise's own mean square, 1."""
    assert (UNet(8)(images(3), torch.tensor([1, 40, 1000])) == 0).all()


@pytest.mark.parametrize("width", [8, 64])
def test_width_is_the_number_of_channels(width):
    """The width sets the size: four times as many weights, or nearly, for twice the width."""
    def weights(width):
        return sum(p.numel() for p in UNet(width).parameters())
    assert 3.5 < weights(2 * width) / weights(width) < 4


def test_output_depends_on_t(network, images):
    """Another time for one image changes that image's noise, even from 999 to 1000."""
    x = images(3)
    before = network(x, torch.tensor([5, 40, 999]))
    after = network(x, torch.tensor([5, 40, 1000]))
    assert (before[2] - after[2]).abs().max() > 1e-3
    torch.testing.assert_close(before[:2], after[:2])


def test_output_depends_on_every_pixel(network, images):
    """The gradient of the noise at one pixel reaches the whole 8 x 8 image."""
    x = images(1).requires_grad_()
    network(x, torch.tensor([40]))[0, 0, 2, 5].backward()
    assert (x.grad.abs() > 0).all()


def test_images_of_a_batch_do_not_influence_each_other(network, images):
    """An image alone gives what it gives in a batch, to float32's accuracy."""
    x, t = images(4), torch.tensor([1, 40, 700, 1000])
    batch = network(x, t)
    for i in range(4):
        alone = network(x[i:i + 1], t[i:i + 1])
        torch.testing.assert_close(batch[i:i + 1], alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(network, images):
    """No parameter is cut off from the loss."""
    network(images(3), torch.tensor([1, 40, 1000])).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("shape", [(2, 1, 7, 7), (2, 1, 10, 10), (2, 1, 8, 10), (2, 1, 30, 8),
                                   (2, 3, 8, 8), (1, 8, 8)])
def test_images_that_do_not_fit_are_refused(network, shape):
    """Sides that are no multiple of 4, colour images and a missing axis stop with a message."""
    with pytest.raises((AssertionError, ValueError), match="8|7|10|30"):
        network(torch.zeros(shape), torch.ones(shape[0], dtype=torch.int64))


@pytest.mark.parametrize("times", [(3,), (2, 2), ()])
def test_times_that_do_not_fit_are_refused(network, images, times):
    """There is one time per image, as a vector."""
    with pytest.raises((AssertionError, ValueError)):
        network(images(2), torch.full(times, 5))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_come_out_as_they_go_in(channels):
    """A network of three channels takes and returns three, and mixes them."""
    torch.manual_seed(5)
    network = UNet(8, channels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    x = torch.randn(2, channels, 8, 8, requires_grad=True)
    y = network(x, torch.tensor([3, 9]))
    assert y.shape == x.shape
    y[:, 0].sum().backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    with pytest.raises(AssertionError):
        network(torch.zeros(2, 4 - channels, 8, 8), torch.tensor([3, 9]))


def test_a_label_changes_its_image_only(images):
    """New, a network says the same for all labels; trained, another label moves its own image, and
    no label means the last row, "class unknown"."""
    torch.manual_seed(5)
    network, x, t = UNet(8, classes=3), images(3), torch.tensor([1, 40, 700])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name != "label.weight":
                parameter.add_(0.2 * torch.randn(parameter.shape))
        assert torch.equal(network(x, t), network(x, t, torch.tensor([0, 1, 2])))
        network.label.weight.normal_()
        plain, told = network(x, t), network(x, t, torch.tensor([3, 1, 3]))
    torch.testing.assert_close(plain[[0, 2]], told[[0, 2]])
    assert (plain[1] - told[1]).abs().max() > 1e-3


def test_labels_for_a_network_without_classes_are_refused(images):
    with pytest.raises(AssertionError, match="no classes"):
        UNet(8)(images(2), torch.tensor([1, 2]), torch.tensor([0, 1]))


@pytest.mark.parametrize("dim", [8, 64])
def test_time_embedding_equals_its_formula(dim):
    """Row i holds sin and cos of t_i 10000^(-2k / dim), k = 0..dim/2 - 1, sines first."""
    times = [1, 3, 250, 1000]
    ours = time_embedding(torch.tensor(times), dim)
    angles = [[t * 10_000 ** (-2 * k / dim) for k in range(dim // 2)] for t in times]
    expected = [[f(a) for f in (math.sin, math.cos) for a in row] for row in angles]
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=0, atol=2e-4)


def test_time_embedding_tells_all_times_apart():
    """No two of 1000 times share a row, and equal times have equal rows."""
    rows = time_embedding(torch.arange(1, 1001), 8)
    assert torch.cdist(rows, rows).fill_diagonal_(1).min() > 1e-4
    same = time_embedding(torch.tensor([7, 7, 9]), 8)
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


def test_unet_imports_only_math_and_torch():
    """The network stands alone: it can be read, and copied, without the rest."""
    names = set()
    for node in ast.walk(ast.parse(Path(unet.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names == {"math", "torch"}
