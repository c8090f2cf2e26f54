"""Another recipe of training, which some tables use: Adam under a cosine."""
import math

import torch

from training import WARM_UP, Training


class AdamTraining(Training):
    """train.py's training by Adam for all weights, the learning rate annealed from the start."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Adam at the configuration's rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.config.lr, fused=True)

    def pace(self) -> float:
        """A short linear climb to the peak, then half a cosine down to 0."""
        return min(self.progress() / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * self.progress()))
