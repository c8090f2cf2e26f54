"""data.py and machinery/idx.py: digits, scales, the files of MNIST and its like; no network."""
import hashlib
import random
import struct
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import data
from machinery import idx

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SETS = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}


# --- digits and scales ----------------------------------------------------------------------------

def test_digits_are_1797_grey_images():
    """1,797 images of 8 x 8 bytes: sixteenths of 255, so 17 grey levels from 0 to 255."""
    digits, labels = data.digits()
    assert digits.shape == (1797, 1, 8, 8) and digits.dtype == torch.uint8
    assert digits.unique().tolist() == [round(255 * k / 16) for k in range(17)]
    assert labels.dtype == torch.int64 and labels[:12].tolist() == [*range(10), 0, 1]
    images, same_labels, classes, name = data.load("digits")
    assert torch.equal(images, digits) and torch.equal(same_labels, labels)
    assert classes == tuple("0123456789") and name == "digits"


def test_digits_are_upright():
    """The first is a 0: dark in the middle, bright where its ring is, dark in the corners."""
    assert (data.digits()[0][0, 0] > 127).int().tolist()[:4] == [
        [0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 1, 1, 0]]


def test_bytes_survive_the_round_trip():
    """to_unit and to_uint8 are inverse on 0..255, and to_unit's ends are exactly -1 and 1."""
    values = torch.arange(256, dtype=torch.uint8)
    x = data.to_unit(values)
    assert torch.equal(data.to_uint8(x), values)
    assert x.dtype == torch.float32 and (x[0], x[255]) == (-1, 1)
    torch.testing.assert_close(x[51], torch.tensor(-0.6))


def test_to_uint8_rounds_and_cuts_off():
    """What lies outside [-1, 1] becomes 0 or 255, the rest the nearest level."""
    x = torch.tensor([-7.0, -1.004, -0.9975, -0.9945, 0.002, 0.9979, 0.9985, 1.3])
    assert data.to_uint8(x).tolist() == [0, 0, 0, 1, 128, 255, 255, 255]


# --- MNIST ----------------------------------------------------------------------------------------

@pytest.fixture
def attempts(monkeypatch):
    """No test reaches the network: every download fails, and the list says what was asked for."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("no route\nto host")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def idx_file(array: torch.Tensor) -> bytes:
    """A uint8 tensor in MNIST's IDX format."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + bytes(array.flatten().tolist())


@pytest.fixture
def sets(tmp_path, monkeypatch, attempts):
    """A folder with three small sets in MNIST's format, and published sums of the first two."""
    generator, written = torch.Generator().manual_seed(2), {}
    for title in SETS.values():
        (tmp_path / title / "raw").mkdir(parents=True)
        for name, n in zip(NAMES, (7, 7, 5, 5), strict=True):
            levels, shape = (256, (n, 28, 28)) if "images" in name else (10, (n,))
            array = torch.randint(levels, shape, dtype=torch.uint8, generator=generator)
            (tmp_path / title / "raw" / name).write_bytes(idx_file(array))
            written[title, name] = array
    for name, title in list(SETS.items())[:2]:
        monkeypatch.setitem(idx.MD5, name, tuple(
            hashlib.md5((tmp_path / title / "raw" / file).read_bytes()).hexdigest()
            for file in NAMES))
    return tmp_path, written


def test_published_checksums_are_of_the_four_files():
    """Four MD5 sums of 32 digits each, of MNIST and of Fashion-MNIST, and no sum twice."""
    assert idx.FILES == NAMES and idx.SETS == SETS and list(idx.MD5) == ["mnist", "fashion"]
    sums = [md5 for four in idx.MD5.values() for md5 in four]
    assert len({int(md5, 16) for md5 in sums}) == 8 and {len(md5) for md5 in sums} == {32}


@pytest.mark.parametrize(("train", "n"), [(True, 7), (False, 5)])
def test_good_files_load_without_a_network(sets, attempts, train, n):
    """The images come out as (N, 1, 28, 28) bytes, pixel by pixel, and nothing is downloaded."""
    folder, written = sets
    loaded, labels = data.mnist_with_labels(folder, train=train)
    assert loaded.shape == (n, 1, 28, 28) and loaded.dtype == torch.uint8
    assert torch.equal(loaded[:, 0], written["MNIST", NAMES[0 if train else 2]])
    assert torch.equal(labels, written["MNIST", NAMES[1 if train else 3]].long())
    assert torch.equal(data.mnist(folder, train=train), loaded)
    assert attempts == []


CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                "Sneaker", "Bag", "Ankle boot"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


@pytest.mark.parametrize("name", SETS)
def test_load_reads_the_training_images_of_each_set(sets, attempts, name):
    """From its own folder, with its labels and their names."""
    folder, written = sets
    images, labels, classes, title = data.load(name, folder)
    assert torch.equal(images[:, 0], written[SETS[name], NAMES[0]])
    assert torch.equal(labels, written[SETS[name], NAMES[1]].long())
    assert labels.dtype == torch.int64 and classes == CLASSES[name] and title == name
    assert attempts == []


def test_fashion_is_drawn_by_its_names(call, sets, tmp_path):
    """train.py --dataset fashion, then sample.py --label with a name of two words."""
    folder, _ = sets
    flags = ["--dataset", "fashion", "--data-dir", folder, "--batch-size", 7, "--epochs", 1,
             "--width", 8, "--timesteps", 4, "--device", "cpu", "--out", tmp_path / "run"]
    assert call("ddpm", "train", *flags).status == 0
    flags = ["--weights", tmp_path / "run/model.safetensors", "--steps", 2, "--device", "cpu",
             "--n", 1, "--out", tmp_path / "a.png", "--label"]
    assert call("ddim", "sample", *flags, "Ankle boot").status == 0
    call("ddim", "sample", *flags, "7").refuses(2, "--label 7", "T-shirt/top, Trouser")


@pytest.mark.parametrize("name", SETS)
def test_no_network_says_where_to_put_which_files(tmp_path, attempts, name):
    """Without files and network: one OSError of one line with the folder and the four names."""
    with pytest.raises(OSError) as caught:
        data.load(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / SETS[name] / "raw") in message and "digits" in message
    assert all(name in message for name in NAMES)
    assert "\n" not in message and attempts != []


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_is_no_data_set(sets, attempts, name):
    """With one of the four gone, and no network, nothing is loaded."""
    folder, _ = sets
    (folder / "MNIST" / "raw" / name).unlink()
    with pytest.raises(OSError, match=name):
        data.mnist(folder)
    assert attempts != []


DAMAGED = {
    "empty": lambda good: b"",
    "truncated": lambda good: good[:-3],
    "only the header": lambda good: good[:8],
    "three bytes": lambda good: good[:3],
    "longer": lambda good: good + b"\0",
    "text": lambda good: b"This is not a data set, but it has the right name.",
    "web page": lambda good: b"<!DOCTYPE html><title>403</title>",
    "random": lambda good: random.Random(1).randbytes(5000),
    "no axes": lambda good: b"\0\0\x08\0",
    "floats": lambda good: b"\0\0\x0d" + good[3:],
}
FOREIGN = {
    "one bit": (lambda good: good[:-1] + bytes([good[-1] ^ 1]), "a whole file of 7 "),
    "images": (lambda good: idx_file(torch.ones(1200, 28, 14, dtype=torch.uint8)),
               "a whole file of 1,200 images of 28 x 14, but not "),
    "labels": (lambda good: idx_file(torch.ones(9, dtype=torch.uint8)),
               "a whole file of 9 labels, but not "),
    "colour": (lambda good: idx_file(torch.ones(2, 3, 4, 5, dtype=torch.uint8)),
               "a whole file of 2 images of 3 x 4 x 5, but not "),
}


def refusal(name: str, folder: Path) -> str:
    """The line in which a set is refused."""
    with pytest.raises(OSError) as caught:
        data.load(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", [NAMES[0], NAMES[1]])
@pytest.mark.parametrize("spoil", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_refused_by_name(sets, spoil, file):
    """What is no whole IDX file may be deleted, and the line says so; in each set's folder."""
    folder, _ = sets
    for name, title in SETS.items():
        path = folder / title / "raw" / file
        path.write_bytes(spoil(path.read_bytes()))
        line = refusal(name, folder)
        assert line.startswith(f"{path} is truncated or damaged: delete it"), line


@pytest.mark.parametrize("file", [NAMES[0], NAMES[1]])
@pytest.mark.parametrize(("spoil", "words"), FOREIGN.values(), ids=FOREIGN.keys())
def test_whole_foreign_file_is_not_called_damaged(sets, spoil, words, file):
    """The line says what its header says, and tells nobody to delete it."""
    folder, _ = sets
    path = folder / "MNIST" / "raw" / file
    path.write_bytes(spoil(path.read_bytes()))
    line = refusal("mnist", folder)
    assert line.startswith(f"{path} is {words}") and "delete" not in line, line


@pytest.mark.parametrize(("name", "other"), [("mnist", "fashion"), ("fashion", "mnist"),
                                             ("kmnist", "fashion")])
def test_file_of_another_set_is_named_as_what_it_is(sets, name, other):
    """By its published sum: whose it is, where it belongs, and the flag that reads it there."""
    folder, _ = sets
    path = folder / SETS[name] / "raw" / NAMES[1]
    there = folder / SETS[other] / "raw" / NAMES[1]
    path.write_bytes(there.read_bytes())
    line = refusal(name, folder)
    assert line.startswith(f"{path} is a file of {SETS[other]}: move it to {there}"), line
    assert f"--dataset {other}" in line


def test_files_that_took_each_others_names_are_refused(sets):
    """MNIST's test images in place of its training images, for example."""
    folder, _ = sets
    raw = folder / "MNIST" / "raw"
    (raw / NAMES[0]).write_bytes((raw / NAMES[2]).read_bytes())
    line = refusal("mnist", folder)
    assert f"{raw / NAMES[0]} is a file of MNIST: move it to {raw / NAMES[2]}" in line


@pytest.mark.parametrize(("file", "array"), [
    (NAMES[0], torch.ones(7, 28, 20)), (NAMES[0], torch.ones(6, 28, 28)),
    (NAMES[0], torch.ones(7)), (NAMES[1], torch.full((7,), 10)), (NAMES[1], torch.ones(7, 28, 28)),
], ids=["size", "number", "no images", "label 10", "no labels"])
def test_set_without_published_sums_must_fit_together(sets, file, array):
    """KMNIST's files have none, unpacked: whole files of other shapes or labels are refused."""
    folder, _ = sets
    raw = folder / "KMNIST" / "raw"
    (raw / file).write_bytes(idx_file(array.byte()))
    assert str(raw) in refusal("kmnist", folder)


def test_file_without_images_is_damaged(sets):
    folder, _ = sets
    path = folder / "KMNIST" / "raw" / NAMES[0]
    path.write_bytes(idx_file(torch.ones(0, 28, 28)))
    assert refusal("kmnist", folder).startswith(f"{path} is truncated or damaged")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_not_drawn_as_black(value):
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, 2, 3] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        data.to_uint8(x)
