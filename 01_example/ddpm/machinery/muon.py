r"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), and Adam for what is no matrix.

The gradient of a matrix is nearly of low rank: a plain step moves along a few directions only. Muon
replaces the averaged gradient U S V^T by about U V^T, and so moves along all directions alike.
"""
import torch
from torch import Tensor


def orthogonal(g: Tensor) -> Tensor:
    """About U V^T of g = U S V^T (out, in): singular values of 0.7 to 1.2, by five steps of Newton
    and Schulz, with Jordan's coefficients."""
    tall = len(g) > g.shape[1]
    x = (g.T if tall else g) / (g.norm() + 1e-7)
    gram, p = x @ x.T, torch.eye(len(x)).to(x)    # p, a polynomial of gram, applies last
    for _ in range(5):
        square = p @ p @ gram
        p = 3.4445 * p + (2.0315 * square @ square - 4.775 * square) @ p
    return (p @ x).T if tall else p @ x


class Muon(torch.optim.Optimizer):
    """Muon for `matrices` (a kernel counts as one, (out, the rest)), Adam for `others`."""

    def __init__(self, matrices: list[Tensor], others: list[Tensor], lr: float, adam_lr: float):
        groups = ("muon", matrices, lr), ("adam", others, adam_lr)
        super().__init__([{"rule": rule, "params": p, "lr": r} for rule, p, r in groups], {})

    @torch.no_grad()
    def step(self) -> None:
        """One step: momentum 0.95 after Nesterov; for Adam beta_1 = 0.9, beta_2 = 0.999."""
        for p, g, lr, rule in [(p, p.grad, group["lr"], group["rule"])
                               for group in self.param_groups for p in group["params"]
                               if p.grad is not None]:
            state = self.state[p]
            m = state.setdefault("m", torch.zeros_like(g)).lerp_(g, 0.05 if rule == "muon" else 0.1)
            if rule == "muon":
                update = orthogonal(g.lerp(m, 0.95).flatten(1))
                update *= max(1, len(update) / update.shape[1]) ** 0.5
            else:
                t = state["t"] = state.get("t", 0) + 1
                v = state.setdefault("v", torch.zeros_like(g)).lerp_(g.square(), 0.001)
                update = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            p.sub_(lr * update.view(g.shape))
