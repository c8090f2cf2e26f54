"""train.py and sample.py of both folders: what they write, refuse and survive."""
import argparse
import io
import os
import random
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as safetensors
from scripts import TINY, Trap, command, losses, names, pickled, rows

from data import to_uint8
from machinery import cli, drawing, files, pictures
from machinery.checkpoint import Checkpointer
from machinery.weights import load_weights, save_weights
from model import SHIPPED, Config, save_model
from unet import UNet

FOLDERS = ["ddpm", "ddim"]


def grid(picture: Image.Image, columns: int, rows: int) -> np.ndarray:
    """A picture of cells of 8 x 8 pixels, with lines between, at its smallest size."""
    width, height = 9 * columns + 1, 9 * rows + 1
    scale = picture.width // width
    assert picture.size == (scale * width, scale * height)
    return np.asarray(picture.convert("L"))[::scale, ::scale]


# --- training -------------------------------------------------------------------------------------

def test_training_leaves_seven_files(trained):
    """OUT holds the model, the pictures, the log, two checkpoints, and no temporary file."""
    assert names(trained) == ["checkpoint.previous.pt", "checkpoint.pt", "log.csv", "loss.png",
                              "model.safetensors", "samples.png", "samples_by_epoch.png"]


def test_model_carries_its_configuration(weights):
    """The header of model.safetensors says how the network was trained, and what it draws."""
    config = load_weights(weights)[1]
    expected = {"dataset": "digits", "width": 8, "timesteps": 12, "batch_size": 600, "seed": 3,
                "epochs": 2, "schedule": "cosine", "size": 8, "channels": 1,
                "classes": [*"0123456789"]}
    assert expected.items() <= config.items()


def test_log_has_a_row_an_epoch(trained):
    """log.csv counts the epochs, with losses near the first one, 1, and the speed."""
    log = rows(trained)
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert all(0.1 < float(row["loss"]) < 1.5 for row in log)
    assert all(float(row["images_per_second"]) > 1 and float(row["seconds"]) > 0 for row in log)


def test_picture_holds_64_images(trained):
    """samples.png shows 64 different images of 8 x 8 pixels, with grey lines between."""
    with Image.open(trained / "samples.png") as picture:
        assert picture.format == "PNG"
        canvas = grid(picture, 8, 8)
    assert len(np.unique(canvas[::9])) == len(np.unique(canvas[:, ::9])) == 1
    cells = canvas[1:, 1:].reshape(8, 9, 8, 9)[:, :8, :, :8].transpose(0, 2, 1, 3)
    assert len(np.unique(cells.reshape(64, 64), axis=0)) == 64


def test_strip_shows_its_labels_whole():
    """samples_by_epoch.png has a white margin on all sides, as long as its labels may be."""
    drawn = {epoch: torch.zeros(8, 1, 8, 8, dtype=torch.uint8) for epoch in (1, 12, 200)}
    with Image.open(io.BytesIO(pictures.strip(drawn))) as picture:
        canvas = np.asarray(picture.convert("L"))
    for edge in (canvas[0], canvas[-1], canvas[:, 0], canvas[:, -1]):
        assert (edge == 255).all()


def test_picture_is_the_last_models(call, trained, tmp_path):
    """samples.png is what ddpm/sample.py draws from the finished model with seed 0."""
    flags = ["--weights", trained / "model.safetensors", "--seed", 0, "--device", "cpu"]
    call("ddpm", "sample", *flags, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == (trained / "samples.png").read_bytes()


def test_model_is_the_average_in_the_checkpoint(trained, weights):
    """checkpoint.pt loads without pickle's powers; the model is its average, not its network."""
    state = Checkpointer(trained / "checkpoint.pt").load()
    model = load_file(weights)
    assert model.keys() == state["ema"].keys()
    assert all(torch.equal(model[name], state["ema"][name]) for name in model)
    assert not any(torch.equal(model[name], state["network"][name]) for name in model)
    assert all(tensor.isfinite().all() for tensor in model.values())


def test_training_learns(call, tmp_path):
    """Over five epochs of ten steps the loss falls by a tenth."""
    flags = [*TINY, "--batch-size", 170, "--epochs", 5, "--lr", 0.004, "--out", tmp_path]
    call("ddpm", "train", *flags)
    first, *_, last = map(float, losses(tmp_path))
    assert last < 0.9 * first


def test_compile_compiles_the_network_that_learns(call, tmp_path, monkeypatch):
    """As CUDA graphs where there is a GPU; not its average, which draws the pictures."""
    compiled, learning, forward = [], [], UNet.forward

    def watched(network, *inputs, **labels):
        if torch.is_grad_enabled():
            learning.append(network)
        return forward(network, *inputs, **labels)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(UNet, "compile", lambda network, mode: compiled.append((network, mode)))
    monkeypatch.setattr(UNet, "forward", watched)
    assert call("ddpm", "train", *TINY, "--epochs", 1, "--out", tmp_path, "--compile").status == 0
    (network, mode), = compiled
    assert mode == "reduce-overhead" and learning
    assert all(other is network for other in learning)


@pytest.mark.parametrize("predict", ["eps", "v"])
def test_training_draws_all_times_from_1_to_T(call, tmp_path, monkeypatch, predict):
    """With T = 5 the network learns at each of t = 1..5, and at no other time."""
    seen, forward = set(), UNet.forward

    def spy(network, x, t, **labels):
        if network.head.weight.requires_grad:               # the network that learns
            seen.update(t.tolist())
        return forward(network, x, t, **labels)
    monkeypatch.setattr(UNet, "forward", spy)
    result = call("ddpm", "train", *TINY, "--timesteps", 5, "--epochs", 1, "--predict", predict,
                  "--out", tmp_path)
    assert result.status == 0 and seen == {1, 2, 3, 4, 5}


def test_seed_decides_the_weights_to_the_bit(call, weights, tmp_path):
    """The same seed gives the same file, another seed other weights."""
    call("ddpm", "train", *TINY, "--epochs", 2, "--out", tmp_path / "same")
    call("ddpm", "train", *TINY, "--epochs", 2, "--seed", 4, "--out", tmp_path / "other")
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights.read_bytes()
    model, other = load_file(weights), load_file(tmp_path / "other" / "model.safetensors")
    assert not any(torch.equal(model[name], other[name]) for name in model)


def test_seed_decides_where_the_weights_start(call, tmp_path):
    """Two seeds start from different weights, as a learning rate of next to nothing shows."""
    flags = [*TINY, "--epochs", 1, "--lr", 1e-30]
    for seed in (3, 4):
        call("ddpm", "train", *flags, "--seed", seed, "--out", tmp_path / str(seed))
    one, other = (load_file(tmp_path / seed / "model.safetensors")["stem.weight"] for seed in "34")
    assert (one - other).abs().max() > 0.01


# --- sampling -------------------------------------------------------------------------------------

@pytest.mark.parametrize("folder", FOLDERS)
def test_array_and_picture_show_the_same_images(call, folder, weights, tmp_path):
    """--n 5 gives a .npy of (5, 8, 8) bytes, and a .png whose six cells hold them and nothing."""
    flags = ["--weights", weights, "--n", 5, "--seed", 7, "--device", "cpu"]
    flags += ["--steps", 6] if folder == "ddim" else []
    for name in ("new/a.npy", "new/a.png"):
        result = call(folder, "sample", *flags, "--out", tmp_path / name)
        assert result.status == 0 and str(tmp_path / name) in result.out
    images = np.load(tmp_path / "new" / "a.npy", allow_pickle=False)
    assert images.shape == (5, 8, 8) and images.dtype == np.uint8
    assert len(np.unique(images)) > 9
    with Image.open(tmp_path / "new" / "a.png") as picture:
        canvas = grid(picture, 3, 2)
    cells = [canvas[top:top + 8, left:left + 8] for top in (1, 10) for left in (1, 10, 19)]
    assert np.array_equal(cells[:5], images) and len(np.unique(cells[5])) == 1
    assert names(tmp_path / "new") == ["a.npy", "a.png"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_seed_decides_the_images(call, folder, weights, tmp_path):
    """The same seed draws the same images, another seed others."""
    flags = ["--weights", weights, "--n", 3, "--device", "cpu"]
    flags += ["--steps", 6] if folder == "ddim" else []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        call(folder, "sample", *flags, "--seed", seed, "--out", tmp_path / f"{name}.npy")
    a, b, c = (np.load(tmp_path / f"{name}.npy", allow_pickle=False) for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_ddim_with_eta_1_over_all_steps_draws_ddpms_images(call, weights, tmp_path):
    """One noise, one model, all twelve steps: only rounding to a grey level may differ."""
    flags = ["--weights", weights, "--n", 9, "--device", "cpu", "--out"]
    call("ddpm", "sample", *flags, tmp_path / "ddpm.npy")
    call("ddim", "sample", *flags, tmp_path / "ddim.npy", "--steps", 12, "--eta", 1)
    call("ddim", "sample", *flags, tmp_path / "eta_0.npy", "--steps", 12)
    ddpm, ddim, eta_0 = (np.load(tmp_path / f"{name}.npy").astype(int)
                         for name in ("ddpm", "ddim", "eta_0"))
    assert abs(ddpm - ddim).max() <= 8       # bfloat16 magnifies the last digit of float32
    assert abs(ddpm - eta_0).max() > 40


@pytest.mark.parametrize(("folder", "steps", "most", "frames"), [
    ("ddpm", 12, 48, 13), ("ddpm", 12, 5, 6), ("ddim", 4, 48, 5)])
def test_animation_runs_from_the_noise_to_the_picture(call, folder, steps, most, frames, weights,
                                                      tmp_path, monkeypatch):
    """The film starts with noise, has a frame a step but no more than some, ends as the .png."""
    monkeypatch.setattr(drawing, "FRAMES", most)
    flags = ["--weights", weights, "--n", 4, "--seed", 5, "--device", "cpu"]
    flags += ["--steps", steps] if folder == "ddim" else []
    call(folder, "sample", *flags, "--out", tmp_path / "a.png", "--animate", tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film, Image.open(tmp_path / "a.png") as picture:
        assert film.n_frames == frames and film.info["loop"] == 0
        first = grid(film, 2, 2)
        film.seek(frames - 1)
        last, drawn = grid(film, 2, 2), grid(picture, 2, 2)
    assert abs(last.astype(int) - drawn).max() < 17          # a film has 16 greys
    noise = to_uint8(torch.cat([torch.randn(1, 1, 8, 8, generator=drawing.generator_of(5, i))
                                for i in range(4)])).numpy()
    for cell, (top, left) in zip(noise[:, 0], [(1, 1), (1, 10), (10, 1), (10, 10)], strict=True):
        assert abs(first[top:top + 8, left:left + 8].astype(int) - cell).max() < 17


def test_more_images_than_a_batch(call, monkeypatch, weights, tmp_path):
    """Drawn in batches of 4, seven images are seven different images."""
    monkeypatch.setattr(drawing, "CPU_BATCH", 4)
    call("ddim", "sample", "--weights", weights, "--n", 7, "--steps", 3, "--device", "cpu", "--out",
         tmp_path / "a.npy")
    images = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert images.shape == (7, 8, 8) and len(np.unique(images, axis=0)) == 7


def test_shipped_model_is_the_default(call, tmp_path):
    """Without --weights both scripts draw 28 x 28 digits from the model that is shipped."""
    result = call("ddim", "sample", "--n", 2, "--steps", 2, "--device", "cpu", "--out",
                  tmp_path / "a.npy")
    assert result.status == 0, result
    assert np.load(tmp_path / "a.npy", allow_pickle=False).shape == (2, 28, 28)
    assert SHIPPED.stat().st_size < 8_000_000


# --- as processes, from another working directory -------------------------------------------------

@pytest.mark.parametrize("folder", FOLDERS)
def test_train_from_another_folder(folder, weights, tmp_path):
    """Both train.py, run from elsewhere with a relative OUT, write the very same model."""
    result = command(folder, "train", *TINY, "--epochs", 2, "--out", "a/run", cwd=tmp_path)
    assert result.status == 0 and result.lines == [], result
    assert (tmp_path / "a" / "run" / "model.safetensors").read_bytes() == weights.read_bytes()
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_sample_from_another_folder(folder, weights, call, tmp_path, monkeypatch):
    """Both sample.py, run from elsewhere, write samples.png there, the one they always write."""
    flags = ["--weights", os.path.relpath(weights, tmp_path), "--n", 3, "--device", "cpu"]
    flags += ["--steps", 6] if folder == "ddim" else []
    result = command(folder, "sample", *flags, cwd=tmp_path)
    assert result.status == 0 and result.lines == [], result
    monkeypatch.chdir(tmp_path)
    call(folder, "sample", *flags, "--out", "here.png")
    assert (tmp_path / "samples.png").read_bytes() == (tmp_path / "here.png").read_bytes()


# --- bad usage ------------------------------------------------------------------------------------

TRAIN = {"--epochs": "0", "--batch-size": "1798", "--timesteps": "1.5", "--width": "100",
         "--lr": "-0.1", "--seed": "-1", "--device": "tpu", "--dataset": "cifar",
         "--schedule": "sigmoid", "--predict": "x_1", "--save-every": "0", "--no-such-flag": "1",
         "--epoch": "1"}
SAMPLE = {"--n": "0", "--seed": "me", "--device": "cuda:99", "--out": "a.jpg", "--animate": "a.png",
          "--label": "10", "--no-such-flag": "1"}
DDIM = {"--steps": "13", "--eta": "1.1", "--spacing": "cubic"}


@pytest.mark.parametrize(("flag", "good", "bad"), [
    (cli.count_flag, {"1": 1, "12": 12}, ["0", "-1", "1.5", "nan", "inf", "ten", ""]),
    (cli.width_flag, {"8": 8, "62": 62, "96": 96}, ["0", "7", "100", "104", "1.5", ""]),
    (cli.seed_flag, {"0": 0, "4294967295": 2**32 - 1}, ["-1", "1.5", "nan", "4294967296", "me"]),
    (cli.positive_flag, {"1e-30": 1e-30, "3": 3.0}, ["0", "-0.1", "nan", "inf", "-inf", ""]),
    (cli.fraction_flag, {"0": 0.0, "1": 1.0}, ["-0.1", "1.1", "nan", "inf", "some", ""]),
], ids=lambda value: getattr(value, "__name__", ""))
def test_type_of_a_flag(flag, good, bad):
    """What each type reads, and what it refuses, by an error that argparse shows."""
    assert {text: flag(text) for text in good} == good
    for text in bad:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            flag(text)


@pytest.mark.parametrize(("flag", "value"), TRAIN.items())
def test_train_refuses_bad_usage(call, tmp_path, flag, value):
    """A flag or value that makes no sense: exit status 2, one line that names the flag."""
    flags = [*TINY, "--epochs", 1, "--out", tmp_path, f"{flag}={value}"]
    call("ddpm", "train", *flags).refuses(2, flag)
    assert names(tmp_path) == []


def test_compile_without_a_compiler_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    flags = [*TINY, "--epochs", 1, "--out", tmp_path, "--compile"]
    call("ddpm", "train", *flags).refuses(2, "--compile", "C++ compiler")


def test_train_refuses_a_linear_schedule_of_few_steps(call, tmp_path):
    """Rescaled to T = 20, the linear beta leaves (0, 1): bad usage too."""
    flags = [*TINY, "--schedule", "linear", "--timesteps", 20, "--epochs", 1, "--out", tmp_path]
    call("ddpm", "train", *flags).refuses(2, "20")


@pytest.mark.parametrize(("flag", "value"), SAMPLE.items())
@pytest.mark.parametrize("folder", FOLDERS)
def test_sample_refuses_bad_usage(call, tmp_path, monkeypatch, weights, folder, flag, value):
    """The same for what both sample.py share; nothing is written."""
    monkeypatch.chdir(tmp_path)
    steps = ["--steps", 6] if folder == "ddim" else []
    call(folder, "sample", "--weights", weights, *steps, f"{flag}={value}").refuses(2, flag)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("flag", "value"), DDIM.items())
def test_ddim_refuses_bad_usage(call, tmp_path, weights, flag, value):
    """The same for DDIM's own flags: S from 1 to T, eta from 0 to 1."""
    flags = ["--weights", weights, "--out", tmp_path / "a.png", f"{flag}={value}"]
    call("ddim", "sample", *flags).refuses(2, flag)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_device_that_is_not_there_is_refused(call, monkeypatch, weights, name):
    """Asking for a device that PyTorch does not find is bad usage."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for folder, what, *flags in (("ddpm", "train"), ("ddim", "sample", "--weights", weights)):
        call(folder, what, *flags, "--device", name).refuses(2, "--device", name)


def test_bad_usage_as_a_process(tmp_path):
    """The real thing: exit status 2, one line on stderr that begins with the script's name."""
    result = command("ddim", "sample", "--eta", "1.5", cwd=tmp_path)
    result.refuses(2, "--eta", "1.5")
    assert result.err.startswith("sample.py: ") and result.out == ""


# --- files that are no good -----------------------------------------------------------------------

def saved(tensors: dict | None = None, **changes) -> bytes:
    """A small model with changes of its configuration, under a right sum; None leaves one out."""
    config = asdict(Config(timesteps=12, width=8, size=8)) | changes
    config = {name: value for name, value in config.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_weights(path, UNet(8).state_dict() | (tensors or {}), config)
        return path.read_bytes()


BAD = {
    "empty": lambda: b"",
    "four bytes": lambda: saved()[:4],
    "half": lambda: saved()[:len(saved()) // 2],
    "a byte long": lambda: saved() + b"\0",
    "text": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
    "no sum": lambda: safetensors(UNet(8).state_dict()),
    "deep": lambda: safetensors(UNet(8).state_dict(), {"model": "[" * 100_000}),
    "null": lambda: safetensors(UNet(8).state_dict(), {"model": "null"}),
    "other tensors": lambda: saved(tensors={"a": torch.ones(3)}),
    "another key": lambda: saved(rate=1),
    "no width": lambda: saved(width=None),
    "width 1e9": lambda: saved(width=10**9),
    "size 9": lambda: saved(size=9),
    "size list": lambda: saved(size=[8]),
    "classes": lambda: saved(classes=7),
    "schedule list": lambda: saved(schedule=["cosine"]),
    "predict": lambda: saved(predict="x_0"),
    "linear 12": lambda: saved(schedule="linear"),
}


def test_spoiling_starts_from_a_good_model(call, tmp_path):
    """What the next tests write is refused for its fault alone: without one it is accepted."""
    (tmp_path / "model.safetensors").write_bytes(saved())
    assert call("ddim", "sample", "--weights", tmp_path / "model.safetensors", "--steps", 2, "--n",
                1, "--device", "cpu", "--out", tmp_path / "a.png").status == 0


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
def test_bad_weights_are_refused(call, tmp_path, spoil):
    """What is no whole model of this course: exit status 1, one line with its path, no picture."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(spoil())
    flags = ["--weights", path, "--steps", 2, "--device", "cpu", "--out", tmp_path / "a.png"]
    call("ddim", "sample", *flags).refuses(1, path)
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_missing_weights_are_refused(call, tmp_path, folder):
    """No file, or a folder of that name: exit status 1, one line with its path."""
    for path in (tmp_path / "none.safetensors", tmp_path):
        call(folder, "sample", "--weights", path, "--out", tmp_path / "a.png").refuses(1, path)
    (tmp_path / "run").mkdir()
    result = call(folder, "sample", "--weights", tmp_path / "run", "--out", tmp_path / "a.png")
    result.refuses(1, tmp_path / "run", "is a folder", "model.safetensors")
    assert names(tmp_path) == ["run"]


def test_weights_that_may_not_be_read_are_refused(call, weights, tmp_path, monkeypatch):
    """The line says so, and not that the file is damaged."""
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    result = call("ddim", "sample", "--weights", weights, "--steps", 1, "--out", tmp_path / "a.png")
    result.refuses(1, "Permission denied", weights)


def test_a_single_flipped_bit_is_refused(tmp_path):
    """200 times one bit of a file of weights is another one, half of them in its header."""
    good, path, rng = saved(), tmp_path / "model.safetensors", random.Random(11)
    header = 8 + int.from_bytes(good[:8], "little")
    places = [*rng.sample(range(header), 100), *rng.sample(range(header, len(good)), 100)]
    for place in places:
        spoiled = bytearray(good)
        spoiled[place] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        with pytest.raises(ValueError):
            load_weights(path)
    path.write_bytes(good)
    assert load_weights(path)[1]["width"] == 8


@pytest.mark.parametrize("way", ["pickle", "torch"])
def test_pickle_as_weights_is_never_run(call, tmp_path, way):
    """A pickle in place of the weights is refused, and what it would do is not done."""
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "model.safetensors"
    pickled(trap, way, path)
    call("ddim", "sample", "--weights", path, "--out", tmp_path / "a.png").refuses(1, path)
    assert names(tmp_path) == ["model.safetensors"]


def test_mnist_without_a_network_is_refused(call, tmp_path, monkeypatch):
    """--dataset mnist without files and network: exit status 1, one line that says what to do."""
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route\nto host")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    flags = ["--data-dir", tmp_path / "data", "--out", tmp_path / "run", "--device", "cpu"]
    result = call("ddpm", "train", *flags)
    result.refuses(1, tmp_path / "data", "train-images-idx3-ubyte", "train.py --dataset digits")


# --- places that cannot be written ----------------------------------------------------------------

@pytest.mark.parametrize("folder", FOLDERS)
def test_out_below_a_file_is_refused(call, weights, tmp_path, folder):
    """A folder that cannot be made: exit status 1, one line that names it, before any work."""
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "a.png"
    result = call(folder, "sample", "--weights", weights, "--out", below)
    result.refuses(1, f"{tmp_path / 'file'} is a file, not a folder")
    call(folder, "sample", "--weights", weights, "--out", tmp_path / "a.png", "--animate",
         tmp_path / "file" / "a.gif").refuses(1, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("below", [".", "deeper/run"])
def test_training_into_a_file_is_refused(call, tmp_path, below):
    """--out that is a file, or below one, is refused before the training starts."""
    (tmp_path / "file").write_text("mine")
    flags = [*TINY, "--epochs", 1, "--out", tmp_path / "file" / below]
    call("ddpm", "train", *flags).refuses(1, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    """The error tells the folder, not the name of the file that was tried in it."""
    def refuse(*args, **settings):
        raise PermissionError(13, "Permission denied", str(tmp_path / "tmpx1y2z3"))
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError) as caught:
        files.prepare(tmp_path / "a.png")
    assert caught.value.filename == str(tmp_path)


def test_out_that_is_a_folder_is_refused(call, tmp_path):
    """A folder of the picture's name is refused before any work, even before the weights."""
    (tmp_path / "a.png").mkdir()
    flags = ["--weights", tmp_path / "none.safetensors", "--out", tmp_path / "a.png"]
    call("ddim", "sample", *flags).refuses(1, tmp_path / "a.png")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_write_is_all_or_nothing(tmp_path, monkeypatch, where, error):
    """Broken off before the new file is in place, the old one is whole, and no other is left."""
    path = tmp_path / "a.txt"
    files.write(path, b"old")

    def fail(*args):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(type(error)):
            files.write(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.txt"]
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.txt"]


def test_error_without_a_file_names_none(capsys):
    """As of a standard output that is full: the system's words, and no "None"."""
    def main():
        raise OSError(28, "No space left on device")
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 1 and capsys.readouterr().err.endswith(": No space left on device\n")


@pytest.mark.parametrize("fail", [
    lambda: torch.empty(2**60),
    lambda: bytearray(2**62),
    lambda: exec('raise torch.OutOfMemoryError("CUDA out of memory")', {"torch": torch})],
    ids=["PyTorch on a CPU", "Python", "CUDA"])
def test_too_little_memory_is_one_line(capsys, fail):
    """The real errors of an allocation that cannot be: exit status 1, what to take smaller."""
    with pytest.raises(SystemExit) as end:
        cli.run(fail)
    assert end.value.code == 1
    line, = capsys.readouterr().err.splitlines()
    assert "--batch-size" in line and "--width" in line and "kept" in line


def test_other_errors_of_pytorch_are_not_called_memory():
    """A bug stays a traceback."""
    with pytest.raises(RuntimeError, match="must match"):
        cli.run(lambda: torch.ones(2) + torch.ones(3))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_full_disk_leaves_the_old_picture(weights, tmp_path):
    """Where a file may hold 200 bytes: exit status 1, one line, the old picture, no other file."""
    import resource
    (tmp_path / "samples.png").write_bytes(b"the old picture")
    result = command("ddim", "sample", "--weights", weights, "--steps", 2, "--device", "cpu",
                     cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(
                         resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY)))
    result.refuses(1, "samples.png")
    assert (tmp_path / "samples.png").read_bytes() == b"the old picture"
    assert names(tmp_path) == ["samples.png"]


# --- labels and colours ---------------------------------------------------------------------------

def in_general_position(path: Path, **settings) -> Path:
    """A file of a small network whose parameters are all random."""
    torch.manual_seed(2)
    config = Config(timesteps=12, width=8, size=8, **settings)
    network = config.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    save_model(path, network, config)
    return path


@pytest.mark.parametrize("folder", FOLDERS)
def test_label_all_draws_a_row_for_each_class(call, folder, tmp_path):
    """--label all --n 3: ten rows of three; the row of class 4 is what --label 4 draws with the
    same noise, and differs from what no label draws."""
    path = in_general_position(tmp_path / "m.safetensors", classes=tuple("0123456789"))
    flags = ["--weights", path, "--device", "cpu", *(["--steps", 6] if folder == "ddim" else [])]
    for name, more in (("all", ["--label", "all", "--n", 3]), ("four", ["--label", 4, "--n", 15]),
                       ("none", ["--n", 15])):
        result = call(folder, "sample", *flags, *more, "--out", tmp_path / f"{name}.npy")
        assert result.status == 0, result
    every, four, none = (np.load(tmp_path / f"{name}.npy").astype(int)
                         for name in ("all", "four", "none"))
    assert every.shape == (30, 8, 8)
    assert abs(every[12:15] - four[12:15]).max() <= 8           # the other images of the batch
    assert abs(four - none).max() > 0
    call(folder, "sample", *flags, "--label", "all", "--n", 3, "--out", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        canvas = grid(picture, 3, 10)
    assert abs(canvas[1 + 9 * 4:9 + 9 * 4, 1:9].astype(int) - every[12]).max() <= 8


def test_label_of_a_model_without_classes_is_refused(call, tmp_path):
    """--label and --label all need a network that knows classes: exit status 2."""
    (tmp_path / "model.safetensors").write_bytes(saved())
    for label in ("7", "all"):
        call("ddim", "sample", "--weights", tmp_path / "model.safetensors", "--steps", 2, "--label",
             label, "--out", tmp_path / "a.png").refuses(2, "--label", "no classes")


def test_colours_are_drawn_in_all_files(call, tmp_path):
    """A network of three channels: an RGB picture, an array (N, H, W, 3), a film in colour."""
    path = in_general_position(tmp_path / "m.safetensors", channels=3)
    flags = ["--weights", path, "--steps", 4, "--n", 4, "--device", "cpu"]
    assert call("ddim", "sample", *flags, "--out", tmp_path / "a.npy").status == 0
    assert call("ddim", "sample", *flags, "--out", tmp_path / "a.png", "--animate",
                tmp_path / "a.gif").status == 0
    images = np.load(tmp_path / "a.npy")
    assert images.shape == (4, 8, 8, 3) and images.dtype == np.uint8
    with Image.open(tmp_path / "a.png") as picture, Image.open(tmp_path / "a.gif") as film:
        assert picture.mode == "RGB"
        canvas = np.asarray(picture)[::picture.width // 19, ::picture.width // 19]
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("RGB"))[::film.width // 19, ::film.width // 19]
    assert np.array_equal(canvas[1:9, 10:18], images[1])
    assert abs(last[1:9, 10:18].astype(int) - images[1]).mean() < 20           # 64 colours
    assert abs(images[..., 0].astype(int) - images[..., 2]).mean() > 60
