"""Trained models and unfinished trainings as files, read without pickle's powers."""
import hashlib
import io
import json
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ddpm import EPS_MODELS, SCHEDULES
from files import sweep, write
from parallel import agreed, rank, say
from unet import UNet

CONFIG = {"dataset", "size", "epochs", "batch_size", "lr", "timesteps", "schedule", "predict",
          "width", "seed"}
STATE = {"config", "step", "order", "loss", "seconds", "log", "drawn", "network", "average",
         "optimizer", "generator"}


def save_model(path: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """The network's tensors as safetensors, with the configuration as JSON in the header."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write(path, save(tensors, metadata={"config": json.dumps(config)}))


def load_model(path: Path, device: torch.device) -> tuple[UNet, Tensor, dict]:
    """The trained network on the device, its alpha_bar (T + 1,), its configuration.

    Raises: OSError if the file is missing, truncated, or not a model of this course.
    """
    if path.is_dir():
        raise OSError(f"{path} is a folder: take the model.safetensors that train.py wrote into it")
    if not path.is_file():
        raise OSError(f"there is no file {path}")
    path.open("rb").close()                    # safe_open calls one that may not be read missing
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        for name in ("width", "size", "timesteps"):
            if not (isinstance(config[name], int) and config[name] > 0):
                raise ValueError(name)
        if config["size"] % 4 or config["predict"] not in EPS_MODELS:
            raise ValueError(config)
        alpha_bar = SCHEDULES[config["schedule"]](config["timesteps"])
        with torch.device("meta"):             # only shapes, until the tensors take their places
            network = UNet(config["width"])
        network.load_state_dict(tensors, assign=True)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise OSError(f"{path} is damaged, or no model of this course: take a model.safetensors "
                      "that train.py wrote") from error
    network.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
    return network, alpha_bar, config


def save_checkpoint(path: Path, state: dict) -> None:
    """An unfinished training: tensors, numbers and text only, which need no pickle to be read.

    Its SHA-256 sum is appended, so that no flipped byte goes unnoticed. The checkpoint before
    stays, as before(path).
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write(path, content + hashlib.sha256(content).digest(), keep=before(path))


def before(path: Path) -> Path:
    """Where the checkpoint before this one is kept: checkpoint.previous.pt."""
    return path.with_suffix(f".previous{path.suffix}")


def load_checkpoint(path: Path) -> dict:
    """What save_checkpoint wrote, on the CPU. Raises: OSError if the file is anything else."""
    data = path.read_bytes()
    try:
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise ValueError("a wrong sum")
        state = torch.load(io.BytesIO(data[:-32]), map_location="cpu", weights_only=True)
        if set(state) != STATE or set(state["config"]) != CONFIG:
            raise ValueError(list(state))
        if not all(isinstance(value, (int, float, str)) for value in state["config"].values()):
            raise ValueError(state["config"])
        return state
    except Exception as error:   # torch reports a damaged file by half a dozen kinds of exception
        raise OSError(f"{path} is damaged, or no checkpoint of this train.py: "
                      f"{way_out(path)}") from error


def tidy(path: Path) -> None:
    """After a kill: removes half-written files; for want of a checkpoint takes the one before."""
    if rank() == 0:
        sweep(path.parent)
        if before(path).exists() and not path.exists():
            before(path).rename(path)
            say(f"{path} is not there: going on from the one before")
    agreed(0)                                                   # then the others may look


def way_out(path: Path) -> str:
    """What to do about a checkpoint that is of no use."""
    if before(path).exists():
        return f"delete it, and --resume goes on from the one before, {before(path).name}"
    return "delete it to start anew"


class Keeper:
    """Saves a training now and then, and knows how far the newest checkpoint has got."""

    def __init__(self, path: Path, minutes: float, step: int):
        self.path, self.minutes, self.step = path, minutes, step    # 0: there is none yet
        self.saved = time.monotonic()

    def save(self, state: dict) -> None:
        """Saves the state of a training. Raises: FloatingPointError if its weights are spoilt."""
        tensors = [*state["network"].values(), *state["average"].values()]
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise FloatingPointError(f"a weight after step {state['step']} is not finite")
        save_checkpoint(self.path, state)
        self.step, self.saved = state["step"], time.monotonic()

    def due(self) -> bool:
        """Whether the newest checkpoint is as old as it may be."""
        return time.monotonic() - self.saved > 60 * self.minutes

    def __str__(self) -> str:
        if not self.step:
            return "there is no checkpoint yet"
        return f"the last good checkpoint, {self.path}, is of step {self.step}"
