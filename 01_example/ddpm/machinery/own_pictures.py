"""Your own pictures as one uint8 tensor: a folder of PNG and JPEG files, or a .npy file.

    shapes/a.png         shapes/b.jpg           a folder of pictures: no classes
    shapes/circle/a.png  shapes/square/b.jpg    of folders: each is a class, named as the folder

Hidden files are left out. If one picture has colours, all get three channels, otherwise one.
"""
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from machinery.processes import rank

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini", "__MACOSX")      # hidden, but not by their names
LARGEST_ADVISED = 64        # pixels: more take a GPU, and more than these few layers

Pictures = Iterator[tuple[Path, Image.Image]]       # each with the file that it comes from


def read(path: Path, size: int | None = None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The pictures of a folder or a .npy file, (N, C, size, size), uint8, their labels (N,), int64,
    and the classes' names.

    With a size the shorter side is scaled to it, and the middle is kept; without one all pictures
    must be squares of one size. Raises: OSError, in one line, for what is none of that.
    """
    if path.is_dir():
        files, labels, classes = list_folder(path)
        pictures = ((file, open_picture(file, size)) for file in files)
    else:
        array = open_array(path)
        labels, classes = [0] * len(array), ()
        pictures = ((path, Image.fromarray(pixels)) for pixels in array)
    return stack(pictures, len(labels), size), torch.tensor(labels), classes


def show(path: Path) -> str:
    r"""A path for one line of text: what cannot be printed, or is no UTF-8, as \x0a or \udcff."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


# --- a folder -------------------------------------------------------------------------------------

def list_folder(folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """The files of a folder, or of its sub-folders; the label of each; the sub-folders' names."""
    entries = visible(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        return entries, [0] * len(entries), ()
    if len(folders) < len(entries):
        file = next(entry for entry in entries if entry not in folders)
        raise OSError(f"{show(folder)} holds the folder {show(folders[0].name)} and the file "
                      f"{show(file.name)}: it may hold pictures, or a folder for each class")
    files, labels = [], []
    for label, entry in enumerate(folders):
        inside = visible(entry)
        for deeper in filter(Path.is_dir, inside):
            raise OSError(f"{show(deeper)} is a folder within a class: the classes are the "
                          f"folders in {show(folder)}, and hold pictures only")
        files += inside
        labels += [label] * len(inside)
    return files, labels, tuple(map(class_name, folders))


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in the order of the names, without what is hidden; never nothing."""
    entries = sorted(entry for entry in folder.iterdir()
                     if not entry.name.startswith(".") and entry.name not in LEFT_BY_SYSTEMS)
    if not entries:
        raise OSError(f"{show(folder)} holds no pictures")
    return entries


def class_name(folder: Path) -> str:
    """The folder's name as a keyboard types it (an e with its accent may be one letter or two)."""
    name = unicodedata.normalize("NFC", folder.name)
    if not name.isprintable():
        raise OSError(f"{show(folder)} cannot name a class, since it is no UTF-8 or has letters "
                      "that do not print: rename the folder")
    if name == "all":
        raise OSError(f"{show(folder)} cannot name a class, since sample.py --label all draws "
                      "every class: rename the folder")
    return name


def open_picture(path: Path, size: int | None = None) -> Image.Image:
    """A file's picture upright, in 8 bits, grey (mode L) or colour (RGB), on white.

    It will be scaled to `size`, if one is given: then a JPEG may be decoded at a half, a quarter or
    an eighth of its size, as long as four times `size` is left; that takes a tenth of the time.
    """
    if not path.is_file():
        raise OSError(f"{show(path)} leads to no file")
    content = path.read_bytes()
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        several = getattr(picture, "is_animated", False) and picture.format != "MPO"
        if size:
            picture.draft("RGB", (4 * size, 4 * size))
        upright = eight_bits(ImageOps.exif_transpose(picture))      # decodes it
    except UnidentifiedImageError as error:
        raise OSError(f"{show(path)} is no picture of the kinds {', '.join(FORMATS)}: convert it, "
                      "or take it out of the folder") from error
    except MemoryError:
        raise
    except Exception as error:          # a decoder may raise anything, if the file is broken
        reason = " ".join(str(error).split())
        raise OSError(f"{show(path)} is broken ({reason}): take it out of the folder") from error
    if several:
        raise OSError(f"{show(path)} is animated: save the pictures that you want one by one")
    return upright


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture with levels 0..255, in grey or in red, green and blue, transparent parts white.
    """
    if picture.mode.startswith("I"):                        # grey of 16 bits: the upper 8 of them
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


# --- a .npy file ----------------------------------------------------------------------------------

def open_array(path: Path) -> np.ndarray:
    """A .npy file's pictures, uint8 (N, H, W) or (N, H, W, 3).

    Of four axes the second is the channels' if it has 1 or 3 entries, otherwise the last.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")           # which knows no pickle
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{show(path)} is no whole .npy file of numbers ({reason})") from error
    if array.dtype != np.uint8:
        raise OSError(f"{show(path)} holds {array.dtype}, but pictures are uint8, 0 to 255: for "
                      "x in [0, 1] save (255 * x).round().astype('uint8')")
    if path.stat().st_size != array.offset + array.nbytes or array.size == 0:
        raise OSError(f"{show(path)} holds no pictures, or more than one array")
    shape = array.shape
    if array.ndim == 4 and shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3 and array.shape[3:] != (3,):
        raise OSError(f"{show(path)} has the shape {shape}, not (N, H, W), (N, 1, H, W), "
                      "(N, 3, H, W) or (N, H, W, 3)")
    return array


# --- both -----------------------------------------------------------------------------------------

def stack(pictures: Pictures, n: int, size: int | None) -> Tensor:
    """n pictures, one after the other, as one tensor (n, 3 or 1, H, W), uint8."""
    images, first, colour = np.array([]), None, False
    bar = tqdm(pictures, "reading", n, leave=False, unit=" pictures",
               disable=True if rank() else None)
    for i, (path, picture) in enumerate(bar):
        if size:
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
        if first is None:
            first = path, picture.size
            images = allocate(n, *picture.size)
        check_size(path, picture.size, *first)
        colour = colour or picture.mode == "RGB"
        images[i] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return torch.from_numpy(images if colour else images[:, :1].copy())


def allocate(n: int, width: int, height: int) -> np.ndarray:
    """Room for n pictures, (n, 3, height, width), uint8."""
    try:
        return np.empty((n, 3, height, width), np.uint8)
    except MemoryError as error:
        raise OSError(f"{n} pictures of {width} x {height} pixels do not fit into the memory: take "
                      "a smaller --size") from error


def check_size(path: Path, size: tuple[int, int], first: Path, size_of_first: tuple[int, int]
               ) -> None:
    """Raises OSError, with the --size to take, unless the network takes pictures of this size."""
    side = min(LARGEST_ADVISED, *size, *size_of_first) // 4 * 4
    advice = f"take --size {max(4, side)}, which scales and crops in the middle"
    has = f"{show(path)} has {size[0]} x {size[1]} pixels"
    if size != size_of_first:
        raise OSError(f"{has}, {show(first)} {size_of_first[0]} x {size_of_first[1]}: {advice}")
    if size[0] != size[1] or size[0] % 4:
        raise OSError(f"{has}, and the network takes squares of a multiple of 4: {advice}")
