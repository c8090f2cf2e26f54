"""Nothing is lost: kills, signals, full and lying disks, damaged checkpoints, losses of inf."""
import hashlib
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scripts import EXAMPLE, TINY, Result, Trap, losses, names, pickled, rows, text

import train
import training as training_module
from machinery import cli, files, signals
from machinery.checkpoint import Checkpointer
from model import Config
from unet import UNet

LONG = [*TINY, "--batch-size", "256", "--epochs", "3"]      # 3 epochs of 7 steps
OFTEN = ["--save-every", "1e-9"]                            # after every step
PICTURES = ["loss.png", "samples.png", "samples_by_epoch.png"]
FILES = ["checkpoint.previous.pt", "checkpoint.pt", "log.csv", "loss.png", "model.safetensors",
         "samples.png", "samples_by_epoch.png"]


@pytest.fixture(scope="module")
def undisturbed(script, tmp_path_factory) -> Path:
    """The folder of a training of LONG that nothing has disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    script("ddpm", "train").main([*LONG, "--out", str(out)])
    return out


def content(out: Path) -> dict:
    """All of a run's result but the time that it took: the state, every file, the log's losses."""
    state = Checkpointer(out / "checkpoint.pt").load()
    flat = {"losses": losses(out), "step": state["step"], "generator": state["generator"],
            "order": state["order"], "rows": state["drawn"].keys()}
    flat |= {f"{kind} {name}": tensor for kind in ("network", "ema")
             for name, tensor in state[kind].items()}
    flat |= {f"{kind} {i}": tensor for i, moments in state["optimizer"].items()
             for kind, tensor in moments.items()}
    return flat | {name: (out / name).read_bytes() for name in [*PICTURES, "model.safetensors"]}


def same(out: Path, other: Path) -> None:
    """Asserts that two runs ended alike, bit for bit, and left the same files."""
    a, b = content(out), content(other)
    assert a.keys() == b.keys() and names(out) == names(other) == FILES
    different = [name for name in a if not (
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name])]
    assert not different, different


# --- kills and signals ----------------------------------------------------------------------------

def start(cwd: Path, *flags: str) -> subprocess.Popen:
    """train.py as a process; a job in the background inherits an ignored SIGINT: undo that."""
    undo = {} if sys.platform == "win32" else {
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen([sys.executable, EXAMPLE / "ddpm" / "train.py", *flags], cwd=cwd,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **undo)


def wait_for_a_checkpoint(alive: Callable[[], bool], path: Path) -> None:
    """Returns once the process has written the file anew, or has ended. A file that was there
    before under either name, and was renamed, is not new."""
    def stamp(path: Path) -> tuple:
        try:
            return path.stat().st_mtime_ns, path.stat().st_ino
        except FileNotFoundError:                           # between the two renamings
            return ()
    old = (), stamp(path), stamp(Checkpointer(path).previous)
    while alive() and stamp(path) in old:
        time.sleep(0.001)


def learn(flags: list[str], printed: Path, threads: int) -> None:
    """train.py in a process that was forked when it had imported PyTorch: 20 of them are quick."""
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    torch.set_num_threads(threads)                          # on which the last bits depend
    cli.run(lambda: train.main(flags))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames no file that is looked at")
def test_killed_twenty_times_it_ends_alike(call, tmp_path, monkeypatch):
    """SIGKILL at random moments, in steps and in savings: one of the two checkpoints is there and
    whole each time, and resumed, the training ends as if nothing had been."""
    flags = [*TINY, "--batch-size", "128", "--epochs", "10"]    # 140 steps, each of them saved
    assert call("ddpm", "train", *flags, "--out", tmp_path / "undisturbed").status == 0

    out, printed, rng = tmp_path / "run", tmp_path / "printed", random.Random(7)
    flags += [*OFTEN, "--out", str(out), "--resume"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "sklearn.datasets", "matplotlib.figure",
                                      "torch._dynamo"])         # which its optimizer imports
    path, steps = out / "checkpoint.pt", []
    for _ in range(20):
        process = processes.Process(target=learn, args=(flags, printed, torch.get_num_threads()))
        process.start()
        try:
            wait_for_a_checkpoint(process.is_alive, path)
            time.sleep(rng.uniform(0, 0.01))
        finally:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL, printed.read_text(encoding="utf-8")
        kept = path if path.exists() else Checkpointer(path).previous
        steps.append(Checkpointer(kept).load()["step"])
    assert steps == sorted(set(steps)) and steps[-1] < 140      # each got on, none to the end
    assert call("ddpm", "train", *flags).status == 0
    assert "Traceback" not in printed.read_text(encoding="utf-8")
    same(out, tmp_path / "undisturbed")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signal to one process")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_to_the_process_saves_and_leaves(call, undisturbed, tmp_path, number, status):
    """One line that says where it saved and how to go on, and 128 + the signal as exit status."""
    out = tmp_path / "run"
    process = start(tmp_path, *LONG, *OFTEN, "--out", "run")
    try:
        wait_for_a_checkpoint(lambda: process.poll() is None, out / "checkpoint.pt")
        process.send_signal(number)
        printed, err = process.communicate(timeout=120)
    finally:
        process.kill()
    step = Checkpointer(out / "checkpoint.pt").load()["step"]
    result = Result(status=process.returncode, out=text(printed), err=text(err))
    result.refuses(status, signal.Signals(number).name, f"step {step} is saved", "--resume")
    assert 1 <= step < 21 and "done" not in result.out
    assert call("ddpm", "train", *LONG, "--out", out, "--resume").status == 0
    same(out, undisturbed)


def signal_in(monkeypatch, owner, name: str, call_number: int, number: int) -> None:
    """The signal arrives in the midst of that call of a method."""
    method, calls = getattr(owner, name), iter(range(1, 10**9))

    def signalled(*args, **kwargs):
        if next(calls) == call_number:
            signal.raise_signal(number)
        return method(*args, **kwargs)
    monkeypatch.setattr(owner, name, signalled)


@pytest.mark.parametrize(("step", "number"), [
    (9, signal.SIGTERM), (14, signal.SIGINT), (21, signal.SIGTERM)])
def test_signal_in_a_step_ends_after_it(call, script, undisturbed, tmp_path, monkeypatch, step,
                                        number):
    """The step is finished and saved, in an epoch, at its end, at the very end; resumed, alike."""
    flags = [*LONG, "--out", tmp_path]
    with monkeypatch.context() as patch:
        signal_in(patch, training_module.Training, "update", step, number)
        result = call("ddpm", "train", *flags)
        result.refuses(128 + number, signal.Signals(number).name, f"step {step} is saved",
                       tmp_path / "checkpoint.pt", "--resume")
    assert Checkpointer(tmp_path / "checkpoint.pt").load()["step"] == step
    result = call("ddpm", "train", *flags, "--resume")
    inside = f" and {step % 7} of 7 steps" if step % 7 else ""
    assert f"going on after epoch {step // 7} of 3{inside} in" in result.out
    same(tmp_path, undisturbed)


@pytest.mark.parametrize("forward", [7 + 2, 7 + 12 + 14 + 10])
def test_signal_while_it_draws(call, undisturbed, tmp_path, monkeypatch, forward):
    """After the first epoch, and after the last, the pictures that were left out are drawn."""
    flags = [*LONG, "--out", tmp_path]
    with monkeypatch.context() as patch:
        signal_in(patch, UNet, "forward", forward, signal.SIGTERM)
        call("ddpm", "train", *flags).refuses(143, "is saved")
    assert "samples.png" not in names(tmp_path)
    assert call("ddpm", "train", *flags, "--resume").status == 0
    same(tmp_path, undisturbed)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ignores no signals")
def test_ignored_signal_stays_ignored(call, script, tmp_path, monkeypatch):
    """Under nohup, or as a job in the background, a signal that is ignored does not stop it."""
    signal_in(monkeypatch, training_module.Training, "update", 1, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert call("ddpm", "train", *TINY, "--epochs", 1, "--out", tmp_path).status == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_given_back():
    """After a training Ctrl-C is again what it was."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals.StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- going on -------------------------------------------------------------------------------------

def test_folder_with_a_run_is_refused(call, trained):
    """Without --resume an OUT that holds a run is refused, and stays as it was."""
    before = {name: (trained / name).read_bytes() for name in names(trained)}
    call("ddpm", "train", *TINY, "--epochs", 2, "--out", trained).refuses(2, trained, "--resume")
    assert {name: (trained / name).read_bytes() for name in names(trained)} == before


def test_resume_of_nothing_says_so_and_starts_anew(call, weights, tmp_path):
    """--resume where no run is says so, and trains as without it."""
    result = call("ddpm", "train", *TINY, "--epochs", 2, "--out", tmp_path, "--resume")
    assert result.status == 0 and f"no checkpoint in {tmp_path}" in result.out
    assert (tmp_path / "model.safetensors").read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(("flag", "value", "word"), [
    ("--seed", 4, "seed"), ("--width", 16, "width"), ("--lr", 0.1, "lr"),
    ("--timesteps", 13, "timesteps"), ("--batch-size", 599, "batch_size"),
    ("--predict", "eps", "predict")])
def test_resume_with_other_settings_is_refused(call, trained, flag, value, word):
    """A run goes on only with the settings it began with; the line names the one that differs."""
    before = (trained / "checkpoint.pt").read_bytes()
    flags = [*TINY, "--epochs", 2, "--out", trained, "--resume", flag, value]
    call("ddpm", "train", *flags).refuses(2, word)
    assert (trained / "checkpoint.pt").read_bytes() == before


def test_a_finished_run_may_go_on(call, tmp_path):
    """--resume with more --epochs trains further, and the model's configuration says so."""
    flags = [*TINY, "--out", tmp_path]
    call("ddpm", "train", *flags, "--epochs", 1)
    result = call("ddpm", "train", *flags, "--epochs", 3, "--resume")
    assert result.status == 0 and "going on after epoch 1 of 3" in result.out
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"]
    assert Checkpointer(tmp_path / "checkpoint.pt").load()["config"]["epochs"] == 3


def test_killed_between_two_renamings(call, undisturbed, tmp_path, monkeypatch):
    """For want of a checkpoint the one before is taken, which is said; leftovers are removed."""
    replace, calls = os.replace, []

    def killed(a, b):
        calls.append(b)
        if Path(b).name == "checkpoint.pt" and calls.count(b) == 5:
            raise SystemExit(9)                             # what it leaves is put back below
        replace(a, b)
    flags = [*LONG, *OFTEN, "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert call("ddpm", "train", *flags).status == 9
    assert names(tmp_path) == ["checkpoint.previous.pt"]
    (tmp_path / f".checkpoint.pt.ab12cd34{files.PART}").write_bytes(b"half of it")
    call("ddpm", "train", *flags).refuses(2, "--resume")
    result = call("ddpm", "train", *flags, "--resume")
    assert "checkpoint.pt is not there: going on from the one before" in result.out
    assert "going on after epoch 0 of 3 and 4 of 7 steps" in result.out
    same(tmp_path, undisturbed)


def test_the_one_before_helps_when_a_checkpoint_is_damaged(call, script, undisturbed, tmp_path,
                                                           monkeypatch):
    """One line says what to do, nothing is touched; when it is done, the training ends alike."""
    flags = [*LONG, "--out", tmp_path]
    with monkeypatch.context() as patch:
        signal_in(patch, training_module.Training, "update", 9, signal.SIGTERM)
        call("ddpm", "train", *flags).refuses(143)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1])
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    result = call("ddpm", "train", *flags, "--resume")
    result.refuses(1, path, "delete it", "--resume", "checkpoint.previous.pt")
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    path.unlink()
    result = call("ddpm", "train", *flags, "--resume")
    assert "going on after epoch 1 of 3 in" in result.out
    same(tmp_path, undisturbed)


# --- disks ----------------------------------------------------------------------------------------

@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_full_disk_leaves_the_old_checkpoint(call, script, undisturbed, tmp_path, monkeypatch):
    """Where a checkpoint finds no room: exit status 1, one line, the old one whole; then alike."""
    import resource
    flags = [*LONG, *OFTEN, "--out", tmp_path]
    with monkeypatch.context() as patch:
        signal_in(patch, training_module.Training, "update", 9, signal.SIGTERM)
        call("ddpm", "train", *flags).refuses(143)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    size, old = len(before["checkpoint.pt"]), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, old[1]))
    try:
        result = call("ddpm", "train", *flags, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    result.refuses(1, tmp_path / "checkpoint.pt")
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert call("ddpm", "train", *flags, "--resume").status == 0
    same(tmp_path, undisturbed)


def test_the_one_before_is_kept(tmp_path):
    """With `keep` the old file is still there under the other name."""
    path, kept = tmp_path / "a.pt", tmp_path / "b.pt"
    for content in (b"1", b"2", b"3"):
        files.write(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes(), len(names(tmp_path))) == (b"3", b"2", 2)


# --- losses and weights of inf --------------------------------------------------------------------

def test_loss_that_is_no_number_ends_the_training(call, tmp_path):
    """A learning rate that blows up ends in one line that says what to change, and no model."""
    flags = [*TINY, "--epochs", 8, "--lr", 1e30, "--out", tmp_path]
    call("ddpm", "train", *flags).refuses(1, "loss of step 2 ", "epoch 1, batch 2 of 2", "--lr",
                                          "no checkpoint yet")
    assert names(tmp_path) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_the_line_names_step_batch_and_checkpoint(call, script, tmp_path, monkeypatch, loss):
    """At step 10: its epoch, batch and seed, and the last good checkpoint, which is whole."""
    training, calls = training_module.Training, iter(range(1, 10**9))
    update = training.update
    monkeypatch.setattr(training, "update", lambda self, *batch: update(self, *batch) * (
        loss if next(calls) == 10 else 1))
    result = call("ddpm", "train", *LONG, "--out", tmp_path)
    result.refuses(1, "step 10 ", f" {loss} ", "seed 3", "epoch 2", "batch 3 of 7",
                   tmp_path / "checkpoint.pt", "step 7")
    assert Checkpointer(tmp_path / "checkpoint.pt").load()["step"] == 7


@pytest.fixture
def training(script):
    """A small training that has not begun, of epochs of 5 steps."""
    config = Config(seed=0, width=8, size=8, timesteps=12, batch_size=8, epochs=2, lr=1e-3)
    images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    return training_module.Training(config, images, torch.device("cpu"))


def test_losses_that_are_read_together_are_told_apart(training):
    """Where losses are read rarely, the first that is not finite is named."""
    training.step = 9
    training.add_losses([torch.tensor(0.5), torch.tensor(0.25)])
    assert training.loss_sum == 0.75
    with pytest.raises(FloatingPointError, match=r"step 8 is nan \(seed 0, epoch 2, batch 3 of 5"):
        training.add_losses([torch.tensor(value) for value in (1, float("nan"), float("inf"))])


def test_losses_are_read_when_it_pauses(training):
    """With a pause every 3 steps, an epoch of 5 steps has two, and a mean over all its losses."""
    training.read_every, steps, losses, update = 3, [], [], training.update
    training.update = lambda *batch: losses.append(update(*batch)) or losses[-1]
    training.epoch(lambda: steps.append((training.step, len(training.log))))
    assert steps == [(3, 0), (5, 1)] and len(losses) == 5
    assert training.log[0]["loss"] == round(float(torch.stack(losses).double().mean()), 5)


def test_spoilt_weights_are_never_saved(script, trained, tmp_path):
    """Weights of inf end in an error, and the checkpoint stays."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes((trained / "checkpoint.pt").read_bytes())
    keeper, state = Checkpointer(path), Checkpointer(path).load()
    for kind in ("network", "ema"):
        spoilt = state[kind] | {"stem.bias": torch.full((8,), float("inf"))}
        with pytest.raises(FloatingPointError, match="step 4"):
            keeper.save(state | {kind: spoilt})
    assert path.read_bytes() == (trained / "checkpoint.pt").read_bytes()
    keeper.save(state)
    assert names(tmp_path) == ["checkpoint.previous.pt", "checkpoint.pt"]


# --- checkpoints that are no good -----------------------------------------------------------------

def copy(trained: Path, folder: Path) -> Path:
    """A good checkpoint, to be spoilt."""
    path = folder / "checkpoint.pt"
    path.write_bytes((trained / "checkpoint.pt").read_bytes())
    return path


def test_spoiling_starts_from_a_good_checkpoint(call, trained, tmp_path):
    """What the next tests write is refused for its fault alone: without one it is accepted."""
    path = copy(trained, tmp_path)
    resaved(path, lambda state: state)
    assert call("ddpm", "train", *TINY, "--epochs", 2, "--out", tmp_path, "--resume").status == 0


def test_a_flipped_byte_anywhere_is_noticed(call, trained, tmp_path):
    """Fifty single bits, from the first byte to the last, each refused in one line."""
    path, rng = copy(trained, tmp_path), random.Random(12)
    good = path.read_bytes()
    places = [0, 1, len(good) - 33, len(good) - 32, len(good) - 1]
    places += rng.sample(range(len(good)), 50 - len(places))
    for place in places:
        spoilt = bytearray(good)
        spoilt[place] ^= 1 << rng.randrange(8)
        path.write_bytes(spoilt)
        flags = [*TINY, "--epochs", 2, "--out", tmp_path, "--resume"]
        call("ddpm", "train", *flags).refuses(1, path, "delete it to start anew")
    assert path.read_bytes() == spoilt and names(tmp_path) == ["checkpoint.pt"]


def signed(payload: bytes) -> bytes:
    """The payload and its sum, as save_checkpoint writes them."""
    return payload + hashlib.sha256(payload).digest()


def torch_saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def resaved(path: Path, change) -> None:
    """The checkpoint, loaded, changed and saved with a sum that is right."""
    path.write_bytes(signed(torch_saved(change(Checkpointer(path).load()))))


def changed(**entries):
    """Spoils a checkpoint by other entries; a function is given the old one."""
    return lambda path: resaved(path, lambda state: state | {
        name: value(state[name]) if callable(value) else value for name, value in entries.items()})


def without(name: str):
    return lambda path: resaved(path, lambda state: {
        key: value for key, value in state.items() if key != name})


def payload(value: bytes):
    return lambda path: path.write_bytes(signed(value))


def test_a_checkpoint_of_another_device_goes_on(call, trained, tmp_path):
    """Its generator's state means nothing here: one line says that the rest is another draw."""
    path = copy(trained, tmp_path)
    changed(device="cuda", generator=torch.zeros(16, dtype=torch.uint8))(path)
    result = call("ddpm", "train", *TINY, "--epochs", 3, "--out", tmp_path, "--resume")
    assert result.status == 0, result
    assert "comes from cuda" in result.out and "drawn anew" in result.out
    assert Checkpointer(path).load()["step"] == 6


BAD_STATES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]),
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "no sum": lambda path: path.write_bytes(path.read_bytes()[:-32]),
    "random": lambda path: path.write_bytes(random.Random(6).randbytes(9000)),
    "no generator": without("generator"),
    "network of another width": changed(network=UNet(16).state_dict()),
    "average of another width": changed(ema=UNet(16).state_dict()),
    "generator short": changed(generator=torch.zeros(5, dtype=torch.uint8)),
}


@pytest.mark.parametrize("spoil", BAD_STATES.values(), ids=BAD_STATES.keys())
def test_bad_checkpoint_is_refused(call, trained, tmp_path, spoil):
    """A checkpoint that is damaged or another's: exit status 1, one line, and it is left alone."""
    path = copy(trained, tmp_path)
    spoil(path)
    before = path.read_bytes()
    flags = [*TINY, "--epochs", 3, "--out", tmp_path, "--resume"]
    call("ddpm", "train", *flags).refuses(1, path, "delete it to start anew")
    assert path.read_bytes() == before and names(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize("way", ["pickle", "torch"])
def test_pickle_as_checkpoint_is_never_run(call, tmp_path, way):
    """A pickle in place of a checkpoint, with a sum that is right: what it would do is not done."""
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "checkpoint.pt"
    pickled(trap, way, path)
    path.write_bytes(signed(path.read_bytes()))
    flags = [*TINY, "--epochs", 2, "--out", tmp_path, "--resume"]
    call("ddpm", "train", *flags).refuses(1, path)
    assert names(tmp_path) == ["checkpoint.pt"]
