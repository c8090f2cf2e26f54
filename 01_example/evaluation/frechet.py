"""How far two clouds of feature vectors are from each other, each seen as a Gaussian."""
import math

import numpy as np
import scipy.linalg
from torch import Tensor

GROUPS = 10      # of the jackknife


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), of means m and covariances A, B.

    The squared Wasserstein-2 distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500,
    equation 6). a is (N, D), b (M, D), float64; the unit is that of the features, squared. It falls
    as N grows, with a and b of one law too: compare distances of the same N only.
    Raises: ValueError unless N > D and M > D, where the covariances have full rank.
    """
    if min(len(a), len(b)) <= a.shape[1]:
        raise ValueError(f"{min(len(a), len(b))} samples are too few for the covariance of "
                         f"{a.shape[1]} features: take more than {a.shape[1]}")
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0).numpy(), np.cov(x.numpy().T)) for x in (a, b))
    roots = np.sqrt(scipy.linalg.eigvals(cov_a @ cov_b)).real     # complex, but for rounding 0 or
    return float(((mean_a - mean_b)**2).sum()                     # more: their sum is the trace
                 + np.trace(cov_a + cov_b) - 2 * roots.sum())     # of (A B)^(1/2)


def standard_error(a: Tensor, b: Tensor) -> float:
    """How much frechet_distance(a, b) would differ for other samples a of the same law.

    The jackknife: each of GROUPS parts of a is left out in turn (Efron and Tibshirani 1993).
    """
    rows = np.arange(len(a)) % GROUPS
    left_out = np.array([frechet_distance(a[rows != k], b) for k in range(GROUPS)])
    return math.sqrt((GROUPS - 1) / GROUPS * ((left_out - left_out.mean())**2).sum())
