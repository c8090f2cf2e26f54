"""data.py: the digits, the two scales, and MNIST's files, without a network or the real MNIST."""
import hashlib
import random
import struct
import urllib.error
import urllib.request

import pytest
import torch

import data

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


# --- digits and scales ----------------------------------------------------------------------------

def test_digits_are_1797_grey_images():
    """1,797 images of 8 x 8 bytes: sixteenths of 255, so 17 grey levels from 0 to 255."""
    digits = data.digits()
    assert digits.shape == (1797, 1, 8, 8) and digits.dtype == torch.uint8
    assert digits.unique().tolist() == [round(255 * k / 16) for k in range(17)]
    assert torch.equal(data.load("digits"), digits)


def test_digits_are_upright():
    """The first is a 0: dark in the middle, bright where its ring is, dark in the corners."""
    assert (data.digits()[0, 0] > 127).int().tolist()[:4] == [
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


def idx(array: torch.Tensor) -> bytes:
    """A uint8 tensor in MNIST's IDX format."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + bytes(array.flatten().tolist())


@pytest.fixture
def mnist_like(tmp_path, monkeypatch, attempts):
    """A folder with a small data set in MNIST's format, published checksums included."""
    generator = torch.Generator().manual_seed(2)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = {}
    for name, n in zip(NAMES, (7, 7, 5, 5), strict=True):
        levels, shape = (256, (n, 28, 28)) if "images" in name else (10, (n,))
        images[name] = torch.randint(levels, shape, dtype=torch.uint8, generator=generator)
        (raw / name).write_bytes(idx(images[name]))
        monkeypatch.setitem(data.MNIST_FILES, name,
                            hashlib.md5((raw / name).read_bytes()).hexdigest())
    return tmp_path, images


def test_published_checksums_are_of_the_four_files():
    """The table names MNIST's four files, each with an MD5 sum of 32 digits of its own."""
    assert tuple(data.MNIST_FILES) == NAMES
    assert len({int(md5, 16) for md5 in data.MNIST_FILES.values()}) == 4
    assert {len(md5) for md5 in data.MNIST_FILES.values()} == {32}


@pytest.mark.parametrize(("train", "n"), [(True, 7), (False, 5)])
def test_good_files_load_without_a_network(mnist_like, attempts, train, n):
    """The images come out as (N, 1, 28, 28) bytes, pixel by pixel, and nothing is downloaded."""
    folder, images = mnist_like
    loaded = data.mnist(folder, train=train)
    assert loaded.shape == (n, 1, 28, 28) and loaded.dtype == torch.uint8
    assert torch.equal(loaded[:, 0], images[NAMES[0 if train else 2]])
    assert attempts == []


def test_load_reads_the_training_images_of_a_folder(mnist_like):
    """load("mnist", folder) is the training set in that folder."""
    folder, images = mnist_like
    assert torch.equal(data.load("mnist", folder)[:, 0], images[NAMES[0]])


def test_no_network_says_where_to_put_which_files(tmp_path, attempts):
    """Without files and network: one OSError of one line with the folder and the four names."""
    with pytest.raises(OSError) as caught:
        data.mnist(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in message and "digits" in message
    assert all(name in message for name in NAMES)
    assert "\n" not in message and attempts != []


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_is_no_data_set(mnist_like, attempts, name):
    """With one of the four gone, and no network, nothing is loaded."""
    folder, _ = mnist_like
    (folder / "MNIST" / "raw" / name).unlink()
    with pytest.raises(OSError, match=name):
        data.mnist(folder)
    assert attempts != []


FOREIGN = {
    "empty": lambda good: b"",
    "truncated": lambda good: good[:-3],
    "only the header": lambda good: good[:8],
    "longer": lambda good: good + b"\0",
    "one bit": lambda good: good[:-1] + bytes([good[-1] ^ 1]),
    "text": lambda good: b"This is not a data set, but it has the right name.",
    "web page": lambda good: b"<!DOCTYPE html><title>403</title>",
    "random": lambda good: random.Random(1).randbytes(5000),
    "other images": lambda good: idx(torch.ones(7, 28, 28, dtype=torch.uint8)),
    "colour": lambda good: idx(torch.ones(2, 3, 4, 5, dtype=torch.uint8)),
}


@pytest.mark.parametrize("name", [NAMES[0], NAMES[1]])
@pytest.mark.parametrize("spoil", FOREIGN.values(), ids=FOREIGN.keys())
def test_damaged_file_is_refused_by_name(mnist_like, spoil, name):
    """A truncated or foreign file of the right name is refused in one line that names it."""
    folder, _ = mnist_like
    path = folder / "MNIST" / "raw" / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(OSError) as caught:
        data.mnist(folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
