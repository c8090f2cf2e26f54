"""Trained models and unfinished trainings as files, read without pickle's powers."""
import io
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ddpm import EPS_MODELS, SCHEDULES
from files import write
from unet import UNet

CONFIG = {"dataset", "size", "epochs", "batch_size", "lr", "timesteps", "schedule", "predict",
          "width", "seed"}
STATE = {"config", "step", "log", "network", "average", "optimizer", "generator"}


def save_model(path: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """The network's tensors as safetensors, with the configuration as JSON in the header."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write(path, save(tensors, metadata={"config": json.dumps(config)}))


def load_model(path: Path, device: torch.device) -> tuple[UNet, Tensor, dict]:
    """The trained network on the device, its alpha_bar (T + 1,), its configuration.

    Raises: OSError if the file is missing, truncated, or not a model of this course.
    """
    if not path.is_file():
        raise OSError(f"there is no file {path}")
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
    """An unfinished training: tensors, numbers and text only, which need no pickle to be read."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict:
    """What save_checkpoint wrote, on the CPU. Raises: OSError if the file is anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if set(state) != STATE or set(state["config"]) != CONFIG:
            raise ValueError(list(state))
        return state
    except OSError:
        raise
    except Exception as error:   # torch reports a damaged file by half a dozen kinds of exception
        raise OSError(f"{path} is damaged, or no checkpoint of train.py: delete it to start "
                      "anew") from error
