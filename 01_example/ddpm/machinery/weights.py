"""Files of weights that cannot lie: tensors and configuration, under one SHA-256 sum."""
import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from machinery.files import write

NO_SUM = "0" * 64        # stands in the file where the sum will be, while the sum is taken


def save_weights(path: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """The tensors as safetensors; in the header, as JSON, the configuration and the sum of the
    whole file."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, metadata={"model": json.dumps({"sha256": NO_SUM, "config": config})})
    total = hashlib.sha256(content).hexdigest()
    write(path, content.replace(NO_SUM.encode(), total.encode(), 1))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and configuration, as save_weights wrote them, on the CPU.

    Raises: OSError if there is no such file, ValueError if a bit has changed or there is no sum.
    """
    if path.is_dir():
        raise OSError(f"{path} is a folder: take a file in it, such as the model.safetensors that "
                      "train.py wrote")
    if not path.is_file():
        raise OSError(f"there is no file {path}")
    content = path.read_bytes()
    try:
        header = read_header(content)
        total = header["sha256"]
        blank = content.replace(total.encode(), NO_SUM.encode(), 1)
        if hashlib.sha256(blank).hexdigest() != total:
            raise ValueError("a wrong sum")
        return load(content), header["config"]
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("no file of this course") from error


def read_header(content: bytes) -> dict:
    """What the header says of the model. Raises: KeyError, TypeError or ValueError without it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8:8 + length])["__metadata__"]["model"])


def digest(path: Path) -> str:
    """Twelve digits of a file's sum, by which results know which weights they are of."""
    return read_header(path.read_bytes())["sha256"][:12]
