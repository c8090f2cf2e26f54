"""A digit classifier: the eyes through which samples are judged."""
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data import to_unit
from machinery.devices import autocast
from machinery.weights import load_weights, save_weights

SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "classifier.safetensors"
BATCH = 128
LEARNING_RATE = 4e-3     # at its peak
SHIFT = 2                # pixels by which a training batch is moved, at most


class Classifier(nn.Module):
    """Images (N, 1, 28, 28) in [-1, 1] in; `features` (N, 96), or logits (N, 10), out."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(block(1, 32), block(32, 32), block(32, 64, 2), block(64, 64),
                                  block(64, 96, 2), block(96, 96))
        self.head = nn.Linear(96, 10)

    def features(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (1, 28, 28), f"{tuple(x.shape)}"
        return self.maps(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def block(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """ReLU(norm(conv(x)))."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out),
                         nn.ReLU())


def fit(images: Tensor, labels: Tensor, epochs: int, seed: int, device: torch.device) -> Classifier:
    """A classifier of uint8 images (N, 1, 28, 28) with labels 0..9 (N,), trained from nothing."""
    torch.manual_seed(seed)
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last
    network = Classifier().to(device, memory_format=layout)     # PyTorch issue 175189
    images, labels, steps = images.to(device), labels.to(device), max(1, len(images) // BATCH)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * steps)
    logits = autocast(network)
    for _ in tqdm(range(epochs), unit="epoch", desc="classifier", leave=False, disable=None):
        for batch in torch.randperm(len(images)).to(device).split(BATCH)[:steps]:
            moved = torch.roll(images[batch], torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist(),
                               (2, 3))
            loss = F.cross_entropy(logits(to_unit(moved)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def classify(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, 96), float64, and class probabilities (N, 10), of uint8 images; on the CPU."""
    home = next(network.parameters()).device
    features = [network.features(to_unit(part.to(home))) for part in images.split(500)]
    probabilities = [network.head(part).softmax(1).cpu() for part in features]
    return torch.cat(features).cpu().double(), torch.cat(probabilities)     # mps has no float64


def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of the uint8 images whose most probable class is the label."""
    return (classify(network, images)[1].argmax(1) == labels).double().mean().item()


def save_classifier(path: Path, network: Classifier, card: dict) -> None:
    """The weights and facts about them as one file, with a sum of both."""
    save_weights(path, network.state_dict(), {"classifier": card})


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """The trained classifier, on the device. Raises: OSError if the file is not one."""
    network = Classifier()
    try:
        network.load_state_dict(load_weights(path)[0])
    except (ValueError, RuntimeError) as error:
        raise OSError(f"{path} is damaged, or no classifier of this course: take the one that is "
                      "shipped, or what train_classifier.py wrote") from error
    return network.to(device).requires_grad_(False).eval()
