"""What the tests of the scripts share: to call them, to look at what they leave, to set traps."""
import csv
import io
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from machinery import cli

EXAMPLE = Path(__file__).resolve().parents[1] / "01_example"
TINY = ["--dataset", "digits", "--width", "8", "--timesteps", "12", "--batch-size", "600",
        "--device", "cpu", "--seed", "3"]


class Result(types.SimpleNamespace):
    """How a command ended: status, out, err; and err as the lines that a terminal would keep."""

    @property
    def lines(self) -> list[str]:
        shown = [line.rsplit("\r", 1)[-1].rstrip() for line in self.err.split("\n")]
        return [line for line in shown if line]             # a bar was wiped by a carriage return

    def refuses(self, status: int, *words: object) -> None:
        """Asserts one line on stderr, with these words in it, and the exit status."""
        assert (self.status, len(self.lines)) == (status, 1), self
        assert self.err.endswith("\n") and "Traceback" not in self.err
        assert all(str(word) in self.lines[0] for word in words), (words, self.lines)


@pytest.fixture
def call(script, capsys):
    """call("ddim", "sample", "--n", 5) is a script's main under cli.run, like its command line."""
    def call(folder: str, name: str, *argv: object) -> Result:
        capsys.readouterr()
        status = 0
        try:
            cli.run(lambda: script(folder, name).main([str(word) for word in argv]))
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return Result(status=status, out=captured.out, err=captured.err)
    return call


def command(folder: str, name: str, *argv: object, cwd: Path, **settings) -> Result:
    """The same as a process of its own, in another working directory."""
    done = subprocess.run([sys.executable, EXAMPLE / folder / f"{name}.py", *map(str, argv)],
                          cwd=cwd, capture_output=True, timeout=300, **settings)
    return Result(status=done.returncode, out=text(done.stdout), err=text(done.stderr))


def text(output: bytes) -> str:
    """A process's output, with the carriage returns of its bars, which text=True would lose."""
    return output.decode().replace("\r\n", "\n")


@pytest.fixture(scope="session")
def trained(script, tmp_path_factory) -> Path:
    """The folder of a training of two epochs, for the tests that only read it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    script("ddpm", "train").main([*TINY, "--epochs", "2", "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def weights(trained) -> Path:
    return trained / "model.safetensors"


def rows(out: Path) -> list[dict]:
    with open(out / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def losses(out: Path) -> list[str]:
    return [row["loss"] for row in rows(out)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Trap:
    """An object whose pickle, when it is loaded, makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickled(trap: Trap, way: str, path: Path) -> None:
    """The trap as a file, by pickle itself or as PyTorch wraps it; it does work."""
    buffer = io.BytesIO()
    if way == "pickle":
        pickle.dump(trap, buffer, protocol=2)
        pickle.loads(buffer.getvalue()).close()
    else:
        torch.save({"config": trap}, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)["config"].close()
    trap.path.unlink()                                      # raises where the trap does not work
    path.write_bytes(buffer.getvalue())
