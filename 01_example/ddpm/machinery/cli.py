"""The command line that all scripts share: checks of the values, errors of one line."""
import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from machinery.signals import Stopped

TOO_LITTLE = ("too little memory: take a smaller --batch-size or --width; the last checkpoint, if "
              "there is one, is kept")


class Parser(argparse.ArgumentParser):
    """argparse with the script's docstring as help, defaults shown, errors of one line (exit 2)."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=_Formatter, allow_abbrev=False)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n" if speaks() else None)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and the default of each flag that has one and is no switch."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        bare = action.default is None or action.default is False    # but 0 is shown
        return action.help if bare else super()._get_help_string(action)


def count_flag(text: str) -> int:
    """A flag's value that counts something: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count of at least 1")
    return value


def width_flag(text: str) -> int:
    """A number of channels. Even, because the time embedding is half sines, half cosines; above 64
    a multiple of 32, so that the attention's heads divide it."""
    value = count_flag(text)
    if value % (32 if value > 64 else 2):
        raise argparse.ArgumentTypeError(f"{text} is not even, or above 64 no multiple of 32")
    return value


def seed_flag(text: str) -> int:
    """A flag's value that seeds a generator: an integer from 0 to 2^32 - 1 (all that it uses)."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**32 - 1}")
    return value


def positive_flag(text: str) -> float:
    """A flag's value that is a finite number above 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def fraction_flag(text: str) -> float:
    """A flag's value that is a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def speaks() -> bool:
    """Whether this process tells the user what went wrong: of those that torchrun started on this
    host the first, since they all read the same flags and files."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def run(main: Callable[[], None]) -> None:
    """Calls main; what a user can mend ends in one line on stderr and an exit status, no traceback.

    Exit statuses: 1 for a file (OSError), too little memory or a loss that is not finite, 130 for
    Ctrl-C, 143 for SIGTERM, 2 for bad usage (from Parser).
    """
    try:
        main()
    except ConnectionError as error:        # seen by each process that is left
        _end(1, str(error))
    except (OSError, FloatingPointError) as error:
        system = getattr(error, "strerror", None)
        name = getattr(error, "filename", None)
        _end(1, f"{system}: {name}" if system and name else system or str(error), speaks())
    except (MemoryError, torch.OutOfMemoryError):
        _end(1, TOO_LITTLE, speaks())
    except RuntimeError as error:           # of a CPU: PyTorch has no type for it
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        _end(1, TOO_LITTLE, speaks())
    except Stopped as stopped:
        _end(128 + stopped.number, str(stopped), speaks())
    except KeyboardInterrupt:
        _end(130, "interrupted", speaks())


def _end(status: int, line: str, aloud: bool = True) -> None:
    if aloud:
        print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    sys.exit(status)
