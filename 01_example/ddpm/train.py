r"""Train eps_theta(x_t, t) by DDPM's Algorithm 1, on MNIST or, without a network, on small digits.

    python 01_example/ddpm/train.py                      # MNIST
    python 01_example/ddpm/train.py --dataset digits     # 8 x 8 digits, nothing to download

The folder OUT then holds model.safetensors (the averaged weights and their configuration),
samples.png, log.csv (a line an epoch), and checkpoint.pt, from which --resume goes on.
"""
import argparse
import copy
import math
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from checkpoint import load_checkpoint, save_checkpoint, save_model
from cli import Parser, count, positive, run, seed
from data import FOLDER, load, to_unit
from ddpm import EPS_MODELS, LOSSES, SCHEDULES, noise_like, sample
from device import device, fast
from draw import generate
from files import prepare, write
from picture import grid, png
from unet import UNet

EPOCHS = {"mnist": 30, "digits": 200}
EMA_DECAY = 0.999        # the averaged weights look back over about 1 / (1 - decay) steps
WARM_UP = 0.02           # the share of all steps in which the learning rate climbs to its peak
CLIP = 1.0               # the largest norm of a gradient
PICTURES = 3             # how often in a training samples.png is drawn


def width(text: str) -> int:
    """A flag's value that counts channels: even for the time's sines and cosines, and above 64 a
    multiple of 32, so that the attention's heads get equal shares."""
    value = count(text)
    if value % (32 if value > 64 else 2):
        raise argparse.ArgumentTypeError(f"{text} is not even, or above 64 no multiple of 32")
    return value


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags, with the number of epochs that suits the data set."""
    parser = Parser(__doc__)
    parser.add_argument("--dataset", choices=list(EPOCHS), default="mnist", help="what to learn")
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help="where MNIST is")
    parser.add_argument("--out", type=Path, default=Path("runs/ddpm"), help="the results' folder")
    parser.add_argument("--epochs", type=count, default=argparse.SUPPRESS,
                        help="passes over the data"
                        f" (default: {EPOCHS['mnist']} for mnist, {EPOCHS['digits']} for digits)")
    parser.add_argument("--batch-size", type=count, default=128, help="images a step")
    parser.add_argument("--lr", type=positive, default=2e-3, help="learning rate at its peak")
    parser.add_argument("--timesteps", type=count, default=1000, help="T, the steps of the chain")
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="cosine", help="alpha_bar")
    parser.add_argument("--predict", choices=list(LOSSES), default="v",
                        help="what the network predicts: the noise, or v, a mixture of it and x_0")
    parser.add_argument("--width", type=width, default=64, help="channels of the U-Net")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, batches and noise")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--resume", action="store_true",
                        help="go on from OUT/checkpoint.pt; of the flags only --epochs may differ")
    args = parser.parse_args(argv)
    args.epochs = vars(args).get("epochs", EPOCHS[args.dataset])
    try:
        SCHEDULES[args.schedule](args.timesteps)
    except ValueError as error:
        parser.error(f"--timesteps {args.timesteps}: {error}")
    return args, parser


class Training:
    """A training between two epochs: all that the next one depends on, as one object.

    The learning rate follows from the step, and the order of the images, the times and the noise
    from the generator, so that a training that was resumed and one that was not end alike.
    """

    def __init__(self, config: dict, images: Tensor, device: torch.device):
        torch.manual_seed(config["seed"])
        self.config, self.images = config, images.to(device)    # the whole set, on the device
        self.network = UNet(config["width"]).to(device, memory_format=torch.channels_last)
        self.forward = fast(self.network)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)
        self.generator = torch.Generator(device).manual_seed(config["seed"])
        self.alpha_bar = SCHEDULES[config["schedule"]](config["timesteps"])
        if device.type == "cuda":                               # mps has no float64
            self.alpha_bar = self.alpha_bar.to(device)
        self.steps = len(images) // config["batch_size"]        # an epoch
        self.step = 0
        self.log: list[dict] = []                               # a row an epoch

    def learning_rate(self) -> float:
        """A short linear climb to the peak, then half a cosine down to 0."""
        progress = (self.step + 0.5) / (self.steps * self.config["epochs"])
        cosine = 0.5 + 0.5 * math.cos(math.pi * progress)
        return self.config["lr"] * min(progress / WARM_UP, cosine)

    def update(self, x_0: Tensor) -> Tensor:
        """One step of Algorithm 1 on the images x_0 (N, 1, H, W); returns the loss."""
        t = torch.randint(1, self.config["timesteps"] + 1, x_0.shape[:1], generator=self.generator,
                          device=self.generator.device).to(self.alpha_bar.device)
        loss = LOSSES[self.config["predict"]](
            self.forward, x_0, t, noise_like(x_0, self.generator), self.alpha_bar)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 9))     # a young average forgets faster
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        for mean, parameter in pairs:
            mean.lerp_(parameter.detach(), 1 - decay)
        return loss.detach()

    def epoch(self) -> None:
        """One pass over the images in a new order. Raises: FloatingPointError for a loss of inf."""
        number, size, began = len(self.log) + 1, self.config["batch_size"], time.perf_counter()
        order = torch.randperm(len(self.images), generator=self.generator,
                               device=self.generator.device)[:self.steps * size]
        total = torch.zeros((), device=self.images.device)      # read rarely: reading waits
        with tqdm(total=len(order), unit=" images", leave=False, unit_scale=True,
                  desc=f"epoch {number} of {self.config['epochs']}") as bar:
            for i, batch in enumerate(order.split(size), 1):
                total += self.update(to_unit(self.images[batch]))
                if i % 20 == 0:
                    bar.set_postfix(loss=f"{total.item() / i:.4f}", refresh=False)
                bar.update(size)
        seconds, loss = time.perf_counter() - began, total.item() / self.steps
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of epoch {number} is {loss}: try a smaller --lr")
        self.log.append({"epoch": number, "loss": round(loss, 5), "seconds": round(seconds, 2),
                         "images_per_second": round(len(order) / seconds, 1)})

    def state(self) -> dict:
        """The whole training as tensors, numbers and text."""
        return {"config": self.config, "step": self.step, "log": self.log,
                "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def restore(self, state: dict) -> None:
        """Goes back to what state() returned."""
        self.step, self.log = int(state["step"]), list(state["log"])
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


def open_training(args: argparse.Namespace, parser: Parser) -> Training:
    """A new training, or with --resume the one that OUT holds."""
    path = args.out / "checkpoint.pt"
    prepare(path)
    found = path.exists()
    if found and not args.resume:
        parser.error(f"{args.out} holds a run: go on with --resume, or choose another --out")
    images = load(args.dataset, args.data_dir)
    if args.batch_size > len(images):
        parser.error(f"--batch-size {args.batch_size}: {args.dataset} has {len(images)} images")
    names = ("dataset", "epochs", "batch_size", "lr", "timesteps", "schedule", "predict",
             "width", "seed")
    config = {name: getattr(args, name) for name in names} | {"size": images.shape[-1]}
    training = Training(config, images, args.device)
    if found:
        state = load_checkpoint(path)
        other = [f"{name} {state['config'][name]}" for name in config
                 if name != "epochs" and state["config"][name] != config[name]]
        if other:
            parser.error(f"{args.out} holds a run with other settings: {', '.join(other)}")
        try:
            training.restore(state)
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise OSError(f"{path} does not fit its own settings: delete it, and start "
                          "anew") from error
        print(f"going on after epoch {len(training.log)} of {args.epochs} in {args.out}")
    elif args.resume:
        print(f"no checkpoint in {args.out} yet: starting anew")
    return training


def save_epoch(training: Training, out: Path) -> None:
    """OUT's model, log and, last, checkpoint."""
    save_model(out / "model.safetensors", training.average.state_dict(), training.config)
    rows = [",".join(training.log[0])] + [",".join(map(str, row.values())) for row in training.log]
    write(out / "log.csv", ("\n".join(rows) + "\n").encode())
    save_checkpoint(out / "checkpoint.pt", training.state())


def draw(training: Training, out: Path) -> None:
    """OUT/samples.png: 64 images by all T steps of Algorithm 2, from the averaged weights."""
    alpha_bar = training.alpha_bar
    eps_model = EPS_MODELS[training.config["predict"]](fast(training.average), alpha_bar)
    images, _ = generate(partial(sample, clip=True), len(alpha_bar) - 1, eps_model, alpha_bar, 64,
                         training.config["size"], 0, training.images.device)
    write(out / "samples.png", png(grid(images)))


def main(argv: list[str] | None = None) -> None:
    """Trains to the last epoch. Raises: OSError for a file, FloatingPointError for the loss."""
    args, parser = parse(argv)
    training = open_training(args, parser)
    for number in range(len(training.log) + 1, args.epochs + 1):
        training.epoch()
        save_epoch(training, args.out)
        print(" ".join(f"{name} {value}" for name, value in training.log[-1].items()), flush=True)
        if number % max(1, args.epochs // PICTURES) == 0 and number < args.epochs:
            draw(training, args.out)
    draw(training, args.out)
    print(f"done: {args.out / 'model.safetensors'}, {args.out / 'samples.png'}")


if __name__ == "__main__":
    run(main)
