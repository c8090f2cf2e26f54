r"""Train eps_theta(x_t, t) by DDPM's Algorithm 1, on MNIST or, without a network, on small digits.

    python 01_example/ddpm/train.py                      # MNIST
    python 01_example/ddpm/train.py --dataset digits     # 8 x 8 digits, nothing to download

The folder OUT then holds model.safetensors (the averaged weights and their configuration), 64
samples.png, samples_by_epoch.png, the loss as log.csv and loss.png, and checkpoint.pt, which is
written about once a minute. Whatever ends a training, the same command with --resume goes on as
if nothing had been; Ctrl-C and SIGTERM save first. On several processes (GPUs, or CPUs):

    torchrun --nproc-per-node 2 01_example/ddpm/train.py
"""
import argparse
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from checkpoint import Keeper, before, load_checkpoint, save_model, tidy, way_out
from cli import Parser, count, positive, run, seed
from data import FOLDER, load, to_unit
from ddpm import LOSSES, SCHEDULES, noise_like
from device import can_compile, device, fast
from files import prepare, write
from parallel import agreed, averaging, group, mean, one_first, rank, say, shard, world
from progress import ROW, draw_progress
from stop import Requests, Stopped
from unet import UNet

EPOCHS = {"mnist": 30, "digits": 150}
EMA_DECAY = 0.999        # the averaged weights look back over about 1 / (1 - decay) steps
WARM_UP = 0.02           # the share of all steps in which the learning rate climbs to its peak
CLIP = 1.0               # the largest norm of a gradient
LOG = {"epoch": int, "loss": float, "seconds": float, "images_per_second": float}


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
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="cosine",
                        help="how alpha_bar falls from 1 to nearly 0")
    parser.add_argument("--predict", choices=list(LOSSES), default="v",
                        help="what the network predicts: eps, the noise; v, a mixture of it and "
                        "x_0; or mu, the mean of a step back. The loss is the plain square error, "
                        "with -vlb the bound L")
    parser.add_argument("--width", type=width, default=64, help="channels of the U-Net")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, batches and noise")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--compile", action="store_true", help="compile the network, for a minute "
                        "at the start; on a GPU a pass through it is then one CUDA graph")
    parser.add_argument("--save-every", type=positive, default=1.0, metavar="MINUTES",
                        help="between two checkpoints within an epoch; one more is at its end")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt; "
                        "of what decides the weights only --epochs may differ")
    args = parser.parse_args(argv)
    args.epochs = vars(args).get("epochs", EPOCHS[args.dataset])
    if args.compile and not can_compile():
        parser.error("--compile needs a C++ compiler, such as g++: install one, or leave it out")
    try:
        SCHEDULES[args.schedule](args.timesteps)
    except ValueError as error:
        parser.error(f"--timesteps {args.timesteps}: {error}")
    return args, parser


class Training:
    """A training between two steps: all that the next one depends on, as one object.

    The learning rate follows from the step, and the order of the images, the times and the noise
    from the generator, so that a training that was resumed and one that was not end alike. Several
    processes hold a copy each, and take their shares of every batch.
    """

    def __init__(self, config: dict, images: Tensor, device: torch.device):
        torch.manual_seed(config["seed"])
        self.config, self.images = config, images.to(device)    # the whole set, on the device
        self.network = self.make_network().to(device, memory_format=torch.channels_last)
        self.forward = fast(averaging(self.network, to_unit(self.images[:1]),
                                      torch.ones(1, device=device)))
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)
        self.generator = torch.Generator(device).manual_seed(config["seed"])
        self.alpha_bar = SCHEDULES[config["schedule"]](config["timesteps"])
        if device.type == "cuda":                               # mps has no float64
            self.alpha_bar = self.alpha_bar.to(device)
        self.steps = len(images) // config["batch_size"]        # an epoch
        self.pause = 1 if device.type == "cpu" else 20          # steps: reading a GPU waits for it
        self.step = 0
        self.order = torch.empty(0)                             # of the images, in this epoch
        self.loss, self.seconds = 0.0, 0.0                      # sums over this epoch's steps
        self.log: list[dict] = []                               # a row an epoch
        self.drawn: dict[int, Tensor] = {}                      # ROW images by the epoch's number

    def make_network(self) -> nn.Module:
        """The network that learns."""
        return UNet(self.config["width"])

    def progress(self) -> float:
        """The share of the training, 0..1, at the middle of the next step."""
        return (self.step + 0.5) / (self.steps * self.config["epochs"])

    def learning_rate(self) -> float:
        """A short linear climb to the peak, then half a cosine down to 0."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * self.progress())
        return self.config["lr"] * min(self.progress() / WARM_UP, cosine)

    def update(self, x_0: Tensor) -> Tensor:
        """One step of Algorithm 1 on the images x_0 (N, 1, H, W); returns the loss.

        Of several processes each draws all times and all noise, and keeps its own rows of them.
        """
        t = torch.randint(1, self.config["timesteps"] + 1, x_0.shape[:1], generator=self.generator,
                          device=self.generator.device).to(self.alpha_bar.device)
        x_0, t, eps = map(shard, (x_0, t, noise_like(x_0, self.generator)))
        loss = LOSSES[self.config["predict"]](self.forward, x_0, t, eps, self.alpha_bar)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 9))     # a young average forgets faster
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        for average, parameter in pairs:
            average.lerp_(parameter.detach(), 1 - decay)
        return mean(loss.detach())

    def new_order(self) -> Tensor:
        """The numbers of the images, shuffled."""
        return torch.randperm(len(self.images), generator=self.generator,
                              device=self.generator.device)

    def epoch(self, between_steps: Callable[[], None] = lambda: None) -> None:
        """One pass over the images in a new order, or the rest of one that was interrupted.

        `between_steps` is called every few steps, when the losses so far are read and found finite:
        there the training may be saved, or left. Raises: FloatingPointError for a loss of inf.
        """
        size, done = self.config["batch_size"], self.step % self.steps
        if not done:
            self.order = self.new_order()
            self.loss, self.seconds = 0.0, 0.0
        unread, began = [], time.perf_counter()
        with tqdm(total=self.steps * size, initial=done * size, unit=" images", unit_scale=True,
                  desc=f"epoch {len(self.log) + 1} of {self.config['epochs']}", leave=False,
                  disable=rank() > 0) as bar:
            for i, batch in enumerate(self.order.split(size)[done:self.steps], done + 1):
                unread.append(self.update(to_unit(self.images[batch])))
                bar.update(size)
                if i % self.pause == 0 or i == self.steps:
                    self.read(unread)
                    bar.set_postfix(loss=f"{self.loss / i:.4f}", refresh=False)
                    self.seconds += time.perf_counter() - began
                    if i == self.steps:
                        self.note()
                    between_steps()
                    unread, began = [], time.perf_counter()

    def read(self, losses: list[Tensor]) -> None:
        """Adds up the losses of the last steps. Raises: FloatingPointError if one is not finite."""
        for step, loss in enumerate(torch.stack(losses).tolist(), self.step - len(losses)):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of step {step + 1} is {loss} (seed {self.config['seed']}, epoch "
                    f"{step // self.steps + 1}, batch {step % self.steps + 1} of {self.steps})")
            self.loss += loss

    def note(self) -> None:
        """The epoch's row of the log."""
        images = self.steps * self.config["batch_size"]
        self.log.append({"epoch": len(self.log) + 1, "loss": round(self.loss / self.steps, 5),
                         "seconds": round(self.seconds, 2),
                         "images_per_second": round(images / self.seconds, 1)})

    def state(self) -> dict:
        """The whole training as tensors, numbers and text."""
        return {"config": self.config, "step": self.step, "order": self.order, "loss": self.loss,
                "seconds": self.seconds, "log": self.log, "drawn": self.drawn,
                "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict()["state"],
                "generator": self.generator.get_state()}

    def restore(self, state: dict) -> None:
        """Goes back to what state() returned. Raises: one of MISFITS if that is not possible."""
        self.step, self.loss = int(state["step"]), float(state["loss"])
        self.seconds, self.order = float(state["seconds"]), state["order"].to(self.images.device)
        self.log = [{name: kind(row[name]) for name, kind in LOG.items()} for row in state["log"]]
        self.drawn = {int(epoch): images.view(ROW, *self.images.shape[1:]).to(torch.uint8)
                      for epoch, images in state["drawn"].items()}
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(),
                                        "state": state["optimizer"]})
        self.generator.set_state(state["generator"])
        images = torch.arange(len(self.images), device=self.images.device)
        if (len(self.log) != self.step // self.steps
                or not torch.equal(self.order.sort().values, images)):
            raise ValueError("the step, the log and the order do not belong together")
        for p in self.network.parameters():
            moments = {name: tensor.shape for name, tensor in self.optimizer.state[p].items()}
            if moments != {"step": (), "exp_avg": p.shape, "exp_avg_sq": p.shape}:
                raise ValueError("the optimizer does not belong to the network")


MISFITS = (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


def open_training(args: argparse.Namespace, parser: Parser) -> Training:
    """A new training, or with --resume the one that OUT holds."""
    path = args.out / "checkpoint.pt"
    prepare(path)
    found = path.exists() or before(path).exists()
    if found and not args.resume:
        parser.error(f"{args.out} holds a run: go on with --resume, or choose another --out")
    with one_first():                                           # that downloads the data
        images = load(args.dataset, args.data_dir)
    if args.batch_size > len(images):
        parser.error(f"--batch-size {args.batch_size}: {args.dataset} has {len(images)} images")
    if args.batch_size % world():
        parser.error(f"--batch-size {args.batch_size}: {world()} processes need a multiple of "
                     f"{world()}, for equal shares")
    names = ("dataset", "epochs", "batch_size", "lr", "timesteps", "schedule", "predict",
             "width", "seed")
    config = {name: getattr(args, name) for name in names} | {"size": images.shape[-1]}
    training = Training(config, images, args.device)
    if args.compile:
        training.network.compile(mode="reduce-overhead")
    tidy(path)
    if found:
        resume(training, path, parser)
    elif args.resume:
        say(f"no checkpoint in {args.out} yet: starting anew")
    return training


def resume(training: Training, path: Path, parser: Parser) -> None:
    """Goes on from the checkpoint. Raises: OSError if it is no good, or not of this device."""
    state, config = load_checkpoint(path), training.config
    other = [f"{name} {state['config'][name]}" for name in config
             if name != "epochs" and state["config"][name] != config[name]]
    if other:
        parser.error(f"{path.parent} holds a run with other settings: {', '.join(other)}")
    try:
        training.restore(state)
    except MISFITS as error:
        raise OSError(f"{path} does not fit its own settings, or comes from another kind of "
                      f"device: {way_out(path)}") from error
    if agreed(training.step) != -agreed(-training.step):
        raise OSError(f"{path} is not the same for all processes: --out must be a folder that all "
                      "hosts share")
    epochs, steps = divmod(training.step, training.steps)
    say(f"going on after epoch {epochs} of {config['epochs']}"
        + (f" and {steps} of {training.steps} steps" if steps else "") + f" in {path.parent}")


def finish_epoch(training: Training, out: Path, requests: Requests) -> None:
    """What follows from the checkpoint at an epoch's end: OUT's model, log and pictures."""
    if rank() == 0:
        save_model(out / "model.safetensors", training.average.state_dict(), training.config)
        rows = [LOG, *(row.values() for row in training.log)]
        lines = [",".join(map(str, row)) + "\n" for row in rows]
        write(out / "log.csv", "".join(lines).encode())
    draw_progress(training, out, requests)


def train(training: Training, out: Path, keeper: Keeper, requests: Requests) -> None:
    """Epoch after epoch, with checkpoints and pictures. Raises: Stopped between two steps."""
    def between_steps() -> None:
        if keeper.due() and rank() == 0:
            keeper.save(training.state())
        requests.grant_together()

    if training.step and training.step % training.steps == 0:
        finish_epoch(training, out, requests)                   # what an interruption prevented
    while len(training.log) < training.config["epochs"]:
        training.epoch(between_steps)
        if rank() == 0:
            keeper.save(training.state())
        say(" ".join(f"{name} {value}" for name, value in training.log[-1].items()))
        finish_epoch(training, out, requests)


def main(argv: list[str] | None = None) -> None:
    """Trains to the last epoch. Raises: OSError for a file, FloatingPointError for the loss, and
    Stopped after Ctrl-C or SIGTERM, when all is saved."""
    args, parser = parse(argv)
    with group(args.device, parser):
        training = open_training(args, parser)
        keeper = Keeper(args.out / "checkpoint.pt", args.save_every, training.step)
        with Requests() as requests:
            try:
                train(training, args.out, keeper, requests)
            except Stopped as stopped:
                if rank() == 0:
                    keeper.save(training.state())
                raise Stopped(stopped.number, f"step {training.step} is saved in {keeper.path}, "
                              "and the same command with --resume goes on") from None
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}: start anew with a smaller --lr, in another "
                                         f"--out; {keeper}") from error
        say(f"done: {args.out / 'model.safetensors'}, {args.out / 'samples.png'}")


if __name__ == "__main__":
    run(main)
