"""Several processes: they learn what one learns, draw what one draws, and end together."""
import copy
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from scripts import EXAMPLE, TINY, Result, losses, names, text

from data import digits, to_unit
from machinery import cli, drawing
from machinery import processes as group_module
from machinery.checkpoint import Checkpointer
from model import Config

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="PyTorch for Windows has no libuv, which torchrun needs")

TWO = [*TINY, "--batch-size", "256", "--epochs", "3"]       # 3 epochs of 7 steps
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
PATIENCE = 240      # seconds until what should have ended is taken to hang: a slow machine's start


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells each process, and the loopback device: no name is looked up."""
    return LOOPBACK | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(cwd: Path, folder: str, name: str, *argv: object, world: int = 2
          ) -> list[subprocess.Popen]:
    """The processes that torchrun would start, each within reach."""
    port, command = free_port(), [sys.executable, EXAMPLE / folder / f"{name}.py", *map(str, argv)]
    return [subprocess.Popen(command, cwd=cwd, env=os.environ | environment(rank, world, port),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank in range(world)]


def ends(processes: list[subprocess.Popen]) -> list[Result]:
    """How they ended. Raises: TimeoutExpired if one hangs."""
    try:
        outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Result(status=process.returncode, out=text(out), err=text(err))
            for process, (out, err) in zip(processes, outputs, strict=True)]


# --- learning -------------------------------------------------------------------------------------

def small(batch_size: int):
    """A training of the small digits in float32 that has not begun, and its batches in order."""
    from training import Training
    config = Config(seed=3, width=8, size=8, lr=1e-3, batch_size=batch_size, epochs=2)
    training = Training(config, digits()[0], torch.device("cpu"))
    example = torch.zeros(1, 1, 8, 8), torch.ones(1)
    training.model = group_module.ddp(training.network, *example)
    return training, to_unit(training.images).split(batch_size)


def flat(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def learn(out: Path) -> None:
    """Six steps; saves what each of them led to, as the process's number.pt."""
    training, batches = small(64)
    found, update = {"loss": [], "gradient": [], "weights": []}, training.optimizer.step

    def step() -> None:
        gradients = [p.grad.flatten() for p in training.network.parameters()]
        found["gradient"].append(torch.cat(gradients))
        update()
    training.optimizer.step = step
    for batch in batches[:6]:
        found["loss"].append(training.update(batch))
        found["weights"].append(flat(training.network))
    found["average"] = [flat(training.ema)]
    found["own rows"] = [group_module.shard(torch.arange(64))]
    torch.save({name: torch.stack(values) for name, values in found.items()},
               out / f"{group_module.rank()}.pt")


def learn_again(out: Path) -> None:
    """Three steps, and the last two of them by a training that was resumed after the first."""
    training, batches = small(63)
    training.update(batches[0])
    state = copy.deepcopy(training.state())
    for batch in batches[1:3]:
        training.update(batch)
    resumed, _ = small(63)
    resumed.network.load_state_dict(state["network"])
    resumed.optimizer.load_state_dict({**resumed.optimizer.state_dict(),
                                       "state": state["optimizer"]})
    resumed.generator.set_state(state["generator"])
    resumed.step = 1
    for batch in batches[1:3]:
        resumed.update(batch)
    torch.save(torch.stack([flat(training.network), flat(resumed.network)]),
               out / f"{group_module.rank()}.pt")


def as_process(rank: int, task: Callable, world: int, port: int, folder: str, out: Path) -> None:
    """The task as one of several processes."""
    os.environ.update(environment(rank, world, port))
    sys.path.append(folder)
    torch.set_num_threads(1)
    with group_module.group(torch.device("cpu"), cli.Parser("")):
        task(out)


def test_two_processes_learn_what_one_learns(tmp_path):
    """The averaged gradient is the whole batch's, and six steps lead to nearly the same weights."""
    (tmp_path / "one").mkdir()
    learn(tmp_path / "one")
    mp.spawn(as_process, (learn, 2, free_port(), str(EXAMPLE / "ddpm"), tmp_path), nprocs=2)
    one, first, second = (torch.load(path, weights_only=True) for path in (
        tmp_path / "one" / "0.pt", tmp_path / "0.pt", tmp_path / "1.pt"))
    assert first["own rows"].tolist() == [list(range(32))]
    assert second["own rows"].tolist() == [list(range(32, 64))]
    assert one["gradient"].norm(dim=1).max() < 1            # below the limit, which hides a factor
    for name in ("loss", "gradient", "weights", "average"):
        assert torch.equal(first[name], second[name]), name
        error = (first[name] - one[name]).norm() / one[name].norm()
        assert error < 5e-3, (name, error)              # Muon enlarges the last digits step by step
    for name in ("loss", "gradient"):                   # before the first step
        error = (first[name][0] - one[name][0]).norm() / one[name][0].norm()
        assert error < 1e-5, (name, error)


def test_three_processes_that_are_resumed_learn_the_same_to_the_bit(tmp_path):
    """Of three numbers the sum depends on the order, which a new start must not change."""
    mp.spawn(as_process, (learn_again, 3, free_port(), str(EXAMPLE / "ddpm"), tmp_path), nprocs=3)
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    for undisturbed, resumed in weights:
        assert torch.equal(undisturbed, resumed) and torch.equal(undisturbed, weights[0][0])


def test_a_batch_that_cannot_be_shared_is_refused(call, script, tmp_path, monkeypatch):
    """Three processes and batches of 256: exit status 2, one line; and only the first speaks."""
    monkeypatch.setattr(script("ddpm", "train"), "world_size", lambda: 3)
    flags = [*TWO, "--out", tmp_path]
    call("ddpm", "train", *flags).refuses(2, "--batch-size 256", "3 processes")
    monkeypatch.setenv("LOCAL_RANK", "1")
    result = call("ddpm", "train", *flags)
    assert (result.status, result.err, names(tmp_path)) == (2, "", [])


def test_processes_on_different_checkpoints_are_refused(call, script, trained, tmp_path,
                                                        monkeypatch):
    """Hosts that do not share --out would train apart: exit status 1, one line."""
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    monkeypatch.setattr(script("ddpm", "train"), "largest", lambda number: max(number, 7))
    call("ddpm", "train", *TINY, "--epochs", 3, "--out", tmp_path, "--resume").refuses(
        1, tmp_path, "share")


@pytest.mark.parametrize(("device", "there"), [("mps", 0), ("cuda", 1)])
def test_processes_without_a_gpu_each_are_refused(capsys, monkeypatch, device, there):
    """Two processes on one GPU, or on Apple's: exit status 2, one line."""
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(SystemExit, match="2"):
        with group_module.group(torch.device(device), cli.Parser("")):
            pass
    assert "2 processes here need" in capsys.readouterr().err


# --- ending ---------------------------------------------------------------------------------------

def test_two_processes_end_together_and_go_on(call, tmp_path):
    """A signal to one stops both, saved; one killed, the other ends; torchrun completes the run."""
    flags = [*TWO, "--save-every", "1e-9", "--out", "run"]
    path = tmp_path / "run" / "checkpoint.pt"

    processes = start(tmp_path, "ddpm", "train", *flags)
    processes[0].stdout.readline()                          # the first epoch's
    processes[1].send_signal(signal.SIGTERM)
    first, second = ends(processes)
    step = Checkpointer(path).load()["step"]
    first.refuses(143, "SIGTERM", f"step {step} is saved", "--resume")
    assert (second.status, second.lines, second.out) == (143, [], "") and 7 <= step < 21

    processes = start(tmp_path, "ddpm", "train", *flags, "--resume")
    processes[0].stdout.readline()                          # "going on", before the first step
    processes[1].kill()
    first, second = ends(processes)
    first.refuses(1, "process 0 of 2", "lost another", "--resume")
    assert second.status == -signal.SIGKILL
    assert Checkpointer(path).load()["step"] >= step

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr",
               "127.0.0.1", "--nproc-per-node", "2", EXAMPLE / "ddpm" / "train.py", *flags,
               "--resume"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=2 * PATIENCE,
                          env=os.environ | LOOPBACK | {"OMP_NUM_THREADS": "1"})
    out = text(done.stdout)
    assert done.returncode == 0, text(done.stderr)
    assert out.count("going on") == out.count("epoch 3 ") == out.count("done") == 1
    assert call("ddpm", "train", *TWO, "--out", tmp_path / "one").status == 0
    assert names(tmp_path / "run") == names(tmp_path / "one")
    assert [float(loss) for loss in losses(tmp_path / "run")] == pytest.approx(
        [float(loss) for loss in losses(tmp_path / "one")], abs=2e-3)


def test_other_errors_keep_their_traceback(monkeypatch):
    """Within a group only a lost process becomes one line: a mistake in the code stays visible."""
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **named: None)
    for message, kind in (("[gloo/pair.cc] Connection closed by peer", ConnectionError),
                          ("shape '[2]' is invalid for input of size 3", RuntimeError)):
        with pytest.raises(kind):
            with group_module.group(torch.device("cpu"), cli.Parser("")):
                raise RuntimeError(message)


# --- drawing --------------------------------------------------------------------------------------

def test_two_processes_draw_the_same_files(call, weights, tmp_path):
    """70 images, a batch for each of two processes: the film and the array are one process's."""
    flags = ["--weights", weights, "--n", 70, "--steps", 4, "--device", "cpu", "--seed", 5]
    first, second = ends(start(tmp_path, "ddim", "sample", *flags, "--out", "two.npy",
                               "--animate", "two.gif"))
    assert (first.status, first.lines, second.status, second.lines) == (0, [], 0, [])
    assert first.out.count("70 images") == 1 and second.out == ""
    call("ddim", "sample", *flags, "--out", tmp_path / "one.npy", "--animate", tmp_path / "one.gif")
    assert np.array_equal(np.load(tmp_path / "two.npy"), np.load(tmp_path / "one.npy"))
    assert (tmp_path / "two.gif").read_bytes() == (tmp_path / "one.gif").read_bytes()


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_work_is_shared_without_overlap(monkeypatch, world):
    """Each process draws its own batches only; together they are what one process draws."""
    drawn = []

    def states(numbers, generators):
        assert len(numbers) == len(generators)
        drawn.append([generator.initial_seed() for generator in generators])
        x_T = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in generators])
        yield from (x_T, x_T / 2, x_T / 4)

    def generate() -> tuple:
        return drawing.generate(states, n=90, seed=1, steps=2)
    images, frames = generate()
    every = [seed for batch in drawn for seed in batch]
    assert len(every) == len(set(every)) == 90

    parts, shares = [], []

    def gather(items: list) -> list:
        """What is so far: the last process sees all."""
        parts.extend(items)
        return parts
    monkeypatch.setattr(drawing, "gather", gather)
    monkeypatch.setattr(drawing, "world_size", lambda: world)
    for rank in range(world):
        drawn.clear()
        monkeypatch.setattr(drawing, "rank", lambda rank=rank: rank)
        together = generate()
        shares.append([seed for batch in drawn for seed in batch])
    assert sorted(sum(shares, [])) == sorted(every) and len(shares[0]) < 90
    assert torch.equal(together[0], images) and len(frames) == 3
    assert all(torch.equal(a, b) for a, b in zip(together[1], frames, strict=True))
