"""own_pictures.py, and a training on a folder: what is read, how, and what is refused in a line."""
import io
import os
import struct
import sys
import warnings
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from conftest import EXAMPLE
from PIL import Image, ImageDraw
from scripts import Trap, command, names, pickled

import data
from machinery import own_pictures

FLAGS = ["--width", 8, "--timesteps", 12, "--batch-size", 4, "--epochs", 1, "--device", "cpu"]


def pixels(seed: int, *shape: int) -> np.ndarray:
    """Random levels, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(picture: Image.Image, kind: str = "png", **settings) -> bytes:
    """The picture as a file's content."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def paint(path: Path, seed: int, *shape: int) -> np.ndarray:
    """A file of random pixels, and these; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(seed, *shape)
    Image.fromarray(array).save(path)
    return array


def refusal(path: Path, size: int | None = None) -> str:
    """The line in which the pictures are refused."""
    with pytest.raises(OSError) as caught:
        own_pictures.read(path, size)
    line = str(caught.value)
    assert line and line.isprintable()                  # so it is one line of UTF-8
    return line


# --- a folder -------------------------------------------------------------------------------------

def test_grey_pictures_of_a_folder(tmp_path):
    """In the order of their names, pixel by pixel, with one channel, label 0 and no classes."""
    arrays = [paint(tmp_path / name, i, 12, 12) for i, name in enumerate(["a.png", "b.png"])]
    images, labels, classes = own_pictures.read(tmp_path)
    assert images.dtype == torch.uint8 and images.is_contiguous()
    assert np.array_equal(images, np.stack(arrays)[:, None])
    assert labels.tolist() == [0, 0] and labels.dtype == torch.int64 and classes == ()


@pytest.mark.parametrize("grey_first", [True, False])
def test_one_picture_in_colour_makes_all_three_channels(tmp_path, grey_first):
    """A grey picture beside it has the same levels in red, green and blue."""
    grey = paint(tmp_path / ("a.png" if grey_first else "z.png"), 1, 8, 8)
    colour = paint(tmp_path / "m.png", 2, 8, 8, 3)
    images, *_ = own_pictures.read(tmp_path)
    assert images.shape == (2, 3, 8, 8)
    assert np.array_equal(images[int(grey_first)], colour.transpose(2, 0, 1))
    assert np.array_equal(images[int(not grey_first)], np.stack([grey] * 3))


def test_jpeg_is_read_whatever_its_name_ends_in(tmp_path):
    """The content tells the kind; levels of a JPEG are near the originals, in their order."""
    picture = Image.fromarray(np.full((8, 8, 3), (250, 120, 10), np.uint8))
    for name in ("a.jpg", "b.JPEG", "c.png", "d"):
        (tmp_path / name).write_bytes(encoded(picture, "jpeg"))
    images, *_ = own_pictures.read(tmp_path)
    assert images.shape == (4, 3, 8, 8)
    assert (images - torch.tensor([250, 120, 10])[:, None, None]).abs().max() <= 3


def test_subfolders_are_classes(tmp_path):
    """In the order of their names, each picture with the number of its folder."""
    arrays = [paint(tmp_path / name, i, 8, 8)
              for i, name in enumerate(["cat/b.png", "cat/c.png", "dog/a.png"])]
    images, labels, classes = own_pictures.read(tmp_path)
    assert classes == ("cat", "dog") and labels.tolist() == [0, 0, 1]
    assert np.array_equal(images, np.stack(arrays)[:, None])


def test_hidden_files_are_left_out(tmp_path):
    """Names that begin with a dot, at both levels, and what systems leave behind."""
    paint(tmp_path / "cat/a.png", 1, 8, 8)
    for name in (".DS_Store", "cat/._a.png", "cat/Thumbs.db", "desktop.ini", "__MACOSX/a.png",
                 ".hidden/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not a picture")
    images, _, classes = own_pictures.read(tmp_path)
    assert len(images) == 1 and classes == ("cat",)


def test_name_of_a_class_is_as_typed(tmp_path):
    """An accent that a file system keeps apart from its letter is joined to it again."""
    paint(tmp_path / "zoe\u0301/a.png", 1, 8, 8)
    assert own_pictures.read(tmp_path)[2] == ("zo\u00e9",)


LAYOUTS = {
    "empty": ([], ["holds no pictures"]),
    "only hidden": ([".a.png"], ["holds no pictures"]),
    "empty class": (["cat/a.png", "dog/.a.png"], ["dog holds no pictures"]),
    "files and folders": (["cat/a.png", "b.png"], ["the folder cat", "the file b.png"]),
    "deeper": (["train/cat/a.png", "test/cat/a.png"],
               [os.path.join("test", "cat"), "folder within a class"]),
    "all": (["all/a.png", "cat/a.png"], ["all", "--label all", "rename"]),
}


@pytest.mark.parametrize(("layout", "words"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_that_is_not_clear_is_refused(tmp_path, layout, words):
    """A folder holds pictures, or folders of pictures; nothing else is guessed."""
    for i, name in enumerate(layout):
        paint(tmp_path / name, i, 8, 8)
    line = refusal(tmp_path)
    assert str(tmp_path) in line and all(word in line for word in words), line


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="all names are Unicode there")
def test_names_that_are_no_utf_8(tmp_path):
    """A file's is read, or named if it is broken; a class's is refused, since models keep it."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.png"))
    array = paint(path, 1, 8, 8)
    assert np.array_equal(own_pictures.read(tmp_path)[0][0, 0], array)
    path.write_bytes(b"")
    assert r"\udcff\n.png is no picture" in refusal(tmp_path)
    path.unlink()
    paint(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/a.png")), 1, 8, 8)
    assert "rename" in refusal(tmp_path) and r"\udcff" in refusal(tmp_path)


# --- kinds of pictures ----------------------------------------------------------------------------

def palette(**settings) -> bytes:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([9, 9, 9, 200, 100, 50])
    return encoded(picture, **settings)


def png_of_16_bits(kind: int, *levels: int) -> bytes:
    """PNG's kind 0, 2, 4 or 6 (grey, colour, the same with alpha) with all pixels of these levels.

    Written byte by byte, since Pillow writes 16 bits in grey only.
    """
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc32(name + body))
    row = b"\0" + struct.pack(f">{len(levels)}H", *levels) * 4
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 4, 4, 16, kind, 0, 0, 0))
            + chunk(b"IDAT", compress(row * 4)) + chunk(b"IEND", b""))


KINDS = {   # a file of 4 x 4 pixels: what its pixel (1, 2) becomes
    "palette": (palette(), [200, 100, 50]),
    "palette, clear": (palette(transparency=1), [255, 255, 255]),
    "GIF": (encoded(Image.new("RGB", (4, 4), (255, 0, 51)), "gif"), [255, 0, 51]),
    "two levels": (encoded(Image.new("1", (4, 4), 1)), [255]),
    "grey": (encoded(Image.new("L", (4, 4), 7)), [7]),
    "grey, a fifth covered": (encoded(Image.new("LA", (4, 4), (100, 51))), [224]),
    "grey, clear": (encoded(Image.new("L", (4, 4), 7), transparency=7), [255]),
    "colour, a fifth covered": (encoded(Image.new("RGBA", (4, 4), (0, 100, 255, 51))),
                                [204, 224, 255]),
    "colour, clear": (encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 0))), [255, 255, 255]),
    "16 bits": (png_of_16_bits(0, 256 * 77 + 200), [77]),
    "16 bits, white": (png_of_16_bits(0, 65_535), [255]),
    "16 bits, colour": (png_of_16_bits(2, 256 * 77 + 200, 0, 65_535), [77, 0, 255]),
    "16 bits, a fifth covered": (png_of_16_bits(4, 100 * 257, 51 * 257), [224] * 3),  # by Pillow
    "16 bits, colour, a fifth covered": (png_of_16_bits(6, 0, 100 * 257, 65_535, 51 * 257),
                                         [204, 224, 255]),
    "CMYK": (encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "jpeg"), [255, 0, 0]),
}


@pytest.mark.parametrize(("content", "expected"), KINDS.values(), ids=KINDS.keys())
def test_kind_of_picture_is_read_rightly(tmp_path, content, expected):
    """Palettes, two levels, transparency over white, 16 bits by their upper 8, printers' inks."""
    (tmp_path / "a.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, *_ = own_pictures.read(tmp_path)
    assert images[0, :, 1, 2].tolist() == expected


def test_pictures_stand_as_the_camera_was_held(tmp_path):
    """EXIF's orientation 6, "turn right", is obeyed: what is stored left comes to the top."""
    picture = Image.new("RGB", (8, 8), "black")
    picture.paste("white", (0, 0, 4, 8))
    exif = picture.getexif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(picture, "jpeg", exif=exif))
    top, bottom = own_pictures.read(tmp_path)[0][0].float().split(4, dim=1)
    assert top.min() > 240 and bottom.max() < 15


def test_picture_with_a_preview_is_no_animation(tmp_path):
    """Phones write JPEG files that hold a second picture (MPO): the first one counts."""
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    (tmp_path / "a.jpg").write_bytes(encoded(first, "mpo", save_all=True, append_images=[second]))
    assert own_pictures.read(tmp_path)[0][0, :, 3, 3].tolist() == [254, 0, 0]


def frames(kind: str) -> bytes:
    return encoded(Image.new("RGB", (8, 8), "red"), kind, save_all=True,
                   append_images=[Image.new("RGB", (8, 8), "blue")])


NOISE = Image.fromarray(pixels(5, 8, 8, 3))
BROKEN = {
    "text": (b"These are my pictures of 2020.\n", "is no picture"),
    "empty": (b"", "is no picture"),
    "half a PNG": (encoded(NOISE)[:150], "is broken (image file is truncated"),
    "half a JPEG": (encoded(NOISE, "jpeg")[:500], "is broken ("),
    "flipped PNG": (encoded(NOISE)[:99] + b"\0" + encoded(NOISE)[100:], "is broken ("),
    "bomb": (b"BM" + bytes(12) + (40).to_bytes(4, "little") + (60_000).to_bytes(4, "little") * 2
             + bytes([1, 0, 24]) + bytes(25), "is broken (Image size (3600000000 pixels)"),
    "animated GIF": (frames("gif"), "is animated"),
    "animated PNG": (frames("png"), "is animated"),
    "animated WebP": (frames("webp"), "is animated"),
    "PDF": (encoded(NOISE, "pdf"), "is no picture"),
    "TIFF": (encoded(NOISE, "tiff"), "is no picture"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_file_that_cannot_be_read_is_named(tmp_path, content, words):
    """In the middle of good ones: one line with its path and the reason."""
    for i, name in enumerate("ac"):
        paint(tmp_path / f"{name}.png", i, 8, 8, 3)
    (tmp_path / "b.png").write_bytes(content)
    line = refusal(tmp_path)
    assert line.startswith(str(tmp_path / "b.png")) and words in line, line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' links need rights")
def test_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert f"{tmp_path / 'a.png'} leads to no file" in refusal(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_pipe_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "a.png leads to no file" in refusal(tmp_path)


def test_too_little_memory_while_decoding_is_no_broken_picture(tmp_path, monkeypatch):
    """cli.run has a line for that; nobody is told to take the picture out."""
    paint(tmp_path / "a.png", 1, 8, 8)

    def fail(picture):
        raise MemoryError
    monkeypatch.setattr(own_pictures.ImageOps, "exif_transpose", fail)
    with pytest.raises(MemoryError):
        own_pictures.read(tmp_path)


# --- sizes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("upright", [True, False])
def test_size_scales_the_shorter_side_and_crops_in_the_middle(tmp_path, upright):
    """Of 16 x 40 pixels, whose ends are blue and whose middle square is red, the middle stays."""
    picture = Image.new("RGB", (40, 16), "blue")
    picture.paste("red", (12, 0, 28, 16))
    (tmp_path / "a.png").write_bytes(encoded(picture.rotate(90, expand=True) if upright
                                             else picture))
    image = own_pictures.read(tmp_path, 8)[0][0]
    assert image.shape == (3, 8, 8)
    assert torch.equal(image, image.flip(1, 2))         # from both sides the ends shine in alike
    assert (image - torch.tensor([255, 0, 0])[:, None, None]).abs().max() < 30


def test_scaling_down_averages(tmp_path):
    """A chessboard of single pixels becomes grey; without antialiasing it would stay black."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    inner = own_pictures.read(tmp_path, 8)[0][0, 0, 1:-1, 1:-1]
    assert (inner.float() - 127.5).abs().max() < 4


def test_large_jpeg_is_scaled_as_if_it_were_decoded_whole(tmp_path):
    """It is decoded at a quarter of its size, for speed: at most two levels of 255 differ. (At an
    eighth, too near to the size asked for, it would be 16.)"""
    picture = Image.fromarray(pixels(8, 6, 8, 3)).resize((400, 300), Image.Resampling.BICUBIC)
    (tmp_path / "a.jpg").write_bytes(encoded(picture, "jpeg", quality=95))
    with Image.open(tmp_path / "a.jpg") as whole:
        (tmp_path / "b.png").write_bytes(encoded(whole))
    a, b = own_pictures.read(tmp_path, 16)[0].int()
    assert 0 < (a - b).abs().max() <= 2


def test_pictures_are_scaled_up_too(tmp_path):
    paint(tmp_path / "a.png", 1, 3, 5)
    paint(tmp_path / "b.png", 2, 8, 8)
    images, *_ = own_pictures.read(tmp_path, 8)
    assert images.shape == (2, 1, 8, 8)


SIZES = {   # heights and widths: the --size to take
    "two": ([(32, 32), (28, 28)], 28), "two, the later is larger": ([(20, 20), (24, 24)], 20),
    "high": ([(28, 20)], 20), "wide": ([(21, 40)], 20), "no multiple of 4": ([(30, 30)], 28),
    "tiny": ([(2, 3)], 4), "photographs": ([(300, 400)], 64),
    "photograph after a small one": ([(16, 16), (300, 400)], 16),
}


@pytest.mark.parametrize(("sizes", "advised"), SIZES.values(), ids=SIZES.keys())
def test_sizes_that_no_network_takes_are_refused_with_the_size_to_take(tmp_path, sizes, advised):
    """The line names the files and their sizes; with --size as it says they are read."""
    for i, (height, width) in enumerate(sizes):
        paint(tmp_path / f"{i}.png", i, height, width)
    line = refusal(tmp_path)
    assert f"take --size {advised}," in line
    for i, (height, width) in enumerate(sizes):
        assert f"{tmp_path / str(i)}.png" in line and f"{width} x {height}" in line, line
    assert own_pictures.read(tmp_path, advised)[0].shape[2:] == (advised, advised)


def test_more_pictures_than_memory_are_refused(tmp_path, monkeypatch):
    """Before they are read, with what helps."""
    paint(tmp_path / "a.png", 1, 8, 8)

    def fail(shape, *settings):
        raise MemoryError
    monkeypatch.setattr(own_pictures.np, "empty", fail)
    assert "1 pictures of 8 x 8" in refusal(tmp_path) and "smaller --size" in refusal(tmp_path)


# --- a .npy file ----------------------------------------------------------------------------------

def test_forms_of_an_array(tmp_path):
    """All forms of the same pictures give the same tensor, whatever the order in memory."""
    path = tmp_path / "a.npy"
    colour, grey = pixels(1, 5, 8, 8, 3), pixels(2, 5, 8, 8)
    for array in (colour, colour.transpose(0, 3, 1, 2), np.asfortranarray(colour)):
        np.save(path, array)
        images, labels, classes = own_pictures.read(path)
        assert np.array_equal(images, colour.transpose(0, 3, 1, 2))
        assert labels.tolist() == [0] * 5 and classes == ()
    for array in (grey, grey[:, None], grey[..., None]):
        np.save(path, array)
        assert np.array_equal(own_pictures.read(path)[0], grey[:, None])


def test_channels_stand_second_if_both_places_are_possible(tmp_path):
    """(N, 3, H, 3) are pictures of H x 3 pixels: the rule of open_array."""
    array = pixels(1, 2, 3, 8, 3)
    np.save(tmp_path / "a.npy", array)
    assert "3 x 8 pixels" in refusal(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", array.transpose(0, 2, 3, 1))        # (N, 8, 3, 3): no such doubt
    assert torch.equal(own_pictures.read(tmp_path / "a.npy", 8)[0],
                       own_pictures.read(tmp_path / "b.npy", 8)[0])


def test_array_is_scaled(tmp_path):
    """--size is for arrays too, as for the same pictures in a folder."""
    array = pixels(1, 2, 10, 14, 3)
    np.save(tmp_path / "a.npy", array)
    for i in range(2):
        (tmp_path / "b").mkdir(exist_ok=True)
        Image.fromarray(array[i]).save(tmp_path / "b" / f"{i}.png")
    assert torch.equal(own_pictures.read(tmp_path / "a.npy", 8)[0],
                       own_pictures.read(tmp_path / "b", 8)[0])


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GOOD = npy(pixels(1, 2, 8, 8))
BAD_ARRAYS = {
    "floats": (npy(np.ones((2, 8, 8), np.float32)), "float32, but pictures are uint8"),
    "int64": (npy(np.ones((2, 8, 8), np.int64)), "int64, but pictures are uint8"),
    "booleans": (npy(np.ones((2, 8, 8), bool)), "bool, but pictures are uint8"),
    "one picture": (npy(pixels(1, 8, 8)), "has the shape (8, 8), not (N, H, W)"),
    "two channels": (npy(pixels(1, 2, 8, 8, 2)), "has the shape (2, 8, 8, 2)"),
    "four channels": (npy(pixels(1, 2, 4, 8, 8)), "has the shape (2, 4, 8, 8)"),
    "films": (npy(pixels(1, 2, 3, 8, 8, 3)), "has the shape (2, 3, 8, 8, 3)"),
    "no pictures": (npy(pixels(1, 0, 8, 8)), "no "),
    "no pixels": (npy(pixels(1, 2, 0, 8)), "no "),
    "empty": (b"", "no whole .npy"), "half": (GOOD[:150], "no whole .npy"),
    "header": (GOOD[:60], "no whole .npy"), "longer": (GOOD + GOOD, "more than one array"),
    "text": (b"0,1,2\n3,4,5\n", "no whole .npy"), "huge": (
        npy(np.zeros((2, 8, 8), np.uint8)).replace(b"(2, 8, 8), }  ", b"(9999, 8, 8),}"), "no "),
    "objects": (npy(np.array([None])), "no whole .npy"),
}


@pytest.mark.parametrize(("content", "words"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_array_that_holds_no_pictures_is_refused(tmp_path, content, words):
    """One line with the path and the reason."""
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    line = refusal(path)
    assert str(path) in line and words in line, line


def test_archive_named_npy_is_refused(tmp_path):
    """numpy would open it as what it is, an .npz."""
    np.savez(tmp_path / "a.npz", a=pixels(1, 2, 8, 8))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert "no whole .npy" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize("way", ["pickle", "object array"])
def test_pickle_is_never_run(tmp_path, way):
    """A pickle named .npy, or an array of objects, is refused, and what it would do is not done."""
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "a.npy"
    if way == "pickle":
        pickled(trap, way, path)
    else:
        array = np.empty(1, object)
        array[0] = trap
        np.save(path, array, allow_pickle=True)
    assert "no whole .npy" in refusal(path)
    assert names(tmp_path) == ["a.npy"]


# --- as a data set --------------------------------------------------------------------------------

@pytest.fixture
def shapes(tmp_path) -> Path:
    """A folder of six pictures of 8 x 8 in colour, three circles and three squares."""
    for i in range(6):
        kind = "circle" if i < 3 else "square"
        picture = Image.new("RGB", (8, 8), (10, 20, 30 * i))
        draw = ImageDraw.Draw(picture)
        getattr(draw, {"circle": "ellipse", "square": "rectangle"}[kind])((1, 1, 6, 6), "orange")
        (tmp_path / "shapes" / kind).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "shapes" / kind / f"{i}.png")
    return tmp_path / "shapes"


def test_name_of_the_data_follows_its_content(shapes, monkeypatch):
    """So a training is not resumed on other pictures, and is on the same by another path."""
    first = data.load(str(shapes)).name
    assert first.startswith("shapes (6 pictures, sum ")
    monkeypatch.chdir(shapes)
    assert data.load(".").name == data.load("../shapes/").name == first
    (shapes / "circle/2.png").rename(shapes / "square/2.png")       # nothing but its label changes
    moved = data.load(".").name
    paint(shapes / "square/2.png", 1, 8, 8, 3)
    assert len({first, moved, data.load(".").name}) == 3


def test_own_pictures_are_passed_over_until_10000_steps(shapes):
    """The named sets have their numbers of epochs; batches that are not full are left out."""
    mine = data.load(str(shapes))
    assert (mine.epochs(6), mine.epochs(4), mine.epochs(2)) == (10_000, 10_000, 3_334)
    named = {name: mine._replace(name=name).epochs(2) for name in data.EPOCHS}
    assert named == {"mnist": 30, "fashion": 30, "kmnist": 30, "digits": 40}


def test_training_on_a_folder_in_colour(call, shapes, tmp_path):
    """Two lines: then sample.py draws colours as PNG, .npy and GIF, of all classes or of one."""
    run, weights = tmp_path / "run", tmp_path / "run/model.safetensors"
    flags = ["--dataset", shapes, *FLAGS, "--batch-size", 2, "--epochs", 6, "--out", run]
    result = call("ddpm", "train", *flags)
    assert result.status == 0 and result.err == "", result          # no bar where nobody looks
    for file in ("samples.png", "samples_by_epoch.png"):
        with Image.open(run / file) as picture:
            assert np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).max() > 20

    def draw(out: str, *flags: object):
        return call("ddim", "sample", "--weights", weights, "--steps", 3, "--device", "cpu",
                    "--out", tmp_path / out, *flags)
    assert draw("a.png", "--n", 4, "--animate", tmp_path / "a.gif").status == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "RGB"
        levels = np.asarray(picture).astype(int)
        assert np.ptp(levels, axis=2).max() > 20                    # colours, not greys
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4
        assert np.ptp(np.asarray(film.convert("RGB")).astype(int), axis=2).max() > 20
    assert draw("a.npy", "--n", 5).status == 0
    array = np.load(tmp_path / "a.npy")
    assert array.shape == (5, 8, 8, 3) and array.dtype == np.uint8
    drawn = {}
    for label in ("circle", "square", "all"):
        assert draw(f"{label}.npy", "--label", label, "--n", 2).status == 0
        drawn[label] = np.load(tmp_path / f"{label}.npy")
    assert drawn["all"].shape == (4, 8, 8, 3)
    assert np.array_equal(drawn["all"][:2], drawn["circle"])
    assert not np.array_equal(drawn["circle"], drawn["square"])
    draw("b.png", "--label", "cat").refuses(2, "--label cat", "circle, square")

    again = call("ddpm", "train", "--dataset", tmp_path / "a.npy", *FLAGS, "--out", tmp_path / "2")
    assert again.status == 0, again                                 # what is drawn can be learnt


def test_training_on_grey_pictures_without_classes(call, tmp_path):
    """One channel: sample.py writes (N, H, W), and knows no classes."""
    np.save(tmp_path / "a.npy", pixels(1, 4, 10, 12))
    call("ddpm", "train", "--dataset", tmp_path / "a.npy", *FLAGS, "--out", tmp_path / "run"
         ).refuses(1, "12 x 10", "--size 8")
    flags = ["--dataset", tmp_path / "a.npy", *FLAGS, "--size", 8, "--out", tmp_path / "run"]
    assert call("ddpm", "train", *flags).status == 0
    flags = ["--weights", tmp_path / "run/model.safetensors", "--steps", 2, "--device", "cpu",
             "--n", 3, "--out", tmp_path / "b.npy"]
    assert call("ddim", "sample", *flags).status == 0
    assert np.load(tmp_path / "b.npy").shape == (3, 8, 8)
    call("ddim", "sample", *flags, "--label", "cat").refuses(2, "no classes")


def test_resume_knows_the_pictures_again(call, shapes, tmp_path, monkeypatch):
    """By another path it goes on; with one pixel changed it is refused."""
    flags = [*FLAGS, "--out", tmp_path / "run", "--resume"]
    assert call("ddpm", "train", "--dataset", shapes, *flags).status == 0
    monkeypatch.chdir(tmp_path)
    more = call("ddpm", "train", "--dataset", "./shapes/", *flags, "--epochs", 2)
    assert more.status == 0 and "going on after epoch 1 of 2" in more.out, more
    with Image.open(shapes / "circle/0.png") as picture:
        picture.putpixel((0, 0), (1, 2, 3))
        picture.save(shapes / "circle/0.png")
    call("ddpm", "train", "--dataset", shapes, *flags, "--epochs", 2
         ).refuses(2, "other settings: dataset shapes (6 pictures")


USAGE = {
    "no such folder": (["--dataset", "shape"], 2, ["--dataset", "shape", "no folder"]),
    "no such file": (["--dataset", "shapes.npy"], 2, ["--dataset", "shapes.npy"]),
    "a picture": (["--dataset", "shapes/circle/0.png"], 2, ["--dataset", "0.png"]),
    "size 30": (["--dataset", "shapes", "--size", 30], 2, ["--size", "30", "multiple of 4"]),
    "size 0": (["--dataset", "shapes", "--size", 0], 2, ["--size", "multiple of 4"]),
    "size -4": (["--dataset", "shapes", "--size=-4"], 2, ["--size", "multiple of 4"]),
    "size text": (["--dataset", "shapes", "--size", "small"], 2, ["--size"]),
    "size of digits": (["--dataset", "digits", "--size", 16], 2, ["--size 16", "digits"]),
    "few pictures": (["--dataset", "shapes", "--batch-size", 7], 2, ["--batch-size 7", "6 at"]),
    "one picture": (["--dataset", "one"], 2, ["--batch-size 128", "1 picture", "1 at most"]),
    "broken": (["--dataset", "broken"], 1, ["a.png is no picture"]),
}


@pytest.mark.parametrize(("flags", "status", "words"), USAGE.values(), ids=USAGE.keys())
def test_train_refuses_in_one_line(call, shapes, monkeypatch, flags, status, words):
    """Bad usage ends with exit status 2, a file that cannot be read with 1; nothing is written."""
    monkeypatch.chdir(shapes.parent)
    paint(Path("one/a.png"), 1, 8, 8)
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no")
    call("ddpm", "train", *flags, "--out", "run", "--device", "cpu").refuses(status, *words)
    assert not Path("run/model.safetensors").exists()


def test_one_picture_is_enough(call, tmp_path):
    paint(tmp_path / "one/a.png", 1, 8, 8)
    flags = [*FLAGS, "--batch-size", 1, "--out", tmp_path / "run"]
    assert call("ddpm", "train", "--dataset", tmp_path / "one", *flags).status == 0


def test_broken_picture_as_a_process(tmp_path):
    """The real thing, with a name that is no UTF-8 where there are such: one line, no traceback."""
    name = b"\xff.png" if sys.platform == "linux" else b"a.png"
    (tmp_path / "mine").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "mine") + b"/" + name)).write_bytes(b"no")
    result = command("ddpm", "train", "--dataset", "mine", "--device", "cpu", cwd=tmp_path)
    result.refuses(1, ".png is no picture")
    assert result.err.startswith("train.py: ")


@pytest.mark.parametrize("name", ["evaluate", "ddpm_table_4", "ddpm_figures", "ddim_table_1",
                                  "ddim_table_2"])
def test_evaluation_refuses_other_pictures(call, script, tmp_path, monkeypatch, name):
    """Even those of a folder that is called mnist: the classifier and the tables know MNIST."""
    from model import Config, save_model
    monkeypatch.syspath_prepend(EXAMPLE / "evaluation")
    for i in range(2):
        paint(tmp_path / f"mnist/{i}.png", i, 28, 28)
    mine = data.load(str(tmp_path / "mnist"))
    config = Config(width=8, **mine.settings())
    weights = tmp_path / "model.safetensors"
    save_model(weights, config.network(), config)
    result = call("evaluation", name, "--weights", weights, "--device", "cpu")
    result.refuses(2, "--weights", "mnist")
