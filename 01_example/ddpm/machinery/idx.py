"""Files of MNIST's format, IDX; other sets took over the format and the names: whose are they?"""
import hashlib
import math
import struct
from pathlib import Path

SETS = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}    # torchvision's names
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",              # of each set
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MD5 = {   # the sums of these files, unpacked; KMNIST's are published for the packed ones only
    "mnist": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
              "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    "fashion": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
}


def check(name: str, raw: Path) -> None:
    """Raises OSError if a file in this folder is not what belongs there; it says what it is."""
    owners = {md5: (owner, file) for owner, sums in MD5.items()
              for file, md5 in zip(FILES, sums, strict=True)}
    for file in FILES:
        path = raw / file
        if not path.exists():
            continue
        content = path.read_bytes()
        owner, shape = owners.get(hashlib.md5(content).hexdigest()), idx_shape(content)
        if owner == (name, file):
            continue
        if owner:
            there = raw.parents[1] / SETS[owner[0]] / "raw" / owner[1]
            raise OSError(f"{path} is a file of {SETS[owner[0]]}: move it to {there}, where "
                          f"train.py --dataset {owner[0]} reads it")
        if not shape or 0 in shape:
            raise OSError(f"{path} is truncated or damaged: delete it, and it is downloaded again")
        if name in MD5 or len(shape) != (3 if "images" in file else 1):
            raise OSError(f"{path} is a whole file of {describe(shape)}, but not {SETS[name]}'s: "
                          f"move it away, and {SETS[name]}'s is downloaded")


def idx_shape(content: bytes) -> tuple[int, ...]:
    """The shape of the bytes in a whole IDX file; () if it is none."""
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * axes
    shape = struct.unpack_from(f">{axes}I", content, 4) if len(content) >= start else ()
    return shape if len(content) == start + math.prod(shape) else ()


def describe(shape: tuple[int, ...]) -> str:
    """What a file of this shape holds, in words."""
    size = " x ".join(map(str, shape[1:]))
    return f"{shape[0]:,} " + (f"images of {size}" if size else "labels")
