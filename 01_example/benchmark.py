r"""How fast does our U-Net train? Side by side with two packages, in one run, in turns.

    pip install denoising-diffusion-pytorch diffusers    # optional: measured where installed
    python 01_example/benchmark.py --json benchmark.json

prints a table and writes it as JSON; about ten minutes on two CPU cores. A step is forward,
backward and Adam on 128 random images. Ours is train.py's own step at 28 x 28 (bfloat16 where the
device is fast at it, gradient clipping and averaged weights included). The peers are as they come,
in float32: denoising-diffusion-pytorch's Unet(dim=32, dim_mults=(1, 2, 4, 8)) at 32 x 32, which
most tutorials train, and diffusers' UNet2DModel as in its MNIST course. All share one process, and
so one memory allocator. The contestants take turns, so that a slow minute of the machine hits all.
"""
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "ddpm"))   # the code that is measured

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from cli import Parser, count, run  # noqa: E402
from data import import_torchvision, to_unit  # noqa: E402
from device import device  # noqa: E402
from files import prepare, write  # noqa: E402
from train import Training  # noqa: E402


def ours(batch: int, device: torch.device) -> tuple[Callable[[], object], int]:
    """One step of train.py on images that are as large as MNIST's, and the number of parameters."""
    images = torch.randint(256, (10 * batch, 1, 28, 28), dtype=torch.uint8)
    config = {"seed": 0, "width": 64, "schedule": "cosine", "timesteps": 1000, "batch_size": batch,
              "epochs": 1000, "lr": 2e-3, "predict": "v"}
    training = Training(config, images, device)

    def step() -> None:
        pick = torch.randint(len(images), (batch,), device=device)
        training.update(to_unit(training.images[pick]))
    return step, parameters(training.network)


def peer(network: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], size: int, batch: int,
         device: torch.device) -> tuple[Callable[[], object], int]:
    """One plain step in float32 of another package's network, and its number of parameters."""
    network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    x, eps = torch.randn(2, batch, 1, size, size, device=device)
    t = torch.randint(1, 1000, (batch,), device=device)

    def step() -> None:
        loss = (eps - forward(x, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step, parameters(network)


def parameters(network: nn.Module) -> int:
    """How many numbers the network learns."""
    return sum(p.numel() for p in network.parameters())


def contestants(batch: int, device: torch.device) -> dict[str, tuple[Callable[[], object], int]]:
    """Ours, and each peer that is installed."""
    found = {"ours": ours(batch, device)}
    import_torchvision()   # both packages import it
    if importlib.util.find_spec("denoising_diffusion_pytorch"):
        from denoising_diffusion_pytorch import Unet
        network = Unet(dim=32, dim_mults=(1, 2, 4, 8), channels=1)
        found["denoising-diffusion-pytorch"] = peer(network, network, 32, batch, device)
    if importlib.util.find_spec("diffusers"):
        from diffusers import UNet2DModel
        network = UNet2DModel(
            sample_size=28, in_channels=1, out_channels=1, layers_per_block=2,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"))
        found["diffusers"] = peer(network, lambda x, t: network(x, t).sample, 28, batch, device)
    return found


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """How long one step takes, once it is done on the device too."""
    began = time.perf_counter()
    step()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - began


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, and writes --json. Raises: OSError if that file cannot be written."""
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=count, default=15, help="steps timed of each contestant")
    parser.add_argument("--batch-size", type=count, default=128, help="images a step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    if args.json:
        prepare(args.json)
    steps = contestants(args.batch_size, args.device)
    times = {name: [] for name in steps}
    for turn in tqdm(range(args.rounds + 2), unit="round", leave=False):
        for name, (step, _) in steps.items():
            spent = seconds(step, args.device)
            if turn >= 2:                                       # the first two rounds warm up
                times[name].append(spent)
    rates = {name: [args.batch_size / t for t in spent] for name, spent in times.items()}
    speed = {name: round(statistics.median(rate), 1) for name, rate in rates.items()}

    print(f"{'training, images/s':30} {'median':>8} {'lowest':>8} {'highest':>8} {'ours is':>9}"
          f" {'parameters':>12}")
    for name, rate in rates.items():
        ratio = speed["ours"] / speed[name]
        print(f"{name:30} {speed[name]:8.1f} {min(rate):8.1f} {max(rate):8.1f} {ratio:8.1f}x"
              f" {steps[name][1]:12,}")
    if args.json:
        result = {"train_images_per_second": speed,
                  "lowest": {name: round(min(rate), 1) for name, rate in rates.items()},
                  "highest": {name: round(max(rate), 1) for name, rate in rates.items()},
                  "parameters": {name: number for name, (_, number) in steps.items()},
                  "rounds": args.rounds, "batch_size": args.batch_size, "device": str(args.device),
                  "threads": torch.get_num_threads(), "torch": torch.__version__}
        write(args.json, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    run(main)
