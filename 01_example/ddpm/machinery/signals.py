"""Ctrl-C and SIGTERM, which are obeyed where it is safe: between two steps."""
import signal
from types import FrameType

from machinery.processes import largest


class Stopped(Exception):
    """The end of a script that was asked to stop; its exit status is 128 + the signal's number."""

    def __init__(self, number: int, result: str = "nothing was lost"):
        super().__init__(f"stopped by {signal.Signals(number).name}: {result}")
        self.number = number


class StopSignals:
    """Within it Ctrl-C and SIGTERM are only noted. A signal that was ignored before remains so."""

    def __enter__(self) -> "StopSignals":
        self.heard = 0                      # the signal's number, or 0
        self.before = {number: signal.getsignal(number)
                       for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in self.before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self.hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self.heard = number

    def raise_if_asked(self) -> None:
        """Raises Stopped if this process was asked to stop."""
        if self.heard:
            raise Stopped(self.heard)

    def raise_if_any_asked(self) -> None:
        """Raises Stopped in all processes if one of them was asked to stop: each must call it."""
        self.heard = largest(self.heard)
        self.raise_if_asked()
