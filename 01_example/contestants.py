"""What benchmark.py measures: ours, ours with one optimisation taken away, and two packages.

A contestant is made from a batch size and a device, and has two methods: learn() trains on a batch,
hop() takes a batch of samples one hop of DDIM on.
"""
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data import import_torchvision, to_unit
from ddim import sample, subsequence
from ddpm import cosine_schedule
from machinery.devices import autocast, why_not_compile
from model import SHIPPED, Config, Model
from training import Training
from unet import Attention

T, S = 1000, 50          # the chain, and the hops of DDIM through it
BATCH = 250              # images
SAMPLING = [(64, 10), (64, 20), (64, 40), (64, 80),                     # n and S
            (BATCH, 10), (2 * BATCH, 10), (4 * BATCH, 10), (100, S)]
TRAINING = [1, 2, 4, 8]  # batches


def hops(eps_model: Callable, x_T: Tensor, alpha_bar: Tensor) -> Iterator[Tensor]:
    """The states of one DDIM chain after another, all from x_T."""
    while True:
        yield from sample(eps_model, x_T, alpha_bar, subsequence(T, S), clip=True)


class Ours(Training):
    """train.py as it is, on random images as large as MNIST's; DDIM from its averaged weights."""

    def __init__(self, batch: int, device: torch.device):
        images = torch.randint(256, (10 * batch, 1, 28, 28), dtype=torch.uint8)
        super().__init__(Config(timesteps=T, epochs=1000, batch_size=batch), images, device)
        self.batches = self.load()
        self.change()
        model = Model(self.ema, self.config)
        self.states = hops(model.eps_model, torch.randn(batch, 1, 28, 28, device=device),
                           model.alpha_bar)

    def change(self) -> None:
        """Nothing here: what a subclass does otherwise."""

    def load(self) -> Iterator[Tensor]:
        """Batches of the data set, which is one tensor on the device."""
        while True:
            pick = torch.randint(len(self.images), (self.config.batch_size,),
                                 device=self.images.device)
            yield to_unit(self.images[pick])

    def learn(self) -> None:
        """Trains on one batch."""
        self.update(next(self.batches))

    def hop(self) -> None:
        """Takes one batch of samples one hop on."""
        next(self.states)


class Compiled(Ours):
    """Both networks compiled; on a GPU each is then one CUDA graph."""

    def change(self) -> None:
        self.network.compile(mode="reduce-overhead")
        self.ema.compile(mode="reduce-overhead")


class ChannelsFirst(Ours):
    """The layout (N, C, H, W), PyTorch's default."""

    def change(self) -> None:
        self.network.to(memory_format=torch.contiguous_format)
        self.ema.to(memory_format=torch.contiguous_format)


class Float32(Ours):
    """No bfloat16: autocast is off inside both networks."""

    def change(self) -> None:
        for network in (self.network, self.ema):
            network.forward = torch.autocast(self.images.device.type, enabled=False)(
                network.forward)


class Images(Dataset):
    """One image at a time, as torchvision's data sets hand them out."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return to_unit(self.images[i])


class Loaded(Ours):
    """The data set in the host's memory, behind a DataLoader with its default settings."""

    hop = None               # samples as Ours does

    def load(self) -> Iterator[Tensor]:
        """Batches collected image by image."""
        loader = DataLoader(Images(self.images.cpu()), self.config.batch_size, shuffle=True)
        while True:
            yield from (batch.to(self.images.device) for batch in loader)


class FusedAdam(Ours):
    """Adam for all weights, fused into one kernel, in place of Muon."""

    hop = None

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=2e-3, fused=True)


class KernelAttention(Attention):
    """Attention by PyTorch's scaled_dot_product_attention."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w).mT
        y = F.scaled_dot_product_attention(*qkv.unbind(1))  # (N, heads, H W, C / heads)
        return x + self.out(y.mT.reshape(n, c, h, w))


class Kernel(Ours):
    """The same weights with the other attention."""

    def change(self) -> None:
        for module in [*self.network.modules(), *self.ema.modules()]:
            if isinstance(module, Attention):
                module.__class__ = KernelAttention


class Peer:
    """Another package's network as it comes: plain steps in float32."""

    def __init__(self, make: Callable[[], tuple[nn.Module, int]], batch: int, device: torch.device):
        self.network, size = make()
        self.network.to(device)
        self.x, self.eps = torch.randn(2, batch, 1, size, size, device=device)
        self.t = torch.randint(1, T, (batch,), device=device)
        self.optimise()
        alpha_bar = cosine_schedule(T).float().to(device)       # mps has no float64
        self.states = hops(self.eps_model, self.eps, alpha_bar)

    def optimise(self) -> None:
        """Sets the network and its optimiser up."""
        self.eps_model = self.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)

    def learn(self) -> None:
        """Trains on one batch."""
        loss = (self.eps - self.eps_model(self.x, self.t)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def hop(self) -> None:
        """Takes one batch of samples one hop on."""
        next(self.states)


class OptimisedPeer(Peer):
    """The same with what ours has: channels_last, bfloat16, the fused Adam."""

    def optimise(self) -> None:
        self.network.to(memory_format=torch.channels_last)
        self.eps_model = autocast(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, fused=True)


def unet_of_most_tutorials() -> tuple[nn.Module, int]:
    """The network that denoising-diffusion-pytorch's users train, and the size of its images."""
    import_torchvision()   # the package imports it
    from denoising_diffusion_pytorch import Unet
    return Unet(dim=32, dim_mults=(1, 2, 4, 8), channels=1), 32


def unet_of_diffusers() -> tuple[nn.Module, int]:
    """The network of diffusers' MNIST course, and the size of its images."""
    import_torchvision()
    from diffusers import UNet2DModel
    network = UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"))
    network.register_forward_hook(lambda module, args, output: output.sample)
    return network, 28


def contestants() -> dict[str, Callable[[int, torch.device], Ours | Peer]]:
    """Each name with what makes it from a batch size and a device; says what is not measured."""
    found = {"ours": Ours, "ours, channels first": ChannelsFirst, "ours, float32": Float32,
             "ours, DataLoader": Loaded, "ours, Adam": FusedAdam,
             "ours, library attention": Kernel}
    missing = why_not_compile()
    if not missing:
        found["ours, torch.compile"] = Compiled
    else:
        print(f"not measured: torch.compile, which needs {missing}")
    for name, make in (("denoising-diffusion-pytorch", unet_of_most_tutorials),
                       ("diffusers", unet_of_diffusers)):
        if importlib.util.find_spec(name.replace("-", "_")):
            found[name] = partial(Peer, make)
            found[f"{name}, optimised"] = partial(OptimisedPeer, make)
        else:
            print(f"not measured: {name}, which is not installed")
    return found


def train_batches(batches: int, batch: int, device: torch.device) -> Callable[[], object]:
    """Some steps of train.py."""
    ours = Ours(batch, device)
    return lambda: [ours.learn() for _ in range(batches)]


def draw_digits(n: int, steps: int, batch: int, device: torch.device) -> Callable[[], object]:
    """What ddim/sample.py does between reading the weights and writing the images."""
    model = Model.load(SHIPPED, device)
    sampler = partial(sample, tau=subsequence(T, steps), clip=True)
    return lambda: model.draw(sampler, n=n, seed=0, steps=steps)


def growing(batch: int) -> dict[str, tuple[Callable, int]]:
    """Each name with what makes the work, and how many passes of an image through the network."""
    found = {f"sampling, n = {n}, S = {steps}": (partial(draw_digits, n, steps), n * steps)
             for n, steps in SAMPLING}
    return found | {f"training, {k * batch} images": (partial(train_batches, k), k * batch)
                    for k in TRAINING}
