"""machinery/muon.py: orthogonal steps for matrices, Adam's for the rest."""
import copy

import pytest
import torch

from machinery.muon import Muon, orthogonal


@pytest.fixture
def gradient():
    """A matrix (5, 12) with singular values 1, 0.5, 0.25, 0.1, 0.05, and U V^T of it."""
    generator = torch.Generator().manual_seed(3)
    u, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(12, 5, generator=generator))
    u, v = u.double(), v.double()
    return u @ torch.diag(torch.tensor([1, 0.5, 0.25, 0.1, 0.05]).double()) @ v.T, u @ v.T


@pytest.mark.parametrize("tall", [False, True])
def test_orthogonal_keeps_directions_and_levels_sizes(gradient, tall):
    """It has g's singular vectors, and all singular values near 1, whatever the size of g."""
    g, polar = gradient
    got = 300 * g.T if tall else 0.003 * g
    got = orthogonal(got)
    got = got.T if tall else got
    sizes = torch.linalg.svdvals(got)
    assert 0.6 < sizes.min() and sizes.max() < 1.25
    turned = got @ polar.T                  # U S U^T with g's own U and V, and only then symmetric
    assert torch.dist(turned, turned.T) < 1e-4 and torch.linalg.eigvalsh(turned).min() > 0.6


def test_orthogonal_equals_the_recursion_on_the_matrix_itself(gradient):
    """Jordan's x <- a x + (b (x x^T) + c (x x^T)^2) x gives the same, product by product."""
    g = gradient[0]
    x = g / g.norm()
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x - 4.7750 * s @ x + 2.0315 * s @ s @ x
    torch.testing.assert_close(orthogonal(g), x, rtol=1e-5, atol=1e-5)


def test_muon_steps_by_the_rate_alone(gradient):
    """A kernel's step has the size of the rate, not of the gradient; a tall one's is longer."""
    g = gradient[0].float()
    for shape, factor in (((5, 3, 2, 2), 1.0), ((12, 5), (12 / 5) ** 0.5)):
        p = torch.nn.Parameter(torch.zeros(shape))
        p.grad = (g if len(shape) == 4 else g.T).reshape(shape).clone() * 1e-3
        Muon([p], [], lr=0.02, adam_lr=0.0).step()
        sizes = torch.linalg.svdvals(p.detach().flatten(1)) / (0.02 * factor)
        assert 0.6 < sizes.min() and sizes.max() < 1.25
        assert (p.detach() * p.grad).sum() < 0                  # downhill


def test_momentum_looks_back_and_ahead():
    """The second step is of g_2 mixed with the mean of both: Nesterov, with 0.95."""
    p = torch.nn.Parameter(torch.zeros(3, 3))
    optimizer = Muon([p], [], lr=1.0, adam_lr=0.0)
    one, two = torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.ones(3, 3) + torch.eye(3)
    p.grad = one
    optimizer.step()
    before, p.grad = p.detach().clone(), two
    optimizer.step()
    m = 0.95 * 0.05 * one + 0.05 * two
    torch.testing.assert_close(before - p.detach(), orthogonal(0.05 * two + 0.95 * m))


def test_the_others_step_like_adam():
    """Five steps of a vector equal torch's Adam with its default betas and epsilon."""
    generator = torch.Generator().manual_seed(4)
    ours, theirs = (torch.nn.Parameter(torch.ones(6)) for _ in range(2))
    pair = Muon([], [ours], lr=1.0, adam_lr=0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(5):
        ours.grad = torch.randn(6, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_state_that_is_stored_goes_on_alike(gradient):
    """What state_dict holds is all that the next step depends on."""
    p, v = torch.nn.Parameter(torch.zeros(5, 12)), torch.nn.Parameter(torch.zeros(4))
    one = Muon([p], [v], lr=0.02, adam_lr=0.01)
    p.grad, v.grad = gradient[0].float(), torch.arange(4.0)
    one.step()
    q, w = (torch.nn.Parameter(x.detach().clone()) for x in (p, v))
    other = Muon([q], [w], lr=0.02, adam_lr=0.01)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    p.grad = q.grad = gradient[0].float().flip(0)
    v.grad = w.grad = torch.ones(4)
    one.step()
    other.step()
    assert torch.equal(p, q) and torch.equal(v, w)
