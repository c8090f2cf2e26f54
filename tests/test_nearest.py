"""evaluation/nearest.py: the nearest training digit, found as by brute force, and what is written.
"""
import json
import sys

import numpy as np
import pytest
import torch
from conftest import EXAMPLE
from PIL import Image

sys.path.append(str(EXAMPLE / "evaluation"))

import judge as judge_module  # noqa: E402
from data import to_unit  # noqa: E402
from judge import Judge  # noqa: E402
from machinery.weights import digest  # noqa: E402
from model import SHIPPED  # noqa: E402

CPU = torch.device("cpu")


def pictures(n: int, seed: int):
    """n uint8 images of noise (n, 1, 28, 28), and labels."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8),
            torch.randint(10, (n,), generator=generator))


@pytest.fixture
def nearest_script(script):
    return script("evaluation", "nearest")


def test_nearest_is_that_of_brute_force(nearest_script, monkeypatch):
    """The least root mean square difference and its place, also in chunks."""
    monkeypatch.setattr(nearest_script, "CHUNK", 3)
    a, b = pictures(8, 1)[0], pictures(40, 2)[0]
    d, which = nearest_script.nearest(a, b)
    x, y = to_unit(a).double().numpy(), to_unit(b).double().numpy()
    brute = np.array([[np.sqrt(((p - q)**2).mean()) for q in y] for p in x])
    np.testing.assert_allclose(d, brute.min(1), rtol=1e-5)
    assert which.tolist() == brute.argmin(1).tolist()


def test_a_copy_is_found_out(nearest_script):
    """A training image has the distance 0 to itself; a grey level more on every second pixel is
    (2 / 255) / sqrt(2)."""
    training = pictures(30, 3)[0].clamp(max=250)
    copies = training[[7, 21]].clone()
    copies[1, 0, :, ::2] += 1
    d, which = nearest_script.nearest(copies, training)
    assert which.tolist() == [7, 21] and d[0] == 0
    assert d[1].item() == pytest.approx(2 / 255 / 2**0.5, rel=1e-4)


def test_distances_tell_copies_from_new_images(nearest_script):
    """The share below the nearest 1% of the test digits: 1 for copies, 0.01 for test digits."""
    real = torch.linspace(0.2, 0.6, 1001)
    got = nearest_script.distances(torch.full((50,), 0.01), real)
    assert got["samples"] == {"n": 50, "median": 0.01, "least": 0.01, "nearer": 1.0}
    assert got["test images"] == {"n": 1001, "median": 0.4, "least": 0.2, "nearer": 0.01}


def test_what_is_written(nearest_script, monkeypatch, tmp_path, capsys):
    """The picture has the first samples above their nearest training images, the file the numbers
    of the judge; both say which weights they belong to."""
    monkeypatch.setattr(judge_module, "mnist_with_labels",
                        lambda data_dir, train=True: pictures(400, 10 + train))
    monkeypatch.setattr(judge_module, "mnist", lambda data_dir: pictures(400, 11)[0])
    monkeypatch.setattr(nearest_script, "mnist", lambda data_dir: pictures(400, 11)[0])
    drawn = pictures(120, 20)[0]
    drawn[2] = pictures(400, 11)[0][33]                     # a copy
    asked = {}

    def draw(model, n, seed, steps, eta):
        asked.update(n=n, seed=seed, steps=steps, eta=eta)
        return drawn
    monkeypatch.setattr(nearest_script, "draw_ddim", draw)
    nearest_script.main(["--n", "120", "--steps", "3", "--seed", "5", "--out", str(tmp_path),
                         "--device", "cpu"])
    assert asked == {"n": 120, "seed": 5, "steps": 3, "eta": 1.0}
    got = json.loads((tmp_path / "nearest.json").read_text())
    assert got["settings"] == {"weights": digest(SHIPPED), "steps": 3, "eta": 1.0, "seed": 5}
    judge = Judge(CPU)
    assert got["samples"] == judge.measure(drawn) and got["floor"] == judge.floor(120)
    assert got["shown"][2]["distance"] == 0 and got["shown"][2]["training image"] == 33
    assert got["shown"][0]["distance"] > 0.1 and len(got["shown"]) == 8
    assert got["distance"]["samples"]["least"] == 0
    picture = np.asarray(Image.open(tmp_path / "nearest.png"))
    scale = 960 // (8 * 29 + 1)
    tile = picture[::scale, ::scale]
    assert tile.shape == (2 * 29 + 1, 8 * 29 + 1)
    np.testing.assert_array_equal(tile[1:29, 59:87], drawn[2, 0])
    np.testing.assert_array_equal(tile[30:58, 59:87], drawn[2, 0])
    np.testing.assert_array_equal(tile[1:29, 1:29], drawn[0, 0])
    assert "frechet" in capsys.readouterr().out


@pytest.mark.parametrize("n", ["119", "10001"])
def test_too_few_or_too_many_samples_are_refused(nearest_script, n, capsys):
    """n must do for a covariance, and there are 10,000 test images to compare with."""
    with pytest.raises(SystemExit, match="2"):
        nearest_script.main(["--n", n])
    assert f"--n {n}" in capsys.readouterr().err
