"""What the tests share: the way to the examples, their scripts as modules, exact Gaussian noise."""
import functools
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "01_example"
sys.path[:0] = [str(EXAMPLE / "ddpm"), str(EXAMPLE / "ddim")]    # plain folders: nothing to install

_matplotlib = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
os.environ.setdefault("MPLCONFIGDIR", _matplotlib.name)
if "PYTEST_XDIST_WORKER" in os.environ:                     # a core each, so a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from scripts import call, trained, weights  # noqa: E402, F401
from torch import Tensor  # noqa: E402


@functools.cache
def _load(folder: str, name: str) -> ModuleType:
    path = EXAMPLE / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script():
    """script("ddim", "sample") is ddim/sample.py, which shares its name with ddpm's."""
    return _load


class Mixture:
    """A mixture of two Gaussians on the line, for which the best eps(x_t, t) is known exactly."""

    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means = torch.tensor([-0.6, 0.4], dtype=torch.float64)
    variances = torch.tensor([0.06, 0.04], dtype=torch.float64)
    mean = float(weights @ means)
    variance = float(weights @ (variances + means**2)) - mean**2

    def eps_model(self, alpha_bar: Tensor):
        """E[eps | x_t] as a model for x_t (N,): by Bayes over the two parts of q(x_t)."""
        def eps(x_t: Tensor, t: Tensor) -> Tensor:
            assert t.shape == x_t.shape
            a = alpha_bar[t][:, None]                                    # (N, 1)
            variance = a * self.variances + 1 - a                        # (N, 2), of x_t in a part
            off = x_t[:, None] - a.sqrt() * self.means
            log_joint = self.weights.log() - variance.log() / 2 - off**2 / (2 * variance)
            x_0 = self.means + a.sqrt() * self.variances / variance * off
            x_0 = (log_joint.softmax(1) * x_0).sum(1)                    # E[x_0 | x_t]
            return (x_t - a[:, 0].sqrt() * x_0) / (1 - a[:, 0]).sqrt()
        return eps

    def kolmogorov_smirnov(self, x: Tensor) -> float:
        """The largest distance between the mixture's distribution function and that of x (N,)."""
        x = x.sort().values
        standardised = (x[:, None] - self.means) / self.variances.sqrt()
        cdf = (self.weights * torch.special.ndtr(standardised)).sum(1)
        steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
        return float(torch.maximum((cdf - steps[:-1]).abs(), (steps[1:] - cdf).abs()).max())


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    return Mixture()


@pytest.fixture
def randn():
    """Seeded standard normal float64 noise of a shape."""
    generator = torch.Generator().manual_seed(20)
    return lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)
