"""Algorithm 1 of DDPM, and the training around it: learning rate, moving average, log, state."""
import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from data import to_unit
from ddpm import noise_like
from machinery.devices import autocast
from machinery.muon import Muon
from machinery.processes import ddp, mean, print0, rank, shard
from model import Config, schedule
from objectives import OBJECTIVES

ADAM_SHARE = 0.1         # Adam's learning rate, as a share of Muon's
UNKNOWN = 0.2            # the share of labels that the network is not told
FALL = 0.2               # the share of all steps, at the end, in which the learning rate falls to 0
EMA_DECAY = 0.999        # the averaged weights look back over about 1 / (1 - decay) steps
WARM_UP = 0.02           # the share of all steps in which the learning rate climbs to its peak
CLIP = 1.0               # the largest norm of a gradient
LOG = {"epoch": int, "loss": float, "seconds": float, "images_per_second": float}


def algorithm_1(loss: Callable[..., Tensor], x_0: Tensor, T: int,
                optimizer: torch.optim.Optimizer, generator: torch.Generator) -> Tensor:
    """One pass through the loop of Algorithm 1 (Ho, Jain and Abbeel 2020).

    `x_0` (N, ...) are images of the data set (line 2), and `loss(x_0, t, eps)` is the
    network's error, l_simple for example. Returns that error, ().
    """
    t = torch.randint(1, T + 1, x_0.shape[:1], generator=generator,
                      device=generator.device)          # line 3: a time for each image
    eps = noise_like(x_0, generator)                    # line 4
    error = loss(x_0, t, eps)
    optimizer.zero_grad()
    error.backward()                                    # line 5
    clip_gradients(optimizer)
    optimizer.step()
    return error.detach()


def clip_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Shortens the gradient of all parameters together to the norm CLIP, if longer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, CLIP)


def update_ema(ema: Iterable[Tensor], parameters: Iterable[Tensor], step: int) -> None:
    """Moves the exponential moving average of the weights after a step, in place."""
    decay = min(EMA_DECAY, step / (step + 9))           # a young average forgets faster
    for average, parameter in zip(ema, parameters, strict=True):
        average.lerp_(parameter.detach(), 1 - decay)


class Training:
    """A training between two steps: all that its next step depends on, as one object.

    The learning rate follows from the step, and the order of the images, the times and the noise
    from the generator, so that a training that was resumed and one that was not end alike. Several
    processes hold a copy each, and take their shares of every batch.
    """

    def __init__(self, config: Config, images: Tensor, device: torch.device,
                 labels: Tensor | None = None):
        """`labels` (N,) are needed if the network knows classes."""
        torch.manual_seed(config.seed)
        self.config, self.images = config, images.to(device)    # the whole set, on the device
        self.network = self.make_network().to(device, memory_format=torch.channels_last)
        self.labels = labels.to(device) if config.classes else None
        example = to_unit(self.images[:1]), torch.ones(1, dtype=torch.int64, device=device)
        self.model = autocast(ddp(self.network, *example))      # what learns, on all processes
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = self.make_optimizer()
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.alpha_bar = schedule(config, device)
        self.steps = len(images) // config.batch_size           # an epoch
        self.read_every = 1 if device.type == "cpu" else 20     # steps: to read a loss is to wait
        self.step = 0
        self.order = torch.empty(0)                             # of the images, in this epoch
        self.loss_sum, self.seconds = 0.0, 0.0                  # over this epoch's steps
        self.log: list[dict] = []                               # a row per epoch
        self.drawn: dict[int, Tensor] = {}                      # images by the epoch's number

    def make_network(self) -> nn.Module:
        """The network that learns."""
        return self.config.network()

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Muon for what is a matrix inside the network, Adam for the rest; the peak rates."""
        outer = "stem.weight", "head.weight", "label.weight"
        named, lr = list(self.network.named_parameters()), self.config.lr
        matrices = [p for name, p in named if p.ndim > 1 and name not in outer]
        others = [p for name, p in named if p.ndim == 1 or name in outer]
        return Muon(matrices, others, lr, ADAM_SHARE * lr)

    def progress(self) -> float:
        """The share of the training, 0..1, at the middle of the next step."""
        return (self.step + 0.5) / (self.steps * self.config.epochs)

    def pace(self) -> float:
        """The learning rate as a share of its peak: a short climb, then 1, then a fall to 0. (Since
        it is held in between, a training may go on with more epochs.)"""
        return min(self.progress() / WARM_UP, 1.0, (1 - self.progress()) / FALL)

    def hide(self, labels: Tensor) -> Tensor:
        """The labels, a share UNKNOWN of them replaced by "class unknown", the number `classes`."""
        u = torch.rand(labels.shape, generator=self.generator, device=self.generator.device)
        return labels.masked_fill(u < UNKNOWN, len(self.config.classes))

    def loss(self, x_0: Tensor, t: Tensor, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The objective, on this process's own rows of the batch (each process draws the whole)."""
        x_0, t, eps = map(shard, (x_0, t, eps))
        model = self.model if labels is None else partial(self.model, label=shard(labels))
        return OBJECTIVES[self.config.predict].loss(model, x_0, t, eps, self.alpha_bar)

    def update(self, x_0: Tensor, labels: Tensor | None = None) -> Tensor:
        """One step on the images x_0 (N, C, H, W), which have these labels (N,), if the network
        knows classes; returns the loss, the mean of all processes."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.pace()
        told = None if labels is None else self.hide(labels)
        loss = algorithm_1(partial(self.loss, labels=told), x_0, self.config.timesteps,
                           self.optimizer, self.generator)
        self.step += 1
        update_ema(self.ema.parameters(), self.network.parameters(), self.step)
        return mean(loss)

    def labels_of(self, batch: Tensor) -> Tensor | None:
        """The labels of the images with these numbers; None if the network knows no classes."""
        return None if self.labels is None else self.labels[batch]

    def new_order(self) -> Tensor:
        """The numbers of the images, shuffled."""
        return torch.randperm(len(self.images), generator=self.generator,
                              device=self.generator.device)

    def epoch(self, between_steps: Callable[[], None] = lambda: None) -> None:
        """One pass over the images in a new order, or the rest of one that was interrupted.

        `between_steps` is called every few steps, when the losses so far are read and found finite:
        there the training may be saved, or left. Raises: FloatingPointError for a loss of inf.
        """
        size, done = self.config.batch_size, self.step % self.steps
        if not done:
            self.order = self.new_order()
            self.loss_sum, self.seconds = 0.0, 0.0
        unread, began = [], time.perf_counter()
        with tqdm(total=self.steps * size, initial=done * size, unit=" images", unit_scale=True,
                  desc=f"epoch {len(self.log) + 1} of {self.config.epochs}", leave=False,
                  disable=True if rank() else None) as bar:
            for i, batch in enumerate(self.order.split(size)[done:self.steps], done + 1):
                unread.append(self.update(to_unit(self.images[batch]), self.labels_of(batch)))
                bar.update(size)
                if i % self.read_every == 0 or i == self.steps:
                    self.add_losses(unread)
                    bar.set_postfix(loss=f"{self.loss_sum / i:.4f}", refresh=False)
                    self.seconds += time.perf_counter() - began
                    if i == self.steps:
                        self.log_epoch()
                    between_steps()
                    unread, began = [], time.perf_counter()

    def add_losses(self, losses: list[Tensor]) -> None:
        """Adds up the losses of the last steps. Raises: FloatingPointError if one is not finite."""
        for step, loss in enumerate(torch.stack(losses).tolist(), self.step - len(losses)):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of step {step + 1} is {loss} (seed {self.config.seed}, epoch "
                    f"{step // self.steps + 1}, batch {step % self.steps + 1} of {self.steps})")
            self.loss_sum += loss

    def log_epoch(self) -> None:
        """The epoch's row of the log."""
        images = self.steps * self.config.batch_size
        self.log.append({"epoch": len(self.log) + 1, "loss": round(self.loss_sum / self.steps, 5),
                         "seconds": round(self.seconds, 2),
                         "images_per_second": round(images / self.seconds, 1)})

    def state(self) -> dict:
        """The whole training as tensors, numbers and text."""
        return {"config": asdict(self.config), "step": self.step, "order": self.order,
                "loss_sum": self.loss_sum, "seconds": self.seconds, "log": self.log,
                "drawn": self.drawn, "network": self.network.state_dict(),
                "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict()["state"],
                "generator": self.generator.get_state(), "device": self.generator.device.type}

    def restore(self, state: dict) -> None:
        """Goes back to what state() returned.

        Raises: KeyError, RuntimeError or ValueError if that belongs to another kind of training.
        """
        self.step, self.loss_sum, self.seconds = state["step"], state["loss_sum"], state["seconds"]
        self.order, self.log = state["order"].to(self.images.device), state["log"]
        self.drawn = state["drawn"]
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(),
                                        "state": state["optimizer"]})
        if state["device"] == self.generator.device.type:
            self.generator.set_state(state["generator"])
        else:                                           # whose generator has another kind of state
            self.generator.manual_seed(self.config.seed + self.step)
            print0(f"the checkpoint comes from {state['device']}: times and noise are drawn anew")
