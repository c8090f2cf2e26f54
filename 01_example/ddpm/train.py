r"""Train a network by DDPM's Algorithm 1: on MNIST, on small digits, or on your own pictures.

    python 01_example/ddpm/train.py                                 # MNIST
    python 01_example/ddpm/train.py --dataset digits                # 8 x 8, nothing to download
    python 01_example/ddpm/train.py --dataset FOLDER --size 32      # the pictures in a folder

The folder OUT then holds model.safetensors (the averaged weights and their configuration), 64
samples.png, samples_by_epoch.png, the loss as log.csv and loss.png, and checkpoint.pt, which is
written about once a minute. Whatever ends a training, the same command with --resume goes on as
if nothing had been; Ctrl-C and SIGTERM save first. On several processes (GPUs, or CPUs):

    torchrun --nproc-per-node 2 01_example/ddpm/train.py
"""
import argparse
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from torch import Tensor

from data import EPOCHS, FOLDER, HELP, dataset_flag, load, size_flag
from ddpm import SCHEDULES, sample
from machinery.checkpoint import Checkpointer
from machinery.cli import Parser, count_flag, positive_flag, run, seed_flag, width_flag
from machinery.devices import device_flag, why_not_compile
from machinery.files import prepare, write
from machinery.pictures import curve, grid, png, strip
from machinery.processes import group, largest, local_first, print0, rank, world_size
from machinery.signals import Stopped, StopSignals
from model import Config, Model, save_model
from objectives import OBJECTIVES
from training import LOG, Training

ROW = 8                                     # images in a row of samples_by_epoch.png
DRAW_AFTER = {4**k for k in range(10)}      # epochs after which a row is drawn; and after the last


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags; without --epochs there is none of that name, and the data set decides."""
    parser = Parser(__doc__)
    parser.add_argument("--dataset", type=dataset_flag, default="mnist", help=HELP["dataset"])
    parser.add_argument("--size", type=size_flag, help=HELP["size"])
    parser.add_argument("--data-dir", type=Path, default=FOLDER, help=HELP["data-dir"])
    parser.add_argument("--out", type=Path, default=Path("runs/ddpm"), help="the results' folder")
    parser.add_argument("--epochs", type=count_flag, default=argparse.SUPPRESS,
                        help=HELP["epochs"])
    parser.add_argument("--batch-size", type=count_flag, default=128, help="images per step")
    parser.add_argument("--lr", type=positive_flag, default=0.02,
                        help="learning rate of Muon; Adam's is a tenth of it")
    parser.add_argument("--timesteps", type=count_flag, default=1000, help="T, steps of the chain")
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="cosine",
                        help="how alpha_bar falls from 1 to nearly 0")
    parser.add_argument("--predict", choices=list(OBJECTIVES), default="v",
                        help="what the network predicts: eps, the noise; v, a mixture of it and "
                        "x_0; or mu, the mean of a step back. The loss is the plain square error, "
                        "with -vlb that of the bound L")
    parser.add_argument("--width", type=width_flag, default=64, help="channels of the U-Net")
    parser.add_argument("--seed", type=seed_flag, default=0, help="of weights, batches and noise")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--compile", action="store_true", help="compile the network, for a minute "
                        "at the start; on a GPU a pass through it is then one CUDA graph")
    parser.add_argument("--save-every", type=positive_flag, default=1.0, metavar="MINUTES",
                        help="between two checkpoints within an epoch; one more is at its end")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt, with "
                        "the same settings, except --epochs")
    args = parser.parse_args(argv)
    if args.size and args.dataset in EPOCHS:
        parser.error(f"--size {args.size} is for your own pictures: {args.dataset} has its size")
    if args.compile and (missing := why_not_compile()):
        parser.error(f"--compile needs {missing}: install it, or leave the flag out")
    try:
        SCHEDULES[args.schedule](args.timesteps)
    except ValueError as error:
        parser.error(f"--timesteps {args.timesteps}: {error}")
    return args, parser


def open_training(args: argparse.Namespace, checkpointer: Checkpointer, parser: Parser) -> Training:
    """A new training, or with --resume the one that OUT holds."""
    prepare(checkpointer.path)
    found = checkpointer.found()
    if found and not args.resume:
        parser.error(f"{args.out} holds a run: go on with --resume, or choose another --out")
    with local_first():                                         # that downloads the data
        data = load(args.dataset, args.data_dir, args.size)
    if args.batch_size > (n := len(data.images)):
        parser.error(f"--batch-size {args.batch_size}: {data.name} allows {n} at most")
    if args.batch_size % world_size():
        parser.error(f"--batch-size {args.batch_size}: {world_size()} processes need a multiple of "
                     f"{world_size()}, for equal shares")
    settings = {"epochs": data.epochs(args.batch_size)} | vars(args) | data.settings()
    config = Config(**{field.name: settings[field.name] for field in fields(Config)})
    training = Training(config, data.images, args.device, data.labels)
    if args.compile:
        training.network.compile(mode="reduce-overhead")
    checkpointer.tidy()
    if found:
        resume(training, checkpointer, parser)
    elif args.resume:
        print0(f"no checkpoint in {args.out} yet: starting anew")
    return training


def resume(training: Training, checkpointer: Checkpointer, parser: Parser) -> None:
    """Goes on from the checkpoint. Raises: OSError if it is damaged or another kind of training's.
    """
    path, state, config = checkpointer.path, checkpointer.load(), asdict(training.config)
    theirs = state.get("config", {})
    other = [f"{name} {theirs.get(name)}" for name in config
             if name != "epochs" and theirs.get(name) != config[name]]
    if other:
        parser.error(f"{path.parent} holds a run with other settings: {', '.join(other)}")
    try:
        training.restore(state)
    except (KeyError, RuntimeError) as error:
        raise OSError(f"{path} is of another version of this train.py: "
                      f"{checkpointer.advice()}") from error
    if largest(training.step) != -largest(-training.step):
        raise OSError(f"{path} is not the same for all processes: --out must be a folder that all "
                      "hosts share")
    epochs, steps = divmod(training.step, training.steps)
    print0(f"going on after epoch {epochs} of {training.config.epochs}"
           + (f" and {steps} of {training.steps} steps" if steps else "") + f" in {path.parent}")


def draw(training: Training, n: int, signals: StopSignals) -> Tensor:
    """n images (n, C, H, W) by all T steps of Algorithm 2, from the averaged weights."""
    def sampler(*inputs: object, **options: object) -> Iterator[Tensor]:
        for x in sample(*inputs, **options, clip=True):
            signals.raise_if_asked()
            yield x
    model = Model(training.ema, training.config)
    return model.draw(sampler, n=n, seed=0, steps=model.T)[0]


def draw_progress(training: Training, out: Path, signals: StopSignals) -> None:
    """OUT's pictures, if they are due: a row of samples, or after the last epoch 64 images."""
    epoch, finished = len(training.log), len(training.log) >= training.config.epochs
    if not finished and (epoch not in DRAW_AFTER or epoch in training.drawn):
        return
    images = draw(training, 64 if finished else ROW, signals)
    training.drawn[epoch] = images[:ROW].clone()    # a view would be saved with all 64
    if rank() == 0:
        if finished:
            write(out / "samples.png", png(grid(images)))
        write(out / "samples_by_epoch.png", strip(training.drawn))
        write(out / "loss.png", curve(training.log))


def finish_epoch(training: Training, out: Path, signals: StopSignals) -> None:
    """What follows from the checkpoint at an epoch's end: OUT's model, log and pictures."""
    if rank() == 0:
        save_model(out / "model.safetensors", training.ema, training.config)
        rows = [LOG, *(row.values() for row in training.log)]
        write(out / "log.csv", "".join(",".join(map(str, row)) + "\n" for row in rows).encode())
    draw_progress(training, out, signals)


def train(training: Training, out: Path, checkpointer: Checkpointer, signals: StopSignals) -> None:
    """Epoch after epoch, with checkpoints and pictures. Raises: Stopped between two steps."""
    def between_steps() -> None:
        if checkpointer.due() and rank() == 0:
            checkpointer.save(training.state())
        signals.raise_if_any_asked()

    if training.step and training.step % training.steps == 0:
        finish_epoch(training, out, signals)                    # what an interruption prevented
    while len(training.log) < training.config.epochs:
        training.epoch(between_steps)
        if rank() == 0:
            checkpointer.save(training.state())
        print0(" ".join(f"{name} {value}" for name, value in training.log[-1].items()))
        finish_epoch(training, out, signals)


def main(argv: list[str] | None = None) -> None:
    """Trains to the last epoch. Raises: OSError for a file, FloatingPointError for the loss, and
    Stopped after Ctrl-C or SIGTERM, when all is saved."""
    args, parser = parse(argv)
    checkpointer = Checkpointer(args.out / "checkpoint.pt", args.save_every)
    with group(args.device, parser):
        training = open_training(args, checkpointer, parser)
        with StopSignals() as signals:
            try:
                train(training, args.out, checkpointer, signals)
            except Stopped as stopped:
                if rank() == 0:
                    checkpointer.save(training.state())
                raise Stopped(stopped.number, f"step {training.step} is saved in "
                              f"{checkpointer.path}, and the same command with --resume goes on"
                              ) from None
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}: start anew with a smaller --lr, in another "
                                         f"--out; {checkpointer}") from error
        print0(f"done: {args.out / 'model.safetensors'}, {args.out / 'samples.png'}")


if __name__ == "__main__":
    run(main)
