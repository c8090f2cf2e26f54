"""The data sets, each as one uint8 tensor of images (N, C, H, W) with a label for each."""
import argparse
import hashlib
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from machinery import idx, own_pictures

FOLDER = Path(__file__).resolve().parents[2] / "data"   # the repository's data/, which git ignores

EPOCHS = {"mnist": 30, "fashion": 30, "kmnist": 30, "digits": 40}
STEPS = 10_000      # for your own pictures: as many epochs as make so many steps

HELP = {            # of train.py's flags that are about data
    "dataset": f"{', '.join(EPOCHS)}; or a folder of pictures, where sub-folders are classes; or a "
    ".npy of pictures, uint8: grey (N, H, W) or (N, 1, H, W), colour (N, 3, H, W) or (N, H, W, 3)",
    "size": "scale the shorter side of your own pictures to so many pixels, a multiple of 4, and "
    "keep the middle square",
    "data-dir": "where MNIST, Fashion-MNIST and KMNIST are, or are downloaded to",
    "epochs": f"passes over the data (default: {EPOCHS['mnist']}; for digits {EPOCHS['digits']}; "
    f"for your own pictures as many as make {STEPS} steps)",
}


class Dataset(NamedTuple):
    """All that training reads."""

    images: Tensor                  # (N, C, H, W), uint8
    labels: Tensor                  # (N,), int64: the number of each image's class
    classes: tuple[str, ...]        # their names; none: the labels mean nothing
    name: str                       # what a model says that it learnt

    def settings(self) -> dict:
        """What a model's configuration takes from the data."""
        return {"dataset": self.name, "classes": self.classes, "channels": self.images.shape[1],
                "size": self.images.shape[-1]}

    def epochs(self, batch_size: int) -> int:
        """How often a training passes over the images, unless it is told."""
        return EPOCHS.get(self.name) or math.ceil(STEPS / (len(self.images) // batch_size))


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1], where the diffusion lives."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to uint8 0..255, rounded; what lies outside is cut off.

    Raises: FloatingPointError if a number is not finite, which would be drawn as black.
    """
    if not x.isfinite().all():
        raise FloatingPointError("the images hold numbers that are not finite")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load(name: str, data_dir: Path = FOLDER, size: int | None = None) -> Dataset:
    """The training images of `mnist`, `fashion`, `kmnist` or `digits`; or the pictures of a folder
    or a .npy file, scaled to this size. Raises: OSError for what is not there, or something else.
    """
    if name in idx.SETS:
        return Dataset(*idx_set(name, data_dir), name)
    if name == "digits":
        return Dataset(*digits(), tuple("0123456789"), name)
    images, labels, classes = own_pictures.read(Path(name), size)
    total = hashlib.sha256(images.numpy())
    total.update(labels.numpy())
    count = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
    return Dataset(images, labels, classes, f"{own_pictures.show(Path(name).resolve().name)} "
                                            f"({count}, sum {total.hexdigest()[:8]})")


def dataset_flag(text: str) -> str:
    """A flag's value that load knows by name, or that is a folder or a .npy file."""
    path = Path(text)
    if text in EPOCHS or text and (path.is_dir() or path.is_file() and path.suffix == ".npy"):
        return text
    raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(EPOCHS)}, no folder, and no "
                                     ".npy file")


def size_flag(text: str) -> int:
    """A flag's value that is a picture's side in pixels: a multiple of 4, as the U-Net needs it."""
    if int(text) < 4 or int(text) % 4:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of 4")
    return int(text)


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that scikit-learn brings along, (1797, 1, 8, 8), uint8, and
    their labels 0..9."""
    from sklearn.datasets import load_digits
    bunch = load_digits()
    images = torch.from_numpy(bunch.images)[:, None]            # whole numbers 0..16
    return ((images * 255 / 16).round().to(torch.uint8),
            torch.from_numpy(bunch.target).long())              # which is int32 on Windows


def mnist(data_dir: Path = FOLDER, train: bool = True) -> Tensor:
    """MNIST's 60,000 training or 10,000 test images, (N, 1, 28, 28), uint8; see idx_set."""
    return idx_set("mnist", data_dir, train)[0]


def mnist_with_labels(data_dir: Path = FOLDER, train: bool = True) -> tuple[Tensor, Tensor]:
    """MNIST's training or test images and their labels 0..9, (N,), int64; see idx_set."""
    return idx_set("mnist", data_dir, train)[:2]


def idx_set(name: str, data_dir: Path = FOLDER, train: bool = True
            ) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The images, labels and classes of MNIST, Fashion-MNIST or KMNIST; downloaded once.

    Raises: OSError if the files are not there and cannot be downloaded, or are not this set's.
    """
    title = idx.SETS[name]
    raw = data_dir / title / "raw"
    idx.check(name, raw)
    import_torchvision()
    from torchvision import datasets
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # torchvision warns about its own mirrors
            files = getattr(datasets, title)(data_dir, train=train, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(f"{title} is not in {raw} and could not be downloaded: put its four files "
                      f"({', '.join(idx.FILES)}) there by hand (only train.py --dataset digits "
                      "and your own pictures do without a download)") from error
    images, labels = files.data[:, None], files.targets.long()
    if images.shape != (len(labels), 1, 28, 28) or labels.max() > 9:
        raise OSError(f"{raw} does not hold images of 28 x 28 with a label from 0 to 9 for each")
    return images, labels, tuple("0123456789" if name == "mnist" else files.classes)


def import_torchvision() -> None:
    """Makes `import torchvision` work on a CPU-only PyTorch beside torchvision's CUDA build.

    There the compiled operators do not load, and the import fails when it describes two of them:
    "operator torchvision::nms does not exist" (github.com/pytorch/vision/issues/9085). Declaring
    the two is enough for the data sets, which use neither.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("torchvision::nms", "torchvision::qnms"):
            torch.library.define(name, "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
