"""A trained model: network, schedule and configuration; the only place that knows its file."""
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from data import to_uint8
from ddpm import SCHEDULES, EpsModel, noise_like
from machinery.devices import autocast
from machinery.drawing import generate
from machinery.weights import load_weights, save_weights
from objectives import OBJECTIVES
from unet import UNet

SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "mnist.safetensors"
WITH_CLASSES = SHIPPED.with_name("mnist_classes.safetensors")     # what guidance/ needs

Sampler = Callable[..., Iterator[Tensor]]   # sampler(eps_model, x_T, alpha_bar, generator=...)


@dataclass(frozen=True)
class Config:
    """How a model was trained: what its weights mean, and what they depend on."""

    dataset: str = "mnist"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.02
    timesteps: int = 1000
    schedule: str = "cosine"
    predict: str = "v"
    width: int = 64
    seed: int = 0
    size: int = 28
    channels: int = 1
    classes: tuple[str, ...] = ()            # their names; none: the network takes no labels

    def __post_init__(self) -> None:
        """Raises: TypeError or ValueError if no network belongs to this configuration."""
        for name in ("width", "size", "timesteps", "channels"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}")
        object.__setattr__(self, "classes", tuple(self.classes))        # of JSON's list
        if not all(isinstance(name, str) for name in self.classes):
            raise TypeError(f"the classes are {self.classes}")
        if self.size % 4 or self.predict not in OBJECTIVES or self.schedule not in SCHEDULES:
            raise ValueError(f"no network has {self}")
        SCHEDULES[self.schedule](self.timesteps)            # which may refuse

    def network(self) -> UNet:
        """A new U-Net of this kind."""
        return UNet(self.width, self.channels, len(self.classes))


class Model:
    """A network and its schedule on one device: `eps_model`, `alpha_bar`, T, draws of images."""

    def __init__(self, network: nn.Module, config: Config, precise: bool = False):
        """`precise` keeps float32 where bfloat16 would be faster."""
        self.network, self.config = network, config
        self.device = next(network.parameters()).device
        self.alpha_bar = schedule(config, self.device)
        self.T = config.timesteps
        self.computed = network if precise else autocast(network)
        self.objective = OBJECTIVES[config.predict]
        self.eps_model = self.objective.eps_model(self.computed, self.alpha_bar)

    def conditional(self, labels: Tensor) -> EpsModel:
        """The eps_model of images with these labels, (N,), of a network that knows classes."""
        asked = partial(self.computed, label=labels.to(self.device))
        return self.objective.eps_model(asked, self.alpha_bar)

    def states(self, sampler: Sampler, eps_model: EpsModel, generators: list[torch.Generator]
               ) -> Iterator[Tensor]:
        """x_T, drawn from the generators, then what the sampler yields: (N, C, H, W) each."""
        shape = (len(generators), self.config.channels, self.config.size, self.config.size)
        x_T = noise_like(torch.empty(shape, device=self.device), generators)
        yield x_T
        yield from sampler(eps_model, x_T, self.alpha_bar, generator=generators)

    def draw(self, sampler: Sampler, *, n: int, seed: int, steps: int,
             labels: Tensor | None = None, conditional: Callable[[Tensor], EpsModel] | None = None
             ) -> tuple[Tensor, list[Tensor]]:
        """n images, uint8 (n, C, H, W), and some states of the first ones on their way.

        With labels (n,) each image is of its class: `conditional` makes an eps_model of labels; by
        default that is the method of this name.
        """
        def states(numbers: range, generators: list[torch.Generator]) -> Iterator[Tensor]:
            eps_model = self.eps_model
            if labels is not None:
                eps_model = (conditional or self.conditional)(labels[numbers.start:numbers.stop])
            return self.states(sampler, eps_model, generators)

        images, frames = generate(states, n=n, seed=seed, steps=steps,
                                  on_gpu=self.device.type != "cpu")
        return to_uint8(images), [to_uint8(frame) for frame in frames]

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "Model":
        """The model of a file that save_model wrote.

        Raises: OSError if the file is missing, damaged, or not a model of this course.
        """
        try:
            tensors, stored = load_weights(path)
            if set(stored) != {field.name for field in fields(Config)}:
                raise ValueError(f"the configuration has the keys {list(stored)}")
            config = Config(**stored)
            with torch.device("meta"):          # only shapes, until the tensors take their places
                network = config.network()
            network.load_state_dict(tensors, assign=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise OSError(f"{path} is damaged, or no model of this course: take a "
                          "model.safetensors that train.py wrote") from error
        network.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
        return cls(network, config)


def schedule(config: Config, device: torch.device) -> Tensor:
    """alpha_bar, (T + 1,), float64, where the images are; mps has no float64: there on the CPU."""
    alpha_bar = SCHEDULES[config.schedule](config.timesteps)
    return alpha_bar if device.type == "mps" else alpha_bar.to(device)


def save_model(path: Path, network: nn.Module, config: Config) -> None:
    """The network's tensors and its configuration as one file, with a sum of both."""
    save_weights(path, network.state_dict(), asdict(config))
