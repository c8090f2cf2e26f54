"""The data sets, each as one uint8 tensor of images (N, C, H, W) with a label for each."""
import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "data"   # the repository's data/, which git ignores

MNIST_FILES = {   # raw file: its MD5 sum, once unpacked
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Dataset(NamedTuple):
    """All that training reads."""

    images: Tensor                  # (N, C, H, W), uint8
    labels: Tensor                  # (N,), int64: the number of each image's class
    classes: tuple[str, ...]        # their names; none: the labels mean nothing


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1], where the diffusion lives."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to uint8 0..255, rounded; what lies outside is cut off."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def mnist(data_dir: Path = FOLDER, train: bool = True) -> Tensor:
    """MNIST's 60,000 training or 10,000 test images, (N, 1, 28, 28), uint8; see below."""
    return mnist_with_labels(data_dir, train)[0]


def mnist_with_labels(data_dir: Path = FOLDER, train: bool = True) -> tuple[Tensor, Tensor]:
    """MNIST's training or test images and their labels 0..9, (N,), int64; downloaded once.

    Raises: OSError if the files are not there and cannot be downloaded, or are not MNIST's.
    """
    raw = data_dir / "MNIST" / "raw"
    _check(raw)
    import_torchvision()
    from torchvision.datasets import MNIST
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # torchvision warns about its own mirrors
            data_set = MNIST(data_dir, train=train, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(f"MNIST is not in {raw} and could not be downloaded: put its four files "
                      f"({', '.join(MNIST_FILES)}) there by hand (only train.py --dataset "
                      "digits does without them)") from error
    return data_set.data[:, None], data_set.targets


def _check(raw: Path) -> None:
    """Raises OSError if a file of MNIST in this folder is not what was published."""
    for name, md5 in MNIST_FILES.items():
        if (raw / name).exists() and hashlib.md5((raw / name).read_bytes()).hexdigest() != md5:
            raise OSError(f"{raw / name} is truncated or not MNIST's: delete it, and it is "
                          "downloaded again")


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


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that scikit-learn brings along, (1797, 1, 8, 8), uint8, and
    their labels 0..9."""
    from sklearn.datasets import load_digits
    bunch = load_digits()
    images = torch.from_numpy(bunch.images)[:, None]            # whole numbers 0..16
    return (images * 255 / 16).round().to(torch.uint8), torch.from_numpy(bunch.target)


def load(name: str, data_dir: Path = FOLDER) -> Dataset:
    """The training images of the data set `mnist` or `digits`, with their labels."""
    images, labels = mnist_with_labels(data_dir) if name == "mnist" else digits()
    return Dataset(images, labels.long(), tuple("0123456789"))
