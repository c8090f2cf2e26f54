"""An unfinished training as a file: written whole or not at all, read without pickle's powers."""
import hashlib
import io
import pickle
import time
from pathlib import Path

import torch

from machinery.files import sweep, write
from machinery.processes import barrier, print0, rank


class Checkpointer:
    """The file `path` of a training, and the file before it; saves now and then.

    A state is a dictionary of tensors, numbers and text with a "step" in it, which needs no pickle
    to be read. A SHA-256 sum of it is appended, so that no flipped bit goes unnoticed.
    """

    def __init__(self, path: Path, minutes: float = 1.0):
        self.path, self.minutes = path, minutes
        self.previous = path.with_suffix(f".previous{path.suffix}")     # the checkpoint before
        self.step = 0                                                   # saved so far; 0: none
        self.saved = time.monotonic()

    def found(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.path.exists() or self.previous.exists()

    def tidy(self) -> None:
        """After a kill: removes half-written files; if checkpoint.pt is missing, takes the one
        before."""
        if rank() == 0:
            sweep(self.path.parent)
            if self.previous.exists() and not self.path.exists():
                self.previous.rename(self.path)
                print0(f"{self.path} is not there: going on from the one before")
        barrier()                                                   # then the others may look

    def load(self) -> dict:
        """What save wrote, on the CPU. Raises: OSError if the file is anything else."""
        data = self.path.read_bytes()
        payload, checksum = data[:-32], data[-32:]
        try:
            if hashlib.sha256(payload).digest() != checksum:
                raise pickle.UnpicklingError("a wrong sum")
            state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise OSError(f"{self.path} is damaged, or no checkpoint of this train.py: "
                          f"{self.advice()}") from error
        self.step = state["step"]
        return state

    def save(self, state: dict) -> None:
        """Writes the state. Raises: FloatingPointError if a weight of it is not finite."""
        tensors = [*state["network"].values(), *state["ema"].values()]
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise FloatingPointError(f"a weight after step {state['step']} is not finite")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        write(self.path, content + hashlib.sha256(content).digest(), keep=self.previous)
        self.step, self.saved = state["step"], time.monotonic()

    def due(self) -> bool:
        """Whether the newest checkpoint is as old as it may be."""
        return time.monotonic() - self.saved > 60 * self.minutes

    def advice(self) -> str:
        """What to do about a checkpoint that is of no use."""
        if self.previous.exists():
            return (f"delete it, and --resume goes on from the one before, {self.previous.name}")
        return "delete it to start anew"

    def __str__(self) -> str:
        if not self.step:
            return "there is no checkpoint yet"
        return f"the last good checkpoint, {self.path}, is of step {self.step}"
